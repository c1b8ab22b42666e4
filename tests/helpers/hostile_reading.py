"""A process that reads and renders all samples of a data directory and reports what it opened and its memory.

    PYTHONPATH=tests python tests/helpers/hostile_reading.py DATA_DIR

Prints JSON: `failures` (reason by mesh), `surfaces` (of rendered samples, by mesh), `violations` (operations that
reading does not need), and the peak memory of the process in bytes: `baseline` after a few good scans and `peak` at
the end.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from helpers.paths import REPOSITORY
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.process import encode_unit, read_units, render_units
from smile_pipe.pipeline.render.units import MAX_FRAMES_PER_BATCH, WorkUnit

_OWN = (REPOSITORY, sys.prefix, sys.base_prefix, os.environ.get("NUMBA_CACHE_DIR") or REPOSITORY, "/proc/self")
_NEVER = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "urllib.")


def main(root: Path) -> dict[str, Any]:
    """Read and render everything; return the report."""
    settings = RenderConfig(data_dir=root, out=root / "out", size=16, channels=("rgb",), renderer="zbuffer").resolve()
    samples = find_samples(root, "folder").samples
    report: dict[str, Any] = {"failures": {}, "surfaces": {}, "violations": []}

    def read(some: Any) -> None:
        for unit in render_units(list(read_units(map(WorkUnit, some), root, settings)), settings):
            encoded = encode_unit(unit, settings)
            mesh = unit.work.sample.frames[0].mesh
            if encoded.failure is None:
                report["surfaces"][mesh] = encoded.statistics.surface
            else:
                report["failures"][mesh] = encoded.failure.reason

    read([sample for sample in samples if sample.key.startswith("good-")])  # imports and compiles what reading needs
    report["baseline"] = largest_size()
    allowed = tuple(f"{os.path.realpath(path)}/" for path in (root, *_OWN))

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.mkdir") and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith(allowed) and path != os.devnull:
                report["violations"].append(f"{event} {path}")
        elif event.startswith(_NEVER) or (event == "pickle.find_class" and arguments[0] in ("os", "posix")):
            report["violations"].append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(audit)
    for start in range(0, len(samples), MAX_FRAMES_PER_BATCH):
        read(samples[start : start + MAX_FRAMES_PER_BATCH])
    return report | {"peak": largest_size()}


def largest_size() -> int:
    """Peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the memory of the parent before the fork
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
