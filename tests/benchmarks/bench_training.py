"""Rates of reading samples, of training, and of both, compared with a plain script (webdataset, DataLoader, Pillow).

    python tests/benchmarks/bench_training.py --cores 2
    python tests/benchmarks/bench_training.py --shards SHARDS --epochs 30 --json training.json

Creates shards with `smile-pipe synth` and `smile-pipe render` in a temporary folder, unless `--shards` names some with
rgb and normal images from the built-in rig of 3 views. For each channel it measures in turn, `--rounds` times:

    bare      tars read from front to back, images of the channel decoded by our decoder at full size, nothing else
    small     the same, but JPEGs of at least twice the size of the tower are decoded at a fraction of their size, as by
              our loader; PNGs as before
    cold      our loader without a cache, in the order of an epoch, with digests, resizing, collation
    warm      the same with all samples in its cache
    plain     plain_loader.py in its own process, loading only, without its first epoch, in which workers start
    run       a training of `--epochs` epochs: our loop in this process, and the whole of plain_loader.py

All use the same samples, cores, batch size, model and precision. Files are in the page cache. Each rate is that of the
fastest round, which other load affects least. The rate of the step is the rate of the run without the time that it
waited for batches.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from smile_pipe.model.towers import Towers
from smile_pipe.pipeline.data.dataset import Batch, DecodeSpec, FaceDataset
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.local_job import train_in_process
from smile_pipe.pipeline.train.stage import Job, prepare
from smile_pipe.shards.images import decode_image
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample_table import shard_codes
from smile_pipe.shards.sampler import Sampler

ARCH = "smile-nano"
PLAIN = Path(__file__).with_name("plain_loader.py")


@dataclass(frozen=True)
class Rate:
    """Samples a second of a variant; of a run also those of its steps, and the part of its time that it waited."""

    whole: float
    step: float = 0.0
    waited: float = 0.0

    @classmethod
    def of_run(cls, num_samples: int, seconds: float, waited: float) -> "Rate":
        return cls(num_samples / seconds, num_samples / (seconds - waited), waited / seconds)


@dataclass(frozen=True)
class Benchmark:
    """One shard set and channel, and what all variants have in common."""

    shards: ShardSet
    channel: str
    size: int
    batch_size: int
    epochs: int
    cores: int
    precision: str

    def variants(self) -> dict[str, Callable[[], Rate]]:
        """What is measured, by name."""
        bare = {"bare": self.bare, "small": self.small}
        loaders = {"cold": self.cold, "warm": self.warm, "plain": self.plain}
        return bare | loaders | {"run": self.run, "plain run": self.plain_run}

    def bare(self, min_side: int = 0) -> Rate:
        """Read and decode, each core a shard at a time."""
        began = time.perf_counter()
        with ThreadPoolExecutor(self.cores) as pool:
            names = sorted({row.shard for row in self.shards.rows})
            decoded = sum(pool.map(lambda name: self._decode_shard(name, min_side), names))
        assert decoded == len(self.shards.rows) * len(self.shards.manifest.views)
        return Rate(len(self.shards.rows) / (time.perf_counter() - began))

    def small(self) -> Rate:
        """Read and decode no larger than the tower needs."""
        return self.bare(self.size)

    def _decode_shard(self, name: str, min_side: int) -> int:
        num_images, part = 0, f".{self.channel}."
        with tarfile.open(f"{self.shards.root}/shards/{name}", "r:") as tar:
            for member in tar:
                if part in member.name:
                    file = tar.extractfile(member)
                    assert file is not None
                    decode_image(self.channel, file.read(), min_side)
                    num_images += 1
        return num_images

    def cold(self) -> Rate:
        """Our loader, which remembers nothing."""
        return self._load(self._reader(0))

    def warm(self) -> Rate:
        """Our loader in a later epoch."""
        reader = self._reader(1 << 40)
        self._load(reader)
        return self._load(reader)

    def _reader(self, cache_bytes: int) -> FaceDataset:
        return FaceDataset(self.shards, DecodeSpec((self.channel,), self.size), cache_bytes)

    def _load(self, reader: FaceDataset) -> Rate:
        rows = self.shards.rows
        sampler = Sampler(shard_codes(rows), self.batch_size, seed=0)
        groups = ([rows[number] for number in numbers] for numbers in sampler.batches(epoch=0))
        began = time.perf_counter()
        seen = sum(len(batch.keys) for batch in reader.batches(groups))
        assert seen == len(rows)
        return Rate(seen / (time.perf_counter() - began))

    def plain(self) -> Rate:
        """The plain script's loader, once its workers are there."""
        epochs = self._plain("--epochs", "3", "--no-step")["epochs"]
        return Rate(max(samples / seconds for samples, seconds in epochs[1:]))

    def run(self) -> Rate:
        """Our training, on all samples."""
        with tempfile.TemporaryDirectory() as folder:
            job = replace(self._job(folder), subjects=self.shards.subjects)
            with _waiting() as waits:
                began = time.perf_counter()
                train_in_process(job)
                seconds = time.perf_counter() - began
        return Rate.of_run(self.epochs * len(self.shards.rows), seconds, sum(waits))

    def plain_run(self) -> Rate:
        """The plain script's training."""
        figures = self._plain("--epochs", str(self.epochs), "--precision", self._job("none").precision)
        return Rate.of_run(sum(samples for samples, _ in figures["epochs"]), figures["seconds"], figures["waited"])

    def _job(self, out: str) -> Job:
        config = TrainConfig(
            shards=self.shards.spec, out=out, arch=ARCH, channel=self.channel, epochs=self.epochs,
            batch_size=self.batch_size, precision=self.precision,
        )  # fmt: skip
        return prepare(config, in_process=True)[2]

    def _plain(self, *options: str) -> dict[str, Any]:
        given = ["--channel", self.channel, "--batch-size", str(self.batch_size), "--cores", str(self.cores), *options]
        command = [sys.executable, str(PLAIN), self.shards.spec, *given]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


@contextmanager
def _waiting() -> Iterator[list[float]]:
    """Seconds that each batch of our loader was waited for."""
    waits: list[float] = []
    batches = FaceDataset.batches

    def timed(reader: FaceDataset, *given: Any, **options: Any) -> Iterator[Batch]:
        coming = batches(reader, *given, **options)
        while True:
            began = time.perf_counter()
            batch = next(coming, None)
            waits.append(time.perf_counter() - began)
            if batch is None:
                return
            yield batch

    FaceDataset.batches = timed
    try:
        yield waits
    finally:
        FaceDataset.batches = batches


def _make_shards(folder: Path, num_subjects: int) -> str:
    """Shards of faces that are made, 25 samples a subject and 25 a shard."""
    commands = [
        ["synth", f"{folder}/data", "--subjects", str(num_subjects), "--texture-size", "256"],
        ["render", f"{folder}/data", "--out", f"{folder}/shards", "--channels", "rgb,normal"],
    ]
    commands[1] += ["--samples-per-shard", "25"]
    for command in commands:
        subprocess.run([Path(sys.executable).with_name("smile-pipe"), *command], check=True, stdout=sys.stderr)
    return f"{folder}/shards"


def _rows(found: dict[str, Rate]) -> list[str]:
    """Rows of the table for one channel: samples/s, of bare reading twice, of the plain script, waiting."""
    bare, small, plain, plain_run = (found[name] for name in ("bare", "small", "plain", "plain run"))
    loaders = {
        "bare reading and decoding": bare, "the same, decoded small": small, "loader, cold cache": found["cold"],
        "loader, warm cache": found["warm"], "plain script's loader": plain,
    }  # fmt: skip
    rows = [
        f"{name} | {rate.whole:,.0f} | {100 * rate.whole / bare.whole:.0f} % | {100 * rate.whole / small.whole:.0f} % "
        f"| {rate.whole / plain.whole:.1f} | -"
        for name, rate in loaders.items()
    ]
    for name, rate in (("", found["run"]), (", plain script", plain_run)):
        waited = f"{100 * rate.waited:.1f} %"
        rows.append(f"step{name} | {rate.step:,.0f} | - | - | {rate.step / plain_run.step:.1f} | -")
        rows.append(f"whole run{name} | {rate.whole:,.0f} | - | - | {rate.whole / plain_run.whole:.1f} | {waited}")
    return rows


def _measure(benchmark: Benchmark, rounds: int) -> dict[str, list[Rate]]:
    """All variants in turn, in each round."""
    benchmark.cold()  # compiled code is loaded, and files come into the page cache
    rates: dict[str, list[Rate]] = {name: [] for name in benchmark.variants()}
    for number in range(rounds):
        for name, measure in benchmark.variants().items():
            rates[name].append(measure())
            print(f"{benchmark.channel}, round {number + 1}, {name}: {rates[name][-1]}", file=sys.stderr, flush=True)
    return rates


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", help="shards to read; made where none are given")
    parser.add_argument("--subjects", type=int, default=16, help="subjects of the faces that are made, 25 samples each")
    parser.add_argument("--channels", nargs="+", choices=("rgb", "normal"), default=["rgb", "normal"])
    parser.add_argument("--epochs", type=int, default=10, help="epochs of a run")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--cores", type=int, default=2, help="the first so many of this machine are used")
    parser.add_argument("--json", type=Path, help="write all rates to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, and print a Markdown table."""
    given = _arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    torch.set_num_threads(given.cores)
    machine = f"{platform.machine()}, {given.cores} of {os.cpu_count()} cores, torch {torch.__version__}"
    figures: dict[str, Any] = {"machine": machine, "date": datetime.now(UTC).date().isoformat()}
    with tempfile.TemporaryDirectory() as folder:
        shards = ShardSet.open(given.shards or _make_shards(Path(folder), given.subjects))
        size = Towers(ARCH).image_size
        print(f"{machine}, {figures['date']}; {len(shards.rows)} samples, {given.epochs} epochs a run")
        print("| channel | | samples/s | of bare | of it small | times plain | waits for data |")
        print("|---|---|---|---|---|---|---|")
        for channel in given.channels:
            benchmark = Benchmark(shards, channel, size, given.batch_size, given.epochs, given.cores, given.precision)
            rates = _measure(benchmark, given.rounds)
            fastest = {name: max(each, key=lambda rate: rate.whole) for name, each in rates.items()}
            for row in _rows(fastest):
                print(f"| {channel} | {row} |", flush=True)
            figures[channel] = {name: [asdict(rate) for rate in each] for name, each in rates.items()}
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
