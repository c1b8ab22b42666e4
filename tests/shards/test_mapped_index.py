"""Large indexes as files that processes map: the same samples, decoded once, and nothing wrong from a damaged file."""

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest

from helpers.samples import write_shard_set
from smile_pipe.shards import mapped_index as module
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample_table import SampleTable


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set whose index counts as large, and an empty cache folder."""
    monkeypatch.setattr(module, "MIN_SAMPLES", 9)
    monkeypatch.setenv("SMILE_PIPE_CACHE", str(tmp_path / "cache"))
    write_shard_set(tmp_path / "shards", 3, channels=("rgb",))
    return tmp_path / "shards"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The indexes that are decoded."""
    origins, read = [], SampleTable.read

    def watched(source: pa.NativeFile, origin: str) -> SampleTable:
        origins.append(origin)
        return read(source, origin)

    monkeypatch.setattr(SampleTable, "read", watched)
    return origins


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "indexes").iterdir())


def test_index_is_decoded_once_and_has_the_same_samples(shards, tmp_path, decoded):
    expected = list(SampleTable.read(str(shards / "index.parquet"), "index"))
    decoded.clear()
    opened = [ShardSet.open(str(shards)) for _ in range(3)]
    assert decoded == [f"{shards}/index.parquet"]
    assert all(list(each.rows) == expected for each in opened)
    assert [path.suffix for path in files(tmp_path)] == [".arrow"]
    assert opened[0].read(opened[2].rows[4]).record.key == expected[4].key


def test_columns_are_not_in_the_memory_of_the_process(shards):
    ShardSet.open(str(shards))
    before = pa.total_allocated_bytes()
    rows = ShardSet.open(str(shards)).rows
    assert rows.columns.nbytes > 1000 and pa.total_allocated_bytes() == before


def test_small_index_has_no_file(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MIN_SAMPLES", 10)
    ShardSet.open(str(shards))
    assert not (tmp_path / "cache").exists()


def test_another_index_has_another_file(shards, tmp_path, decoded):
    ShardSet.open(str(shards))
    shutil.rmtree(shards)
    write_shard_set(shards, 4, channels=("rgb",))
    assert len(ShardSet.open(str(shards)).rows) == 12
    assert len(files(tmp_path)) == len(decoded) == 2


@pytest.mark.parametrize("damage", ["cut", "empty", "other columns", "several pieces", "folder"])
def test_unusable_file_is_replaced(shards, tmp_path, decoded, damage):
    expected = list(ShardSet.open(str(shards)).rows)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    columns = pa.ipc.open_file(pa.py_buffer(content)).read_all()
    path.unlink()
    if damage in ("cut", "empty"):
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    elif damage == "folder":
        path.mkdir()
    else:
        kept = columns.drop_columns(["key"]) if damage == "other columns" else columns
        with pa.ipc.new_file(str(path), kept.schema) as file:
            file.write_table(kept, max_chunksize=5)
    assert list(ShardSet.open(str(shards)).rows) == expected
    assert len(decoded) == 2
    if damage != "folder":
        assert path.read_bytes() == content


@pytest.mark.parametrize("where", ["folder", "disk"])
def test_where_nothing_can_be_written_the_index_is_read_as_before(shards, tmp_path, monkeypatch, caplog, where):
    if where == "folder":
        (tmp_path / "cache").mkdir()
        (tmp_path / "cache" / "indexes").touch()
    else:
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    caplog.set_level("WARNING")
    assert len(ShardSet.open(str(shards)).rows) == 9
    assert "is not shared with other processes" in caplog.text
    if where == "disk":
        assert files(tmp_path) == []


def test_files_that_were_not_used_for_longest_and_those_of_killed_processes_are_removed(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MAX_FILES", 2)
    ShardSet.open(str(shards))
    (used,) = files(tmp_path)
    for days, name in ((9, "old.arrow"), (8, "newer.arrow"), (2, ".x.1234.tmp"), (0.5, ".y.1234.tmp")):
        path = used.with_name(name)
        path.touch()
        os.utime(path, (time.time() - days * 86_400,) * 2)
    os.utime(used, (0, 0))
    ShardSet.open(str(shards))
    assert used.stat().st_mtime > time.time() - 3600
    write_shard_set(tmp_path / "other", 4, channels=("rgb",))
    ShardSet.open(str(tmp_path / "other"))
    names = {path.name for path in files(tmp_path)}
    assert len(names) == 3 and names > {used.name, ".y.1234.tmp"} and "newer.arrow" not in names
