"""Verification of hostile shards: every defect is reported with its sample, in little memory, without running any code.

Digests do not help here: manifest and index match the hostile bytes.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.samples import write_shard_set
from smile_pipe.shards.index import read_index, write_index
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.verify import Problem, verify_shards
from smile_pipe.shards.writer import digest_of

pytestmark = pytest.mark.fuzz

_MAX_BYTES = 32 << 20
_SHARD = "000001.tar"
Members = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six samples in shards of three."""
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_subjects=2, samples_per_shard=3, channels=("rgb", "depth"), size=8)
    return root


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is created if the pickle of a `Bomb` is loaded."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "unpickled"


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("unpickled",)


def problems(root: Path) -> list[Problem]:
    """The reported problems; also checks the memory used."""
    tracemalloc.start()
    found = [problem for _, some in verify_shards(ShardSet.open(str(root))) for problem in some]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < _MAX_BYTES
    return found


def hostile(root: Path, change: Callable[[str, Members], Members]) -> str:
    """Change the members of the first sample of the second shard, with matching manifest and index; returns its key."""
    before = read_index(root / "index.parquet")
    rows = [row for row in before if row.shard == _SHARD]
    path = root / "shards" / _SHARD
    content = path.read_bytes()
    first = rows[0]
    with tarfile.open(fileobj=io.BytesIO(content[: first.bytes])) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]
    piece = _tar(change(first.key, members))
    path.write_bytes(piece + content[first.bytes :])
    moved = [replace(first, bytes=len(piece), digest=digest_of(piece))]
    moved += [replace(row, offset=row.offset + len(piece) - first.bytes) for row in rows[1:]]
    write_matching_tables(root, [row for row in before if row.shard != _SHARD] + moved)
    return first.key


def write_matching_tables(root: Path, rows: list) -> None:
    """Write an index and a manifest that match the files."""
    write_index(root / "index.parquet", rows)
    manifest = ShardManifest.read(root / "manifest.json")
    content = (root / "shards" / _SHARD).read_bytes()
    changes = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    entries = [entry.model_copy(update=changes) if entry.name == _SHARD else entry for entry in manifest.shards]
    manifest.model_copy(update={"shards": tuple(entries)}).write(root / "manifest.json")


def _tar(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        end = tar.offset
    return buffer.getvalue()[:end]


def replaced(suffix: str, make: Callable[[bytes], bytes]) -> Callable[[str, Members], Members]:
    """A change of the member with that suffix."""

    def change(key: str, members: Members) -> Members:
        assert f"{key}.{suffix}" in dict(members)
        return [(name, make(content) if name == f"{key}.{suffix}" else content) for name, content in members]

    return change


def edited(**fields: object) -> Callable[[str, Members], Members]:
    """A change of fields of the record."""
    return replaced("json", lambda content: json.dumps(json.loads(content) | fields).encode())


def timeline(**fields: object) -> dict[str, object]:
    about = {"frame_rate": 25.0, "num_source_frames": 30, "frames": [0], "sampling": "uniform", "temporal": "frames"}
    return about | {"onset": 0, "apex": None, "magnify": 1.0, "dynamic": {}} | fields


def png(width: int, height: int, bits: int = 16, color: int = 0) -> bytes:
    """A PNG of about a kilobyte with any size in its header."""
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100_000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in chunks
    )


def test_unchanged_set_has_no_problem(copy):
    hostile(copy, lambda key, members: members)
    assert problems(copy) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (replaced("json", lambda content: b""), "json"),
        (replaced("json", lambda content: content[:-20]), "json"),
        (replaced("json", lambda content: b"[" * 200_000), "json"),
        (replaced("json", lambda content: b"\xff\xfe" + content), "json"),
        (replaced("json", lambda content: b'{"key": NaN}'), "json"),
        (edited(key="../../outside"), "contains the key '../../outside'"),
        (edited(level="very"), "level"),
        (edited(code="__import__('os')"), "code"),
        (edited(cameras=[]), "the images of record and shard differ"),
        (edited(channels=["rgb", "depth", "smell"]), "unknown channel 'smell'"),
        (edited(timeline=timeline(frames=list(range(50_000)))), "frames"),
        (edited(timeline=timeline(frames=[])), "the images of record and shard differ"),
        (edited(timeline=timeline(num_source_frames="many")), "num_source_frames"),
        (edited(timeline=timeline(frames=[10**30])), "the images of record and shard differ"),
        (replaced("txt", lambda content: b"\xff\xfe\xfd"), "not UTF-8"),
        (replaced("front.depth.png", lambda content: png(2**31 - 1, 2**31 - 1)), "sides must be 1 to 4096"),
        (replaced("front.depth.png", lambda content: png(60_000, 1)), "sides must be 1 to 4096"),
        (replaced("front.depth.png", lambda content: png(0, 8)), "0 x 8 pixels"),
        (replaced("front.depth.png", lambda content: png(8, 8, 8, 3)), "8-bit palette"),
        (replaced("front.depth.png", lambda content: content[:-30]), "front.depth"),
        (replaced("front.rgb.jpg", lambda content: png(8, 8)), "front.rgb"),
        (replaced("front.rgb.jpg", lambda content: b""), "front.rgb"),
        (lambda key, members: [*members, (f"{key}.pkl", pickle.dumps(Bomb()))], "pkl"),
        (replaced("json", lambda content: pickle.dumps(Bomb())), "json"),
        (replaced("front.depth.png", lambda content: pickle.dumps(Bomb())), "is not a PNG"),
        (lambda key, members: [*members, ("../../outside.json", b"{}")], "not one sample"),
        (lambda key, members: [*members, ("other.txt", b"a face")], "not one sample"),
        (lambda key, members: members[:1], "not one sample"),
        (lambda key, members: members[:-1], "right.depth"),
    ],
)
def test_invalid_sample_is_reported_with_its_key(copy, canary, change, what):
    key = hostile(copy, change)
    found = problems(copy)
    assert {(problem.shard, problem.key) for problem in found} == {(_SHARD, key)}
    assert any(what in problem.what for problem in found), found
    assert not canary.exists()


@pytest.mark.parametrize("num_bytes", [1 << 40, 1 << 62, 2**63 - 1])
def test_oversized_index_entry_is_reported_without_reading(copy, num_bytes):
    rows = read_index(copy / "index.parquet")
    write_index(copy / "index.parquet", [replace(rows[0], bytes=num_bytes), *rows[1:]])
    found = problems(copy)
    assert any(p.key == rows[0].key and f": {num_bytes} bytes at" in p.what for p in found)


def test_shard_that_is_a_folder_or_a_link_to_itself_is_reported(copy):
    path = copy / "shards" / _SHARD
    path.unlink()
    path.symlink_to(path.name)
    assert {problem.shard for problem in problems(copy)} == {_SHARD}


@pytest.mark.parametrize("size", [1, 511, 512, 700])
def test_shard_cut_in_its_first_member_is_the_only_one_reported(copy, size):
    path = copy / "shards" / _SHARD
    path.write_bytes(path.read_bytes()[:size])
    found = problems(copy)
    assert {problem.shard for problem in found} == {_SHARD}
    assert {problem.key for problem in found if "ends before" in problem.what} == {
        row.key for row in ShardSet.open(str(copy)).rows if row.shard == _SHARD
    }


def test_header_with_a_size_of_terabytes_is_reported(copy, canary):
    key = hostile(copy, lambda key, members: members)
    path = copy / "shards" / _SHARD
    content = bytearray(path.read_bytes())
    info = tarfile.TarInfo(f"{key}.json")
    info.size = 1 << 40
    content[:512] = info.tobuf(format=tarfile.GNU_FORMAT)[:512]
    path.write_bytes(content)
    rows = read_index(copy / "index.parquet")
    piece = next(row for row in rows if row.key == key)
    mended = replace(piece, digest=digest_of(bytes(content[: piece.bytes])))
    write_matching_tables(copy, [mended if row.key == key else row for row in rows])
    assert {(problem.shard, problem.key) for problem in problems(copy)} == {(_SHARD, key)}
