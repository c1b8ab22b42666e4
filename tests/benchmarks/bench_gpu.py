"""All figures of a GPU: renderers, the whole path from files to samples, and training; in under four minutes.

    python tests/benchmarks/bench_gpu.py --json gpu.json

Parts, in the order in which they run; the modules `gpu_*.py` next to this file describe what they measure:

    agree        rgb, depth and normals of the renderers for GPUs against `zbuffer` on the CPU
    rasterise    both against PyTorch3D's rasteriser alone, and the kernels that take the time
    memory       peak of the device memory for each pixel, against the estimate that bounds a call
    whole_path   scans per second from files to the bytes of samples, and what limits them
    training     samples per second of ViT-B/16, and the share of the card's peak, against a plain open_clip step

Each part is a process of its own with a limit on its time, so that a part that fails, hangs or poisons its GPU costs no
other part. A part begins no row for which too little time is left. Each row is in the file as soon as it is measured.

Without a GPU, all parts run in a reduced form (kernels in Triton's interpreter), which shows that the benchmark works;
its rates then mean nothing. Ray is not needed.
"""

import argparse
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from gpu_rows import Rows, update_figures

# For `helpers`, which the parts use; the parts themselves are next to this file.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
SECONDS = 235.0
# Where files are in memory, and the room that the whole path needs there.
SHARED_MEMORY, NEEDED_BYTES = Path("/dev/shm"), 8 << 30


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        function: `module:function`; it gets `Rows`.
        seconds: its time; what a part does not use is for those after it.
    """

    function: str
    seconds: float


PARTS = {
    "agree": Part("gpu_rendering:agree", 20),
    "rasterise": Part("gpu_rendering:rasterise", 22),
    "memory": Part("gpu_rendering:memory", 8),
    "whole_path": Part("gpu_whole_path:whole_path", 75),
    "training": Part("gpu_training:training", 110),
}


def run_parts(parts: Mapping[str, Part], file: Path, seconds: float) -> None:
    """Run parts one after the other, each in a process of its own.

    Args:
        parts: parts by name.
        file: where the figures are written.
        seconds: time of all parts together; it is divided in proportion to the parts' own times.
    """
    scale = seconds / sum(part.seconds for part in parts.values())
    is_roomy = SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free >= NEEDED_BYTES
    deadline = time.time()
    for name, part in parts.items():
        deadline += scale * part.seconds
        began = time.time()
        # Removed here, because a part may be stopped.
        with tempfile.TemporaryDirectory(dir=SHARED_MEMORY if is_roomy else None) as folder:
            process = multiprocessing.get_context("spawn").Process(
                target=run_part, args=(part.function, file, name, deadline, folder)
            )
            process.start()
            try:
                process.join(max(deadline - time.time(), 0))
                if process.exitcode is None:
                    update_figures(file, name, {"error": f"stopped after {time.time() - began:.0f} s"})
                elif process.exitcode:
                    update_figures(file, name, {"error": f"ended with exit code {process.exitcode}"})
            finally:
                _stop(process)
        update_figures(file, name, {"seconds": time.time() - began})


def run_part(function: str, file: Path, name: str, deadline: float, folder: str) -> None:
    """Run a part in this process, which becomes the leader of the group of all processes that the part starts.

    Args:
        function: see `Part`.
        file: where the figures are written.
        name: name of the part.
        deadline: when its time is over, as by `time.time`.
        folder: for its temporary files.
    """
    os.setpgrp()
    tempfile.tempdir = folder
    rows = Rows(file, name, deadline)
    module, _, attribute = function.partition(":")
    try:
        getattr(importlib.import_module(module), attribute)(rows)
    except Exception:
        rows.add("error", traceback.format_exc())


def _stop(process: BaseProcess) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # It has no group yet if it is stopped right after its start.
    process.kill()
    process.join()


def _exit(number: int, frame: Any) -> None:
    # An exception, so that `finally` stops the processes of the part.
    sys.exit(128 + number)


def main() -> None:
    """Run the parts of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path, help="file for all figures, written after each row")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="time of all parts together")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _exit)
    with tempfile.TemporaryDirectory() as folder:
        file = given.json or Path(folder) / "figures.json"
        file.unlink(missing_ok=True)
        update_figures(file, "benchmark", {"date": datetime.now(UTC).isoformat(timespec="seconds")})
        run_parts({name: PARTS[name] for name in given.parts}, file, given.seconds)


if __name__ == "__main__":
    main()
