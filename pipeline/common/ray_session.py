"""Ray, started or joined for the time of one stage.

The workers' directory is an empty one of our own: Ray puts that directory at the head of their `sys.path`, and a user
whose folder holds a `model.py` or a package `shards` must not lend those to the job.
"""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from smile_pipe.shards.errors import UsageError

# Bounded, so that a laptop keeps its memory: the stages hold a few parcels and shards at a time.
_OBJECT_STORE_BYTES = 1 << 30
START_ATTEMPTS = 2
# What one scan gave back the next one takes: by default glibc returns such large blocks to the system, and a tenth of a
# render is spent on having their pages made anew. 32 MiB is the largest threshold that glibc takes.
WORKERS_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}


# Of this process, and no option of a stage: what is heard changes nothing of what is made.
_says_all = False


def say_all(on: bool) -> None:
    """From now on, let Ray and its workers be heard, or not."""
    global _says_all
    _says_all = on


@contextmanager
def ray_session(address: str) -> Iterator[None]:
    """Connect to Ray, or start it here (`local`), and let go of it at the end; a connection that exists is used.

    Raises:
        UsageError: there is no Ray at `address`.
    """
    # All read when Ray is imported. No telemetry, and no taking over of `print`.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    # A worker that dies is replaced, however often: what workers die of twice is given up (pipeline/render/limits.py).
    os.environ.setdefault("RAY_TASK_MAX_RETRIES", "-1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # `ray job submit --working-dir` gives the driver a directory; Ray refuses a second one unless it may replace it.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    import ray

    if ray.is_initialized():
        with _quiet():
            yield
        return
    # The path of a socket may have 107 bytes, and Ray puts names of its own behind ours.
    parent = tempfile.gettempdir() if len(tempfile.gettempdir()) < 30 else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="smile-pipe-", dir=parent))
    working_dir = folder / "workers"
    working_dir.mkdir()
    local = {"include_dashboard": False, "_temp_dir": str(folder / "ray"), "object_store_memory": _OBJECT_STORE_BYTES}
    # Quiet to the end: threads of a job that is stopped complain of a Ray that is no longer there.
    with _quiet():
        try:
            # Ray's own handler of SIGTERM prints a trace and aborts.
            handler = signal.getsignal(signal.SIGTERM)
            _connect(address, working_dir, local if address == "local" else {})
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
            yield
        finally:
            ray.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def _connect(address: str, working_dir: Path, options: dict[str, Any]) -> None:
    import ray
    from ray.exceptions import AuthenticationError

    # As Ray understands it: whoever submits a job to a cluster is told of it so.
    meant = os.environ.get("RAY_ADDRESS") or address if address == "auto" else address
    try:
        if ":" in meant and "://" not in meant:
            # Ray itself goes on trying for minutes.
            host, _, port = meant.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        for attempts_left in reversed(range(START_ATTEMPTS)):
            try:
                ray.init(
                    address=address,
                    runtime_env={"working_dir": str(working_dir), "env_vars": WORKERS_ENVIRONMENT},
                    log_to_driver=_says_all,
                    logging_level=logging.INFO if _says_all else logging.ERROR,
                    **options,
                )
                return
            except (OSError, ValueError, AuthenticationError):
                raise
            except Exception:
                # On a machine with much else to do, a start may take longer than Ray's patience of 30 s.
                ray.shutdown()
                if not attempts_left:
                    raise
    except (OSError, ValueError, AuthenticationError) as error:
        raise UsageError(f"{_what_is_wrong(error)}", field="address", value=address) from None


def _what_is_wrong(error: Exception) -> str:
    # Ray tells of a refused token in the text of the error that this one comes from.
    if "AuthenticationError" in "".join(traceback.format_exception(error)):
        return (
            "the Ray there wants a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to a file that has the "
            "token of its head"
        )
    return f"no Ray there; `ray start --head` starts one ({str(error).splitlines()[0]})"


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the notes of Ray and others below an error, unless all is heard: stages show progress themselves.

    A level on Ray's loggers would not last, since it sets them anew for each dataset.
    """
    before = logging.root.manager.disable
    logging.disable(logging.NOTSET if _says_all else logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
