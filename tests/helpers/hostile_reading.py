"""A process that reads and renders all samples of a data directory, and tells what it opened and how large it became.

    PYTHONPATH=tests python tests/helpers/hostile_reading.py DATA_DIR

Prints JSON: `failures` (by mesh), `surfaces` (of what was rendered, by mesh), `strange` (what happened that reading has
no need of), and the largest size of the process in bytes, `baseline` after a few good scans and `peak` at the end.
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
    """Read everything."""
    settings = RenderConfig(data_dir=root, out=root / "out", size=16, channels=("rgb",), renderer="zbuffer").resolve()
    samples = find_samples(root, "folder").samples
    told: dict[str, Any] = {"failures": {}, "surfaces": {}, "strange": []}

    def read(some: Any) -> None:
        for unit in render_units(list(read_units(map(WorkUnit, some), root, settings)), settings):
            encoded = encode_unit(unit, settings)
            mesh = unit.work.sample.frames[0].mesh
            if encoded.failure is None:
                told["surfaces"][mesh] = encoded.statistics.surface
            else:
                told["failures"][mesh] = encoded.failure.reason

    read([sample for sample in samples if sample.key.startswith("good-")])  # imports and compiles what that takes
    told["baseline"] = largest_size()
    allowed = tuple(f"{os.path.realpath(path)}/" for path in (root, *_OWN))

    def watch(event: str, about: tuple[Any, ...]) -> None:
        if event in ("open", "os.mkdir") and isinstance(about[0], str | bytes):
            path = os.path.realpath(os.fsdecode(about[0]))
            if not path.startswith(allowed) and path != os.devnull:
                told["strange"].append(f"{event} {path}")
        elif event.startswith(_NEVER) or (event == "pickle.find_class" and about[0] in ("os", "posix")):
            told["strange"].append(f"{event} {about!r}"[:200])

    sys.addaudithook(watch)
    for start in range(0, len(samples), MAX_FRAMES_PER_BATCH):
        read(samples[start : start + MAX_FRAMES_PER_BATCH])
    return told | {"peak": largest_size()}


def largest_size() -> int:
    """The most memory that this process has held, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held before this process began
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
