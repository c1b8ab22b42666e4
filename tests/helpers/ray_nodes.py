"""A Ray cluster on this machine, started like a real one: `ray start` for each node, each with its own folder.

A node ends all of its processes. The cluster requires a token, so that other Rays on the machine cannot join it.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from helpers.processes import wait_until

RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
SMALL = ["--num-cpus=1", "--object-store-memory=100000000"]


class RayNodes:
    """A head and `num_workers` other nodes with one core each, which run until the block ends."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def __enter__(self) -> "RayNodes":
        with ExitStack() as stack:
            # The name is short, since Ray creates sockets in it.
            self.root = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
            stack.callback(shutil.rmtree, self.root, ignore_errors=True)
            token = self.root / "token"
            token.write_text(secrets.token_hex(32))
            self.environment = os.environ | {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token),
                # Stopped nodes have no work to finish.
                "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            }
            self.environment.pop("RAY_ADDRESS", None)
            port, client_port = free_ports(2)
            head = f"--head --port={port} --ray-client-server-port={client_port} --include-dashboard=false"
            self.address = f"127.0.0.1:{port}"
            self._processes: list[subprocess.Popen] = []
            self._start(stack, head.split(), self.folders[:1])
            self._start(stack, [f"--address={self.address}"], self.folders[1:])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def folders(self) -> list[Path]:
        """The folder of each node, the head first."""
        return [self.root / str(number) for number in range(1 + self.num_workers)]

    def has_run(self, name: str) -> list[bool]:
        """For each node, whether its logs show that a worker started a task or an actor of this name."""
        pattern = re.compile(rf"^:(task|actor)_name:{re.escape(name)}$", re.MULTILINE)
        logs = (folder.glob("session_latest/logs/worker-*.out") for folder in self.folders)
        return [any(pattern.search(log.read_text()) for log in of_node) for of_node in logs]

    def kill_one(self, with_task: str = "") -> None:
        """Kill a node by SIGKILL, but not the head; `with_task` selects nodes that have run a task of this name."""
        is_candidate = self.has_run(with_task) if with_task else [True] * len(self.folders)
        candidates = (
            n for n, process in enumerate(self._processes) if n and is_candidate[n] and process.poll() is None
        )
        killed = self._processes[next(candidates)]
        killed.kill()
        killed.wait()

    def _start(self, stack: ExitStack, options: list[str], folders: list[Path]) -> None:
        """Start a node for each folder, and wait until they are ready."""
        started = []
        for folder in folders:
            folder.mkdir()
            log = folder.with_suffix(".log")
            with log.open("w") as stream:
                command = [*RAY, *SMALL, f"--temp-dir={folder}", *options]
                process = subprocess.Popen(command, env=self.environment, stdout=stream, stderr=subprocess.STDOUT)
            stack.callback(_stop, process)
            self._processes.append(process)
            started.append((process, log))
        for process, log in started:
            wait_until(partial(_is_ready_or_dead, process, log), seconds=180)
            assert process.poll() is None, log.read_text()


def _is_ready_or_dead(process: subprocess.Popen, log: Path) -> bool:
    """Whether a node is ready, or its process has ended."""
    return "Ray runtime started" in log.read_text() or process.poll() is not None


def free_ports(num: int) -> list[int]:
    """Ports that no process listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(num)]
        return [each.getsockname()[1] for each in sockets]


def _stop(process: subprocess.Popen) -> None:
    """Stop a node and its processes; if it does not stop, kill it, and Ray's reaper ends its processes."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
