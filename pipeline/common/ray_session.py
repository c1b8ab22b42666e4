"""A connection to Ray, started or joined for the duration of one stage.

Workers run in an empty working directory. Ray puts it first in their `sys.path`, so that no module in the user's folder
is imported by accident, and has one copy per node, in which the render stage keeps its notes of that node.
"""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from smile_pipe.pipeline.common.threads import THREADS_ENVIRONMENT
from smile_pipe.pipeline.common.writable_cache import can_write
from smile_pipe.shards.errors import UsageError

# Small enough for a laptop: the stages hold only a few batches of work and shards at a time.
_OBJECT_STORE_BYTES = 1 << 30
START_ATTEMPTS = 2
WORKERS_ENVIRONMENT = {
    # Keeps freed memory for the next scan: by default glibc returns such large blocks to the system, and mapping their
    # pages again takes a tenth of the time of a render. 32 MiB is the largest threshold that glibc accepts.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    **THREADS_ENVIRONMENT,
}


# State of this process and not an option of a stage: the log level does not change any result.
_is_verbose = False


def set_verbose(is_verbose: bool) -> None:
    """Show or hide the logs of Ray and of all worker processes from now on."""
    global _is_verbose
    _is_verbose = is_verbose


def is_verbose() -> bool:
    """Whether the output of worker processes is shown."""
    return _is_verbose


def is_connected() -> bool:
    """Whether this process is connected to Ray, which is not imported for this."""
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


@contextmanager
def ray_session(address: str) -> Iterator[None]:
    """Connect to Ray, or start it on this machine, and disconnect at the end. An existing connection is used and kept.

    Args:
        address: `local` to start Ray; `auto` or HOST:PORT to join a running cluster.

    Raises:
        UsageError: There is no Ray cluster at `address`.
    """
    # Ray reads all of these on import. No telemetry, and no patch of `print`.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # `ray job submit --working-dir` gives the driver a directory; Ray refuses a second one unless it may replace it.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    import ray

    if ray.is_initialized():
        with _quiet():
            yield
        return
    # The path of a socket has at most 107 bytes, and Ray appends its own names to this folder.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 30 else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="smile-pipe-", dir=parent))
    working_dir = folder / "workers"
    working_dir.mkdir()
    local = {"include_dashboard": False, "_temp_dir": str(folder / "ray"), "object_store_memory": _OBJECT_STORE_BYTES}
    # Until the end: threads of a stopped job log errors when Ray is shut down.
    with _quiet(), _token(folder) if address == "local" else nullcontext():
        try:
            # Ray's own SIGTERM handler prints a trace and aborts.
            handler = signal.getsignal(signal.SIGTERM)
            _connect(address, working_dir, local if address == "local" else {})
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _token(folder: Path) -> Iterator[None]:
    """Give a cluster of this session a token, if Ray cannot keep one in HOME as it does by default."""
    names = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"}
    if names & os.environ.keys() or can_write(Path(os.path.expanduser("~/.ray"))):
        yield
        return
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path)
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN_PATH"]


def cluster_has_gpu(address: str) -> bool:
    """Whether the Ray cluster at `address`, or the one that is connected, has a GPU.

    Raises:
        UsageError: There is no Ray cluster at `address`.
    """
    with ray_session(address):
        import ray

        return ray.cluster_resources().get("GPU", 0) > 0


def _connect(address: str, working_dir: Path, options: dict[str, Any]) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    # Ray reads this variable, which is set for jobs submitted to a cluster.
    resolved = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    try:
        if ":" in resolved and "://" not in resolved:
            # Ray itself retries for minutes.
            host, _, port = resolved.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        for attempts_left in reversed(range(START_ATTEMPTS)):
            try:
                ray.init(
                    address=address,
                    runtime_env={"working_dir": str(working_dir), "env_vars": WORKERS_ENVIRONMENT},
                    log_to_driver=_is_verbose,
                    logging_level=logging.INFO if _is_verbose else logging.ERROR,
                    **options,
                )
                return
            except (OSError, ValueError, AuthenticationError):
                raise
            except Exception:
                # On a busy machine a start may take longer than Ray's timeout of 30 s.
                ray.shutdown()
                if not attempts_left:
                    raise
    except (OSError, ValueError, AuthenticationError) as error:
        raise UsageError(_describe_failure(error), field="address", value=address) from None


def _describe_failure(error: Exception) -> str:
    # A refused token appears only in the text of a chained error.
    if "AuthenticationError" in "".join(traceback.format_exception(error)):
        return (
            "the Ray cluster requires a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file with the "
            "token of the head node"
        )
    return f"no Ray cluster found: {str(error).splitlines()[0]}; start one with `ray start --head`"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide log records below ERROR unless verbose: stages show their own progress.

    A level set on Ray's loggers would not last, since Ray resets it for each dataset.
    """
    before = logging.root.manager.disable
    logging.disable(logging.NOTSET if _is_verbose else logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
