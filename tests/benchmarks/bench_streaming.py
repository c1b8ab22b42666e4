"""Rates of reading shards from a local disk and from an object store at a distance, by smile-pipe and by others.

    PYTHONPATH=tests python tests/benchmarks/bench_streaming.py 'SHARDS/shards/00000{0..4}.tar' --channel normal

The object store is a local S3 server (moto) behind a latency and a bandwidth that all connections share (`--latency`,
`--bandwidth`, several of each); it runs in a process of its own. Measured in turn, `--rounds` times:

    download    whole shards one after another with fsspec, nothing decoded: what the link allows
    ranges      `FaceDataset.batches` without a cache folder: one request per sample
    streaming   `FaceDataset.batches` with a cache folder that holds all shards
    bounded     the same with a cache folder that holds half of the shards
    torch       `open_shards(...).torch()` with such a cache folder and a `DataLoader` with one worker per core
    webdataset  `webdataset.WebDataset` and a `DataLoader` with one worker per core: shards in shuffled order, a shuffle
                buffer, members of other channels left out, shards opened with fsspec
    wds cached  the same with the cache folder of webdataset in place of fsspec's files

All but the first decode the images of one channel with the decoder of smile-pipe, resize them to the size of the tower
and collate batches of equal size, so that only the way of reading differs. smile-pipe also checks the digest of each
sample and validates its record. A cold epoch starts with an empty cache folder, a cached one follows it.

Each rate is that of the fastest round, which other load affects least. MB/s counts the bytes that the server sent, or
the size of the samples on a disk, where the files are in the page cache. CPU is of this process and its workers in the
cold epoch of the fastest round. The server takes part of the same cores; its CPU time is in a column of its own.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import torch
import webdataset
from fsspec.implementations.local import LocalFileSystem
from torch.utils.data import DataLoader

from helpers.slow_server import Counts, SlowStore, slow_store
from smile_pipe import open_shards
from smile_pipe.pipeline.data.dataset import DecodeSpec, DiskCache, FaceDataset
from smile_pipe.pipeline.data.resize import fit_image
from smile_pipe.shards.images import as_rgb, decode_image, extension
from smile_pipe.shards.manifest import INDEX_NAME, MANIFEST_NAME
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample_table import shard_codes
from smile_pipe.shards.sampler import Sampler

SHUFFLE_BUFFER = 200


@dataclass(frozen=True)
class Epoch:
    """What an epoch took: samples per second, MB per second, requests, CPU seconds of the reader and of the server."""

    rate: float
    megabytes: float
    num_requests: int
    cpu: float
    server_cpu: float


@dataclass(frozen=True)
class Reader:
    """What all ways of reading have in common."""

    shards: ShardSet
    channel: str
    size: int
    batch_size: int
    cores: int

    def variants(self) -> dict[str, Callable[[str], Callable[[], int]]]:
        """By name, what takes an empty folder and returns a function that reads one epoch and counts its samples."""
        return {
            "download": lambda folder: self._download,
            "ranges": lambda folder: self._with_cache(None, 0),
            "streaming": lambda folder: self._with_cache(folder, 1 << 40),
            "bounded": lambda folder: self._with_cache(folder, self.num_bytes // 2),
            "torch": lambda folder: partial(self._torch, folder),
            "webdataset": lambda folder: partial(self._webdataset, None),
            "wds cached": lambda folder: partial(self._webdataset, folder),
        }

    @property
    def num_bytes(self) -> int:
        return sum(entry.bytes for entry in self.shards.manifest.shards if entry.name in self._names())

    @property
    def is_local(self) -> bool:
        return isinstance(self.shards.filesystem, LocalFileSystem)

    def _names(self) -> list[str]:
        return self.shards.rows.distinct("shard")

    def _urls(self) -> list[str]:
        return [("" if self.is_local else "s3://") + self.shards.shard_path(name) for name in self._names()]

    def _download(self) -> int:
        for name in self._names():
            self.shards.filesystem.cat_file(self.shards.shard_path(name))
        return len(self.shards.rows)

    def _with_cache(self, folder: str | None, max_bytes: int) -> Callable[[], int]:
        cache = DiskCache(None if self.is_local or folder is None else Path(folder), max_bytes)
        dataset = FaceDataset(self.shards, DecodeSpec((self.channel,), self.size), cache_bytes=0, disk_cache=cache)
        return partial(self._read, dataset)

    def _read(self, dataset: FaceDataset) -> int:
        rows = self.shards.rows
        sampler = Sampler(shard_codes(rows), self.batch_size, seed=0)
        groups = (rows.at(numbers) for numbers in sampler.batches(epoch=0))
        return sum(len(batch.keys) for batch in dataset.batches(groups))

    def _torch(self, folder: str) -> int:
        shards = open_shards(self.shards.spec, cache_dir=None if self.is_local else folder, cache_gb=1000)
        fit = partial(_fit, views=self.shards.manifest.views, channel=self.channel, size=self.size)
        stream = shards.torch([self.channel], batch_size=self.batch_size, transform=fit)
        loader = DataLoader(stream, self.batch_size, num_workers=self.cores)
        return sum(len(batch["text"]) for batch in loader)

    def _webdataset(self, cache_folder: str | None) -> int:
        webdataset.gopen_schemes["s3"] = _open
        make = partial(_decode, views=self.shards.manifest.views, channel=self.channel, size=self.size)
        dataset = (
            webdataset.WebDataset(
                self._urls(),
                shardshuffle=len(self._urls()),
                select_files=partial(_is_read, self.channel),
                cache_dir=None if self.is_local else cache_folder,
            )
            .shuffle(SHUFFLE_BUFFER)
            .map(make)
        )
        loader = DataLoader(dataset, self.batch_size, num_workers=self.cores)
        return sum(len(batch["text"]) for batch in loader)


def _open(url: str, mode: str, bufsize: int) -> BinaryIO:
    return fsspec.open(url, mode).open()


def _is_read(channel: str, name: str) -> bool:
    """Whether a member is read: the record, the prompt, and the images of one channel."""
    return name.endswith((".json", ".txt")) or f".{channel}." in name


def _decode(sample: dict[str, Any], channel: str, size: int, **given: Any) -> dict[str, Any]:
    """A sample of webdataset; see `_fit`."""
    decoded = {"json": json.loads(sample["json"]), "txt": sample["txt"].decode()}
    for name, content in sample.items():
        if f".{channel}." in name:
            decoded[name] = decode_image(channel, content, min_side=size)
    return _fit(decoded, channel=channel, size=size, **given)


def _fit(sample: dict[str, Any], views: tuple[str, ...], channel: str, size: int) -> dict[str, Any]:
    """Views uint8 [V, 3, H, W] of a decoded sample, and its words."""
    record = sample["json"]
    out = np.empty((len(views), 3, size, size), np.uint8)
    for view, target in zip(views, out, strict=True):
        fit_image(as_rgb(sample[f"{view}.{channel}.{extension(channel)}"]), target)
    words = {"text": sample["txt"], "concept": record["concept"], "subject": record["subject"]}
    return {"views": torch.from_numpy(out)} | words


def _cpu_seconds() -> float:
    used = [resource.getrusage(which) for which in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _measure(reader: Reader, store: SlowStore, read: Callable[[], int]) -> Epoch:
    before, cpu, began = store.counts(), _cpu_seconds(), time.perf_counter()
    num_samples = read()
    seconds = time.perf_counter() - began
    traffic: Counts = store.counts() - before
    assert num_samples == len(reader.shards.rows), num_samples
    num_bytes = reader.num_bytes if reader.is_local else traffic.num_bytes
    return Epoch(
        rate=num_samples / seconds,
        megabytes=num_bytes / seconds / 1e6,
        num_requests=traffic.num_requests,
        cpu=_cpu_seconds() - cpu,
        server_cpu=traffic.cpu_seconds,
    )


def _rounds(reader: Reader, store: SlowStore, num_rounds: int, only: set[str]) -> dict[str, list[list[Epoch]]]:
    """The cold and the cached epoch of each variant in each round."""
    found: dict[str, list[list[Epoch]]] = {name: [] for name in reader.variants() if name in only or not only}
    for _ in range(num_rounds):
        for name, epochs in found.items():
            with tempfile.TemporaryDirectory(prefix="bench-streaming-") as folder:
                read = reader.variants()[name](folder)
                epochs.append([_measure(reader, store, read) for _ in range(2)])
            print(f"{name}: {epochs[-1]}", file=sys.stderr, flush=True)
    return found


def _row(where: str, name: str, epochs: list[list[Epoch]], link: float | None) -> str:
    """One row of the Markdown table; `link` is the rate of the raw download."""
    cold, cached = (max((each[n] for each in epochs), key=lambda epoch: epoch.rate) for n in (0, 1))
    part = f"{100 * cold.rate / link:.0f} %" if link else "-"
    return (
        f"| {where} | {name} | {cold.rate:,.0f} | {cached.rate:,.0f} | {cold.megabytes:.0f} | {part} "
        f"| {cold.num_requests or '-'} | {cached.num_requests or '-'} | {cold.cpu:.1f} | {cold.server_cpu:.1f} |"
    )


def _upload(shards: ShardSet, store: SlowStore) -> str:
    """Copy the shards of a set, its manifest and its index to the store, and read each shard once."""
    storage = fsspec.filesystem("s3", endpoint_url=store.fast_address)
    storage.mkdir("bench")
    for name in (MANIFEST_NAME, INDEX_NAME):
        storage.put_file(f"{shards.root}/{name}", f"bench/faces/{name}")
    slow = fsspec.filesystem("s3")
    for name in shards.rows.distinct("shard"):
        storage.put_file(shards.shard_path(name), f"bench/faces/shards/{name}")
        slow.cat_file(f"bench/faces/shards/{name}")
    return "s3://bench/faces/shards/*.tar"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", help="local shards as a directory, a glob or a brace pattern")
    parser.add_argument("--channel", choices=("rgb", "normal"), default="normal")
    parser.add_argument("--size", type=int, default=96, help="height and width of decoded images")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--latency", type=float, nargs="+", default=[30.0], help="milliseconds to the first byte")
    parser.add_argument("--bandwidth", type=float, nargs="+", default=[1250.0, 50.0], help="MB/s of all connections")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2, help="the first so many of this machine are used")
    parser.add_argument("--only", nargs="+", default=[], help="names of the variants to measure")
    return parser.parse_args()


def main() -> None:
    """Measure, and print a Markdown table."""
    given = _arguments()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    torch.set_num_threads(given.cores)
    local = ShardSet.open(given.shards)
    FaceDataset(local, DecodeSpec((given.channel,), given.size), 0).read(local.rows[0])  # compiles
    common = (given.channel, given.size, given.batch_size, given.cores)
    with ExitStack() as stack:
        store = stack.enter_context(slow_store())
        remote = ShardSet.open(_upload(local, store))
        megabytes = local.rows.array("bytes").sum() / 1e6
        machine = f"{_processor()}, {given.cores} of {os.cpu_count()} cores, webdataset {webdataset.__version__}"
        print(f"{machine}, {datetime.now(UTC).date()}; {len(local.rows)} samples of {megabytes:.0f} MB")
        print(
            "| storage | reader | samples/s cold | cached | MB/s | of download | requests | cached | CPU s | server |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        links = [(0.0, 0.0)] + [(ms, rate) for ms in given.latency for rate in given.bandwidth]
        for latency, bandwidth in links:
            store.limit(latency / 1e3, bandwidth * 1e6)
            reader = Reader(remote if latency else local, *common)
            where = f"S3, {latency:g} ms, {bandwidth:g} MB/s" if latency else "disk"
            found = _rounds(reader, store, given.rounds, set(given.only))
            raw = [epoch.rate for each in found.get("download", []) for epoch in each]
            for name, epochs in found.items():
                print(_row(where, name, epochs, max(raw, default=None)), flush=True)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
