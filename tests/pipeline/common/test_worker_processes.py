"""Processes that call functions: real ones, which are killed, hang and outlive their command."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from helpers.processes import wait_until, workers
from smile_pipe.pipeline.common import worker_processes as module
from smile_pipe.pipeline.common.ray_session import WORKERS_ENVIRONMENT
from smile_pipe.pipeline.common.worker_processes import ProcessDiedError, WorkerProcesses, available_cores
from smile_pipe.shards.errors import UsageError

NAME = module.__name__


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerProcesses]:
    # The functions below are imported by the processes.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    with WorkerProcesses(2) as started:
        yield started


def double(number: int) -> int:
    return 2 * number


def slow_if_first(number: int) -> tuple[int, int]:
    time.sleep(0.5 if number == 0 else 0)
    return number, os.getpid()


def die(path: str) -> str:
    """Kill the process if `path` has lines, after removing one of them."""
    file = Path(path)
    if lines := file.read_text().splitlines():
        file.write_text("\n".join(lines[1:]))
        os.kill(os.getpid(), signal.SIGKILL)
    return file.name


def fail(message: str) -> None:
    raise UsageError(message, field="out", value=3)


class UnpicklableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def fail_unpicklably(message: str) -> None:
    raise UnpicklableError(message, "no pickle")


def hang(path: str) -> None:
    Path(path).touch()
    time.sleep(600)


def environment(_: object) -> tuple[dict[str, str], str, list[str]]:
    print("printed")
    return dict(os.environ), os.getcwd(), os.listdir()


def test_results_are_in_order_and_from_several_processes(processes):
    results = list(processes.map(slow_if_first, range(20)))
    assert [number for number, _ in results] == list(range(20))
    assert len({process for _, process in results}) == 2


def test_only_a_few_results_wait_in_memory(processes):
    taken = []
    results = processes.map(double, (taken.append(number) or number for number in range(100)))
    next(results)
    assert len(taken) <= 2 * module._AHEAD + 1


@pytest.mark.faults
def test_call_whose_process_dies_is_repeated_and_the_others_are_not_disturbed(processes, tmp_path):
    (tmp_path / "dies").write_text("once\ntwice")
    (tmp_path / "lives").touch()
    paths = [str(tmp_path / name) for name in ("lives", "dies", "lives")]
    assert list(processes.map(die, paths)) == ["lives", "dies", "lives"]
    assert list(processes.map(double, range(4))) == [0, 2, 4, 6]


@pytest.mark.faults
def test_call_whose_process_always_dies_is_an_error(processes, tmp_path):
    (tmp_path / "dies").write_text("x\n" * 10)
    with pytest.raises(ProcessDiedError, match="died in each of 3 attempts"):
        list(processes.map(die, [str(tmp_path / "dies")]))
    assert (tmp_path / "dies").read_text().count("x") == 7
    with pytest.raises(ProcessDiedError):
        list(processes.map(die, [str(tmp_path / "dies")], attempts=1))
    assert (tmp_path / "dies").read_text().count("x") == 6


def test_errors_of_the_function_are_raised(processes):
    with pytest.raises(UsageError, match=r"^out 3: wrong$"):
        list(processes.map(fail, ["wrong"]))
    with pytest.raises(RuntimeError, match=r"^UnpicklableError: broken and no pickle$"):
        list(processes.map(fail_unpicklably, ["broken"]))
    assert list(processes.map(double, [3])) == [6]


def test_processes_have_the_environment_of_workers_and_an_empty_folder(processes, capfd):
    ((variables, folder, files),) = processes.map(environment, [None])
    assert variables.items() >= WORKERS_ENVIRONMENT.items() and variables["TMPDIR"] == folder and files == []
    assert capfd.readouterr() == ("", "")
    processes.__exit__()
    assert not Path(folder).exists()


@pytest.mark.faults
def test_a_call_that_hangs_is_killed_at_the_end(processes, tmp_path):
    results = processes.map(hang, [str(tmp_path / "begun")])
    next_result = processes._threads.submit(next, results)
    wait_until((tmp_path / "begun").exists)
    processes.__exit__()
    assert workers(NAME) == []
    with pytest.raises(Exception, match="stopped"):
        next_result.result()


# A shell that runs the tests in the background lets its commands ignore SIGINT.
COMMAND = f"""
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from {NAME} import WorkerProcesses
from {Path(__file__).stem} import hang
with WorkerProcesses(2) as processes:
    list(processes.map(hang, sys.argv[1:]))
"""


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_their_command(number, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    (tmp_path / "command.py").write_text(COMMAND)
    files = [tmp_path / "first", tmp_path / "second"]
    with subprocess.Popen([sys.executable, tmp_path / "command.py", *files], stderr=subprocess.DEVNULL) as command:
        wait_until(lambda: all(file.exists() for file in files))
        children = psutil.Process(command.pid).children()
        assert len(children) == 2
        command.send_signal(number)
    assert command.returncode == -number
    wait_until(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children))
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 1), ("800000 100000", 8), ("max 100000", 64), ("", 64)])
def test_cores_are_those_of_the_container(quota, cores, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(module, "_CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert available_cores() == cores
    monkeypatch.setattr(module, "_CPU_QUOTA", tmp_path / "missing")
    assert available_cores() == 64


def test_unguarded_script_is_not_run_again_by_its_processes(tmp_path):
    (tmp_path / "script.py").write_text(f"""
import operator
from {NAME} import WorkerProcesses
print("runs")
with WorkerProcesses(2) as processes:
    print(*processes.map(operator.neg, range(3)))
""")
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout == "runs\n0 -1 -2\n"
