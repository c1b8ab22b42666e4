"""Ray, started or joined for the time of one stage.

The workers' directory is an empty one of our own: Ray puts that directory at the head of their `sys.path`, and a user
whose folder holds a `model.py` or a package `shards` must not lend those to the job.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.errors import UsageError

# Half of this is what a laptop's shared memory grants without spilling to a slower place.
_OBJECT_STORE_BYTES = 1 << 30


@contextmanager
def ray_session(address: str, *, verbose: bool = False) -> Iterator[None]:
    """Connect to Ray, or start it here (`local`), and let go of it at the end; a connection that exists is used.

    Raises:
        UsageError: there is no Ray at `address`.
    """
    # These are read when Ray is imported: no telemetry, no bars and banners of its own.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="smile-pipe-"))
    working_dir = folder / "workers"
    working_dir.mkdir()
    quiet = {} if verbose else {"log_to_driver": False, "logging_level": logging.ERROR}
    if not verbose:
        _silence()
    local = {"include_dashboard": False, "_temp_dir": str(folder / "ray"), "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=address,
            runtime_env={"working_dir": str(working_dir)},
            configure_logging=verbose,
            **quiet,
            **(local if address == "local" else {}),
        )
        yield
    except ConnectionError as error:
        raise UsageError(f"--address {address}: no Ray there; `ray start --head` starts one ({error})") from None
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _silence() -> None:
    """Ray's own notes on starting, progress and finishing; errors still show."""

    for name in ("ray", "ray.data", "ray.train", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)
