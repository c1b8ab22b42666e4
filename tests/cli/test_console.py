"""What commands print: names as they are, and whole where the output is piped."""

import pytest
from rich.table import Table

from smile_pipe.cli.console import plain_console, print_error, print_line

NAMES = ["x[/b]", "out/[run]/report.html", "[bold]", "a :smile: face", "C:\\[1]"]
LONG = "/".join(["a-long-name"] * 20)


@pytest.fixture(autouse=True)
def _no_width_is_given(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


def table_of(name: str) -> Table:
    table = Table(name, title=name)
    table.add_row(name)
    return table


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is_in_lines_and_tables_and_errors(name, capsys):
    print_line(plain_console(), name)
    assert capsys.readouterr().out == f"{name}\n"
    plain_console().print(table_of(name))
    assert capsys.readouterr().out.count(name) == 3
    print_error("error", name)
    assert capsys.readouterr().err == f"error: {name}\n"


def test_a_pipe_gets_long_paths_whole(capsys):
    print_line(plain_console(), f"views: {LONG}")
    assert capsys.readouterr().out == f"views: {LONG}\n"
    plain_console().print(table_of(LONG))
    assert capsys.readouterr().out.count(LONG) == 3


def test_a_pipe_gets_tables_no_wider_than_they_need_be(capsys):
    plain_console().print(table_of("scan"))
    assert max(map(len, capsys.readouterr().out.splitlines())) == len("| scan |")


def test_tables_fit_the_width_that_is_asked_for_and_lines_stay_lines(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    plain_console().print(table_of(LONG))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40
    print_line(plain_console(), LONG)
    assert capsys.readouterr().out == f"{LONG}\n"


def test_what_goes_to_stderr_leaves_stdout_alone(capsys):
    print_line(plain_console(stderr=True), "stopped")
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "stopped\n")
