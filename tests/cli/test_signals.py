"""Signals that stop a command, also if the exception of the handler is lost."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from rich.console import Console
from typer.testing import CliRunner

from smile_pipe.cli import signals as module
from smile_pipe.cli.main import app
from smile_pipe.cli.progress import StageProgress


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    module.install_handlers()
    yield
    module._received.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


class SignalInDestructor:
    """Sends a signal from its destructor, where Python ignores exceptions."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)
        for _ in range(1000):
            pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_signal_with_lost_exception_stops_the_next_step(number):
    with StageProgress("render", Console(quiet=True)) as progress:
        progress.update(1, 3)
        SignalInDestructor(number)
        with pytest.raises(KeyboardInterrupt):
            progress.update(2, 3)
    assert module.ignore_further_signals() == number


def test_first_signal_decides_the_exit_code_and_later_ones_are_ignored():
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert module.ignore_further_signals() == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGINT)


def test_only_the_main_thread_is_interrupted():
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    done = []
    thread = threading.Thread(target=lambda: done.append(module.raise_if_stopped()))
    thread.start()
    thread.join()
    assert done == [None]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["render", "faces", "--out", "shards"], "stopped; run the same command to continue\n"),
        (["crossval", "--shards", "shards", "--out", "folds"], "stopped; run the same command to continue\n"),
        (
            ["train", "--shards", "shards", "--out", "run"],
            "stopped; run the same command with --resume to continue\n",
        ),
        (["synth", "faces"], "stopped\n"),
        (["evaluate", "run"], "stopped\n"),
        (["export", "run"], "stopped\n"),
        (["verify", "shards"], "stopped\n"),
    ],
)
def test_only_resumable_commands_print_how_to_continue(command, message, monkeypatch):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("smile_pipe.cli.options._build_config", stop)
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr) == (128 + signal.SIGTERM, message)


def test_without_a_signal_progress_continues():
    with StageProgress("render", Console(quiet=True)) as progress:
        progress.update(1, 3)
    assert module.ignore_further_signals() == signal.SIGINT
