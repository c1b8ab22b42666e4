"""Time that `render` needs to find that nothing is to be done, for a large dataset.

    python tests/benchmarks/bench_plan.py FOLDER --samples 100000

Creates in FOLDER a data directory of empty files with names of BU-3DFE (mesh, texture, landmarks) and the output of a
render of it, then plans in a new process. Prints seconds of the clock and of the processor, peak memory, and whether
Ray was imported.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints, read_source
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.pipeline.render.units import select_inputs
from smile_pipe.shards.index import IndexRow, write_failures, write_index
from smile_pipe.shards.manifest import ShardEntry, ShardManifest, fingerprint

EXPRESSIONS = [("NE", 0), *((code, level) for code in ("AN", "DI", "FE", "HA", "SA", "SU") for level in range(1, 5))]
PER_SHARD = 256
PLAN = """
import resource, sys, time
start = time.perf_counter()
from pathlib import Path
from smile_pipe.pipeline.render.stage import plan
from smile_pipe.pipeline.render.config import RenderConfig
imported, busy = time.perf_counter(), time.process_time()
work = plan(RenderConfig(data_dir=Path(sys.argv[1]), out=Path(sys.argv[2])))
end, busy = time.perf_counter(), time.process_time() - busy
assert work.is_done and not work.touched, work.reasons
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
times = f"{end - imported:.1f} | {busy:.1f} | {imported - start:.1f}"
print(f"| {len(work.samples):,} | {times} | {peak:.0f} | {'ray' in sys.modules} |")
"""


def make_data(root: Path, num_samples: int) -> None:
    """Create empty files for `num_samples` scans. Names have room for 120,000 series of expressions."""
    for number in range(-(-num_samples // len(EXPRESSIONS))):
        group, index = divmod(number, 10_000)
        subject, ancestry = f"{'FM'[group % 2]}{index:04d}", ("WH", "AE", "LA", "BL", "AM", "IN")[group // 2]
        (root / subject).mkdir(parents=True, exist_ok=True)
        for code, level in EXPRESSIONS[: num_samples - number * len(EXPRESSIONS)]:
            stem = f"{root}/{subject}/{subject}_{code}{level:02d}{ancestry}"
            for name in (f"{stem}_F3D.wrl", f"{stem}_F3D.bnd", f"{stem}_F2D.bmp"):
                open(name, "w").close()


def make_output(data: Path, out: Path) -> None:
    """Write the output of a finished render, with empty shards."""
    config = RenderConfig(data_dir=data, out=out)
    settings, found = config.resolve(), find_samples(data, "auto")
    marks = SampleFingerprints.of(settings, found.layout)
    names = [f"{number:06d}.tar" for number in range(-(-len(found.samples) // PER_SHARD))]

    def rows() -> Iterator[IndexRow]:
        for number, source in enumerate(select_inputs(sample, settings) for sample in found.samples):
            files = tuple(read_source(data, path) for path in source.paths)
            images = marks.images(source, files)
            yield IndexRow(
                key=source.key, subject=source.subject, expression=source.expression, level=source.level, num_frames=1,
                frame_rate=0.0, layout=found.layout, labels=source.labels, shard=names[number // PER_SHARD],
                offset=0, bytes=1, digest=images, images=images, fingerprint=marks.whole(source, images, files),
                framed_by="bounds", surface="plain", sources=files,
            )  # fmt: skip

    (out / "shards").mkdir(parents=True)
    write_index(out / "index.parquet", rows())
    write_failures(out / "failures.parquet", [])
    for name in names:
        (out / "shards" / name).write_bytes(b"")
    entries = [ShardEntry(name=name, num_samples=1, bytes=0, sha256="", fingerprint="") for name in names]
    ShardManifest(
        fingerprint=fingerprint(), layout=found.layout, settings={}, images_fingerprint=settings.images_fingerprint,
        renderer=settings.renderer, views=("front",), channels=("rgb",), image_size=224, text_source="label",
        prompts={}, expressions=(), num_samples=len(found.samples), num_sequences=0, num_subjects=1, num_failures=0,
        shards=tuple(entries),
    ).write(RenderOutput(out).manifest_path)  # fmt: skip


def main() -> None:
    """Create missing data, plan, and print a row of a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the data; data of an earlier run is reused")
    parser.add_argument("--samples", type=int, default=100_000)
    arguments = parser.parse_args()
    data, out = arguments.folder / "data", arguments.folder / "out"
    if not data.exists():
        make_data(data, arguments.samples)
    if not out.exists():
        make_output(data, out)
    print(
        "| samples | plan, s | processor, s | imports, s | peak, MiB | Ray imported |\n|---|---|---|---|---|---|",
        flush=True,
    )
    subprocess.run([sys.executable, "-c", PLAN, str(data), str(out)], check=True)


if __name__ == "__main__":
    main()
