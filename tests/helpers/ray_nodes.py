"""A Ray cluster on this machine, made as an operator makes one: `ray start` for each node, each in a folder of its own.

A node ends all that it started, and a cluster asks for a token that no other Ray here has.
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
    """A head and `num_workers` other nodes with a core each, until the block ends, however it ends."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers

    def __enter__(self) -> "RayNodes":
        with ExitStack() as stack:
            # The name is short, since there are sockets in it.
            self.root = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
            stack.callback(shutil.rmtree, self.root, ignore_errors=True)
            token = self.root / "token"
            token.write_text(secrets.token_hex(32))
            self.environment = os.environ | {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token),
                # Nodes that are stopped have nothing to finish.
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
        """That of each node; the head's is the first."""
        return [self.root / str(number) for number in range(1 + self.num_workers)]

    def worked(self, name: str) -> list[bool]:
        """For each node, whether a worker there began a task or an actor of this name, by the logs in its folder."""
        said = re.compile(rf"^:(task|actor)_name:{re.escape(name)}$", re.MULTILINE)
        logs = (folder.glob("session_latest/logs/worker-*.out") for folder in self.folders)
        return [any(said.search(log.read_text()) for log in of_node) for of_node in logs]

    def kill_one(self, having: str = "") -> None:
        """SIGKILL to a node that is not the head; where a task or an actor of that name began, if one is given."""
        worked = self.worked(having) if having else [True] * len(self.folders)
        living = (n for n, process in enumerate(self._processes) if n and worked[n] and process.poll() is None)
        killed = self._processes[next(living)]
        killed.kill()
        killed.wait()

    def _start(self, stack: ExitStack, options: list[str], folders: list[Path]) -> None:
        """Begin a node for each folder, and wait until they are there."""
        load_run_config = []
        for folder in folders:
            folder.mkdir()
            log = folder.with_suffix(".log")
            with log.open("w") as stream:
                command = [*RAY, *SMALL, f"--temp-dir={folder}", *options]
                process = subprocess.Popen(command, env=self.environment, stdout=stream, stderr=subprocess.STDOUT)
            stack.callback(_stop, process)
            self._processes.append(process)
            load_run_config.append((process, log))
        for process, log in load_run_config:
            wait_until(partial(_is_decided, process, log), seconds=180)
            assert process.poll() is None, log.read_text()


def _is_decided(process: subprocess.Popen, log: Path) -> bool:
    """Whether a node is there, or will not be."""
    return "Ray runtime started" in log.read_text() or process.poll() is not None


def free_ports(num: int) -> list[int]:
    """Ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(num)]
        return [each.getsockname()[1] for each in sockets]


def _stop(process: subprocess.Popen) -> None:
    """End a node and all that it started; where it does not, its reaper does, since it sees it die."""
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
