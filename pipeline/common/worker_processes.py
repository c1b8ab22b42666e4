"""A few processes of this machine that call functions: for work that is too small to be worth a start of Ray.

A process that dies is replaced and its call is repeated, so that a death concerns this call only. The processes end
when the block of the `with` statement ends, also if the process of the command is killed: each of them watches its
standard input, which the system closes then.

They are started by hand, since those of `multiprocessing` import the main module of the program: a script that calls
`smile_pipe.render` without a guard would run once more in each process. A pool of `concurrent.futures` ends with the
first process that dies.
"""

import os
import pickle
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from smile_pipe.pipeline.common import ray_session

Item = TypeVar("Item")
Result = TypeVar("Result")

ATTEMPTS = 3
"""How often a call is tried whose process dies."""
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# Calls that wait for a process, or whose results wait for the caller, by process.
_AHEAD = 2


def available_cores() -> int:
    """Number of cores that the system gives this process: a container or a scheduler may give fewer than there are."""
    # macOS does not have this function.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    # Of a container of Linux (cgroups v2): microseconds of all cores in each period, or "max".
    with suppress(OSError, ValueError):
        quota, period = map(int, _CPU_QUOTA.read_text().split())
        cores = min(cores, max(quota // period, 1))
    return cores


class ProcessDiedError(RuntimeError):
    """A process died in each attempt of a call."""


class WorkerProcesses:
    """Processes that call functions, used as a context manager.

    Functions, arguments and results are pickled. What the processes print is hidden unless the command is verbose.
    Their working directory is an empty folder, which they share and which is removed at the end.

    Attributes:
        count: number of processes.
        num_threads: threads of each process for linear algebra, unless the environment sets them.
    """

    def __init__(self, count: int, num_threads: int = 1) -> None:
        self.count, self.num_threads = count, num_threads
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._alive: set[subprocess.Popen[bytes]] = set()
        self._lock, self._is_closed = threading.Lock(), False
        # Each thread waits for a call of one process.
        self._threads = ThreadPoolExecutor(count)

    def __enter__(self) -> "WorkerProcesses":
        self._folder = tempfile.TemporaryDirectory(prefix="smile-pipe-", ignore_cleanup_errors=True)
        for _ in range(self.count):
            self._idle.put(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._is_closed = True
            for process in self._alive:
                process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._alive:
            process.communicate()
        self._folder.cleanup()

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], attempts: int = ATTEMPTS
    ) -> Iterator[Result]:
        """Call a function with each item, a few items ahead, and yield the results in order.

        Raises:
            ProcessDiedError: a process died in each attempt of a call.
            Exception: what the function raises.
        """
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(self._threads.submit(self._call, function, item, attempts))
            if len(pending) > _AHEAD * self.count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _call(self, function: Callable[[Item], Result], item: Item, attempts: int) -> Result:
        for _ in range(attempts):
            process = self._idle.get()
            assert process.stdin is not None and process.stdout is not None
            try:
                pickle.dump((function, item), process.stdin)
                process.stdin.flush()
                is_result, value = pickle.load(process.stdout)
            except (OSError, EOFError, pickle.UnpicklingError):
                process.kill()
                process.wait()
                process = self._start(instead_of=process)
                continue
            finally:
                self._idle.put(process)
            if is_result:
                return value
            raise value
        raise ProcessDiedError(f"a process died in each of {attempts} attempts; the same command continues")

    def _start(self, instead_of: subprocess.Popen[bytes] | None = None) -> subprocess.Popen[bytes]:
        environment = {"OMP_NUM_THREADS": str(self.num_threads), **os.environ, **ray_session.WORKERS_ENVIRONMENT}
        with self._lock:
            if self._is_closed:
                raise ProcessDiedError("the processes are stopped")
            process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                cwd=self._folder.name,
                # Files that a process leaves are removed at the end.
                env=environment | {"TMPDIR": self._folder.name},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if ray_session.is_verbose() else subprocess.DEVNULL,
                # Ctrl-C in a terminal is for the command, which stops its processes.
                start_new_session=True,
            )
            self._alive.add(process)
            if instead_of is not None:
                self._alive.remove(instead_of)
            return process


def _read_calls(source: IO[bytes], calls: "queue.SimpleQueue[Any]") -> None:
    try:
        while True:
            calls.put(pickle.load(source))
    except EOFError:
        # The command was killed. Nobody waits for the current call, which may take long.
        with suppress(FileNotFoundError):
            shutil.rmtree(os.getcwd(), ignore_errors=True)
        os._exit(0)
    except Exception:
        traceback.print_exc()
        os._exit(1)


def _picklable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def main() -> None:
    """Answer calls from standard input on standard output; what functions print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read_calls, args=(sys.stdin.buffer, calls), daemon=True).start()
    while True:
        function, item = calls.get()
        try:
            answer = True, function(item)
        except Exception as error:
            answer = False, _picklable(error)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    main()
