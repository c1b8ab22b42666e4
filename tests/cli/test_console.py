"""Output of commands: names are printed unchanged, and complete if the output is piped."""

import pytest
from rich.table import Table

from smile_pipe.cli.console import plain_console, print_error, print_line

NAMES = ["x[/b]", "out/[run]/report.html", "[bold]", "a :smile: face", "C:\\[1]"]
LONG = "/".join(["a-long-name"] * 20)


@pytest.fixture(autouse=True)
def _unset_width(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)


def table_of(name: str) -> Table:
    table = Table(name, title=name)
    table.add_row(name)
    return table


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_unchanged_in_lines_tables_and_errors(name, capsys):
    print_line(plain_console(), name)
    assert capsys.readouterr().out == f"{name}\n"
    plain_console().print(table_of(name))
    assert capsys.readouterr().out.count(name) == 3
    print_error("error", name)
    assert capsys.readouterr().err == f"error: {name}\n"


def test_long_paths_are_complete_in_a_pipe(capsys):
    print_line(plain_console(), f"views: {LONG}")
    assert capsys.readouterr().out == f"views: {LONG}\n"
    plain_console().print(table_of(LONG))
    assert capsys.readouterr().out.count(LONG) == 3


def test_tables_in_a_pipe_are_as_wide_as_their_contents(capsys):
    plain_console().print(table_of("scan"))
    assert max(map(len, capsys.readouterr().out.splitlines())) == len("| scan |")


def test_tables_fit_the_width_of_columns_and_lines_are_not_broken(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "40")
    plain_console().print(table_of(LONG))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40
    print_line(plain_console(), LONG)
    assert capsys.readouterr().out == f"{LONG}\n"


def test_console_on_stderr_prints_nothing_on_stdout(capsys):
    print_line(plain_console(stderr=True), "stopped")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "stopped\n")
