"""Time and memory of opening a large shard set for training, and of ordering an epoch; people in a joined batch.

    python tests/benchmarks/bench_open.py --samples 1000000 --folder /tmp/large

The set has an index, a manifest, and shards without content (sparse files of the right size), as opening reads only
tables and sizes. It is made on the first call. Memory is what the peak of the process grows by. People are counted for
3,628 of them with 25 samples each, in the order of the shards.
"""

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from smile_pipe.pipeline.data.integrity import open_shards
from smile_pipe.pipeline.data.selection import select_training_rows
from smile_pipe.shards.index import IndexRow, SourceFile, write_index
from smile_pipe.shards.manifest import ShardEntry, ShardManifest, fingerprint
from smile_pipe.shards.sampler import Sampler
from smile_pipe.shards.splits import split_subjects

PER_SHARD, PER_SUBJECT, SAMPLE_BYTES = 256, 25, 200_704
EXPRESSIONS = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")


def make_row(number: int) -> IndexRow:
    """One sample of a set that is sorted by subject."""
    digest = f"{number:032x}"
    subject, expression = f"S{number // PER_SUBJECT:06d}", EXPRESSIONS[number % 7]
    key = f"{subject}_{expression}{number % PER_SUBJECT:02d}WH"
    sources = tuple(SourceFile(f"{subject}/{key}{end}", 1000, 1_700_000_000, digest) for end in (".wrl", ".bmp"))
    return IndexRow(
        key=key, subject=subject, expression=expression, level=1 + number % 4, num_frames=1, frame_rate=0.0,
        layout="bu3dfe", labels={"sex": "FM"[number // PER_SUBJECT % 2], "ancestry": "WH"},
        shard=f"{number // PER_SHARD:06d}.tar", offset=number % PER_SHARD * SAMPLE_BYTES, bytes=SAMPLE_BYTES,
        digest=digest, fingerprint=digest, framed_by="landmarks", surface="texture", images=digest, sources=sources,
    )  # fmt: skip


def make_set(root: Path, num_samples: int) -> None:
    """Write the index, the manifest and empty shards."""
    (root / "shards").mkdir(parents=True)
    write_index(root / "index.parquet", map(make_row, range(num_samples)))
    entries = []
    for first in range(0, num_samples, PER_SHARD):
        numbers = range(first, min(first + PER_SHARD, num_samples))
        entry = ShardEntry(
            name=f"{first // PER_SHARD:06d}.tar", num_samples=len(numbers), bytes=len(numbers) * SAMPLE_BYTES,
            sha256="", fingerprint=fingerprint([f"{number:032x}" for number in numbers]),
        )  # fmt: skip
        with open(root / "shards" / entry.name, "wb") as file:
            file.truncate(entry.bytes)
        entries.append(entry)
    ShardManifest(
        fingerprint="", layout="bu3dfe", settings={}, images_fingerprint="", renderer="zbuffer", views=("front",),
        channels=("rgb",), image_size=224, text_source="label", prompts={}, expressions=EXPRESSIONS,
        num_samples=num_samples, num_sequences=0, num_subjects=-(-num_samples // PER_SUBJECT), num_failures=0,
        shards=tuple(entries),
    ).write(root / "manifest.json")  # fmt: skip


def peak_mb() -> float:
    """Largest memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def print_people() -> None:
    """Print how many people the batches of all workers together contain, by batch size and partitions."""
    numbers = np.arange(3628 * PER_SUBJECT)
    shards, people = numbers // PER_SHARD, numbers // PER_SUBJECT
    drawn = np.random.default_rng(0).permutation(people)
    for joined, partitions in ((64, 1), (512, 8), (4096, 1), (4096, 8), (4096, 64)):
        batches = Sampler(shards, joined, 0, partitions=partitions).batches(0)
        counts = [np.unique(people[batch]).size for batch in batches]
        random = [np.unique(drawn[at : at + joined]).size for at in range(0, len(drawn) - joined, joined)]
        print(
            f"{joined:5} samples, {partitions:2} partitions: {np.mean(counts):.0f} people ({min(counts)} at least), "
            f"{np.mean(random):.0f} if drawn from all"
        )


def main() -> None:
    """Create the set if it is missing, open it, select training samples, and order an epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    root = options.folder / str(options.samples)
    if not (root / "manifest.json").exists():
        make_set(root, options.samples)
        print(f"made {root}; call again to measure")
        return
    before, clocks = peak_mb(), [(time.perf_counter(), time.process_time())]

    def lap(what: str) -> None:
        clocks.append((time.perf_counter(), time.process_time()))
        wall, cpu = (now - then for now, then in zip(clocks[-1], clocks[-2], strict=True))
        print(f"{what:28} {wall:7.2f} s, {cpu:6.2f} s of CPU; peak of memory +{peak_mb() - before:.0f} MB")

    shards = open_shards(str(root))
    lap(f"open {len(shards.rows)} samples")
    rows = select_training_rows(shards, split_subjects("kfold:10:0", shards.subjects).train, None)
    lap("split by subject")
    batches = map(rows.at, Sampler(rows.codes("shard"), 64, 0).batches(0))
    next(batches)
    lap("order of an epoch")
    num_rows = sum(len(next(batches)) for _ in range(100))
    lap(f"rows of {num_rows} samples")
    print_people()
    print(f"columns in memory: {shards.rows.columns.nbytes / 1e6:.0f} MB; {np.unique(rows.codes('shard')).size} shards")


if __name__ == "__main__":
    main()
