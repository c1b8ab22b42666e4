"""Signals that stop a command, also where their own exception is lost."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console
from typer.testing import CliRunner

from smile_pipe.cli import signals as stopping
from smile_pipe.cli.main import app
from smile_pipe.cli.progress import StageProgress


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stopping.listen()
    yield
    stopping._asked.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


class Destructor:
    """Python passes over what is raised in one."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(1000):
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_stops_at_the_next_step(number):
    with StageProgress("render", Console(quiet=True)) as progress:
        progress.update(1, 3)
        Destructor(number)
        with pytest.raises(KeyboardInterrupt):
            progress.update(2, 3)
    assert stopping.ignore_further_signals() == number


def test_the_first_signal_gives_the_exit_code_and_later_ones_are_ignored():
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopping.ignore_further_signals() == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_are_left_alone():
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    done = []
    thread = threading.Thread(target=lambda: done.append(stopping.stop_if_asked()))
    thread.start()
    thread.join()
    assert done == [None]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["render", "faces", "--out", "shards"], "stopped; the same command goes on from here\n"),
        (["crossval", "--shards", "shards", "--out", "folds"], "stopped; the same command goes on from here\n"),
        (
            ["train", "--shards", "shards", "--out", "run"],
            "stopped; the same command with --resume goes on from here\n",
        ),
        (["synth", "faces"], "stopped\n"),
        (["evaluate", "run"], "stopped\n"),
        (["export", "run"], "stopped\n"),
        (["verify", "shards"], "stopped\n"),
    ],
)
def test_only_of_a_command_that_goes_on_it_is_said(command, said, monkeypatch):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("smile_pipe.cli.options._resolve", stop)
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr) == (128 + signal.SIGTERM, said)


def test_unasked_nothing_happens():
    with StageProgress("render", Console(quiet=True)) as progress:
        progress.update(1, 3)
    assert stopping.ignore_further_signals() == signal.SIGINT
