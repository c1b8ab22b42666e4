"""Batches of remote shards: equal to those of a disk, with shards that are copied ahead and once."""

import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fsspec.implementations.dirfs import DirFileSystem

from helpers.processes import wait_until
from helpers.samples import write_shard_set
from helpers.trees import upload
from smile_pipe.pipeline.data import dataset as module
from smile_pipe.pipeline.data.dataset import DecodeSpec, DiskCache, FaceDataset
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.shards import cache as cache_module
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sampler import Sampler
from smile_pipe.shards.storage import StoragePath

SPEC = DecodeSpec(("rgb",), 8)
NUM_SHARDS = 12


class Remote(DirFileSystem):
    """A file system that is not the local disk, and counts reads by the name of the file."""

    cachable = False

    def __init__(self, shards: ShardSet) -> None:
        super().__init__("/", shards.filesystem)
        self.reads: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **given: object) -> bytes:
        self.reads[path.rpartition("/")[2]] += 1
        assert self.gate.wait(20)
        return super().cat_file(path, start=start, end=end, **given)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    root = tmp_path_factory.mktemp("remote") / "shards"
    write_shard_set(root, num_subjects=16, channels=("rgb",))
    shards = ShardSet.open(str(root))
    assert len(shards.manifest.shards) == NUM_SHARDS
    return shards


@pytest.fixture
def remote(disk: ShardSet) -> ShardSet:
    return replace(disk, filesystem=Remote(disk))


def reader(shards: ShardSet, folder: Path, max_bytes: int = 1 << 30, cache_bytes: int = 0) -> FaceDataset:
    return FaceDataset(shards, SPEC, cache_bytes, disk_cache=DiskCache(folder, max_bytes))


def groups(shards: ShardSet, epoch: int, **given: int) -> Iterator[list]:
    sampler = Sampler(shards.rows.codes("shard"), 4, 0, window=4, **given)
    return map(shards.rows.at, sampler.batches(epoch))


@pytest.mark.parametrize("num_shards_that_fit", [2, NUM_SHARDS])
def test_batches_equal_those_of_the_disk_and_order_of_copies_does_not_matter(
    disk, remote, tmp_path, num_shards_that_fit
):
    size = num_shards_that_fit * max(entry.bytes for entry in disk.manifest.shards)
    for epoch in range(3):
        found = list(reader(remote, tmp_path, size).batches(groups(disk, epoch)))
        expected = list(FaceDataset(disk, SPEC, 0).batches(groups(disk, epoch)))
        assert len(found) == len(expected) == 12
        for one, other in zip(found, expected, strict=True):
            assert one.keys == other.keys and torch.equal(one.views, other.views)
    reads = remote.filesystem.reads
    assert set(reads.values()) == {1} if num_shards_that_fit == NUM_SHARDS else max(reads.values()) > 1


@pytest.mark.parametrize(("num_shards_that_fit", "num_requested"), [(NUM_SHARDS, 4), (100, 7)])
def test_shards_are_copied_before_their_batches_are_due(
    disk, remote, tmp_path, monkeypatch, num_shards_that_fit, num_requested
):
    monkeypatch.setattr(cache_module, "CONNECTIONS", 3)
    monkeypatch.setattr(module, "READ_AHEAD", 1)
    rows = [disk.rows.by_shard()[entry.name].at(slice(None)) for entry in disk.manifest.shards]
    size = num_shards_that_fit * max(entry.bytes for entry in disk.manifest.shards)
    faces, requested = reader(remote, tmp_path, size), []
    request = faces.shards.cache.request
    monkeypatch.setattr(faces.shards.cache, "request", lambda names: requested.extend(names) or request(names))
    batches = faces.batches(rows)
    taken = [next(batches)]
    # The first batch needs one shard, and one more is read ahead; 3 or 6 are requested after it.
    assert requested == [entry.name for entry in disk.manifest.shards[:num_requested]]
    assert [batch.keys for batch in (*taken, *batches)] == [[row.key for row in group] for group in rows]
    assert set(remote.filesystem.reads.values()) == {1}


def test_shards_that_come_later_do_not_displace_those_in_use(disk, remote, tmp_path, monkeypatch):
    # Otherwise a slow machine may still read the first batches when the shards of the tenth one are copied.
    monkeypatch.setattr(module, "READ_AHEAD", 0)
    # Of the order of this epoch at most 7 shards are in use at a time.
    largest = max(entry.bytes for entry in disk.manifest.shards)
    found = list(reader(remote, tmp_path, 10 * largest).batches(groups(disk, 0)))
    assert len(found) == 12 and set(remote.filesystem.reads.values()) == {1}


def test_shards_that_were_removed_are_requested_ahead_again(disk, remote, tmp_path):
    faces = reader(remote, tmp_path)
    rows = [disk.rows.by_shard()[entry.name].at(slice(None)) for entry in disk.manifest.shards]
    assert len(list(faces.batches(rows))) == NUM_SHARDS
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    batches = faces.batches(rows)
    next(batches)
    wait_until(lambda: sum(remote.filesystem.reads.values()) >= NUM_SHARDS + 6)
    assert len(list(batches)) == NUM_SHARDS - 1 and set(remote.filesystem.reads.values()) == {2}


def test_groups_are_looked_at_only_so_far_ahead(disk, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "MAX_ROWS_AHEAD", 5 * 4)
    asked: list[int] = []
    first = disk.rows.by_shard()["000000.tar"].at(slice(None))
    batches = reader(remote, tmp_path).batches(asked.append(number) or first for number in range(40))
    next(batches)
    assert len(asked) <= 5 + module.READ_AHEAD + 1
    assert len(list(batches)) == 39


def test_nothing_is_copied_for_samples_that_are_in_memory(disk, remote, tmp_path):
    faces = reader(remote, tmp_path, cache_bytes=1 << 20)
    once = [batch.keys for batch in faces.batches(groups(disk, 0))]
    assert faces.shards.cache is not None
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    faces.shards = replace(faces.shards, cache=reader(remote, tmp_path).shards.cache)
    remote.filesystem.reads.clear()
    assert [batch.keys for batch in faces.batches(groups(disk, 0))] == once and not remote.filesystem.reads


@pytest.mark.parametrize("partitions", [1, 2])
def test_with_partitions_each_machine_copies_its_part_only(disk, remote, tmp_path, partitions):
    for rank in range(2):
        faces = reader(remote, tmp_path / str(rank))
        for epoch in range(3):
            batches = groups(disk, epoch, world_size=2, rank=rank, partitions=partitions)
            assert len(list(faces.batches(batches))) == 6
    # With one partition each of the two machines reads a part of each shard, and copies it.
    assert set(remote.filesystem.reads.values()) == {1 if partitions == 2 else 2}


class TestFaultyStorage:
    """An S3 server fails in the middle of downloads; no batch differs."""

    @pytest.fixture
    def bucket(self, disk, s3_url, faulty, monkeypatch) -> ShardSet:
        # One after another: two faults in a row of one shard are another case, and not the one that is tested.
        monkeypatch.setattr(cache_module, "CONNECTIONS", 1)
        return ShardSet.open(str(upload(disk.root, StoragePath(f"{s3_url}/shards"))))

    @pytest.mark.parametrize(
        "fault",
        [
            *("500", "503", "reset", "reset in the body", "stall in the body", "short body"),
            *("truncated body", "corrupt body"),
        ],
    )
    def test_batches_are_equal_after_any_fault(self, disk, bucket, faulty, tmp_path, fault):
        faulty.fault, faulty.every, faulty.stall_seconds = fault, 5, 0.2
        found = list(reader(bucket, tmp_path).batches(groups(disk, 0)))
        expected = list(FaceDataset(disk, SPEC, 0).batches(groups(disk, 0)))
        assert [batch.keys for batch in found] == [batch.keys for batch in expected] and faulty.num_faults >= 2
        assert all(torch.equal(one.views, other.views) for one, other in zip(found, expected, strict=True))

    @pytest.mark.parametrize("fault", ["truncated body", "corrupt body"])
    def test_damage_that_stays_is_an_error_that_names_a_sample(self, disk, bucket, faulty, tmp_path, fault):
        faulty.fault, faulty.every = fault, 1
        with pytest.raises(BadSampleError, match=r"^0000\d\d\.tar: the sample \w+ cannot be read"):
            list(reader(bucket, tmp_path).batches(groups(disk, 0)))
        assert not list(tmp_path.glob("*.tar"))
