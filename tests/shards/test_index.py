"""The index and the table of failures: round trips, and invalid tables."""

import subprocess
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.samples import make_row, make_samples
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import (
    FailureRow,
    IndexRows,
    SourceFile,
    read_failures,
    read_index,
    read_index_by_shard,
    write_failures,
    write_index,
)
from smile_pipe.shards.writer import Location

SAMPLES = make_samples(num_subjects=2)
ROWS = [make_row(sample, at=Location(1024 * i, 512, f"digest {i}")) for i, sample in enumerate(SAMPLES)]
SOURCES = (SourceFile("F0001/a.wrl", 12, 1_700_000_000_123_456_789, "0a"), SourceFile("F0001/a.png", -1, -1, ""))
FAILURE = FailureRow(
    key="a",
    source="F0001/a.wrl",
    stage="read",
    reason="line 3: é",
    shard="000000.tar",
    fingerprint="f0",
    sources=SOURCES,
)


def test_tables_are_read_on_the_calling_thread(tmp_path):
    """An Arrow thread that releases bytes of Python while the interpreter shuts down aborts the process."""
    write_index(tmp_path / "index.parquet", ROWS)
    code = (
        "import os; from pathlib import Path; from smile_pipe.shards.index import read_index\n"
        "before = os.listdir('/proc/self/task')\n"
        f"assert len(read_index(Path(r'{tmp_path}') / 'index.parquet')) == {len(ROWS)}\n"
        "print(len(os.listdir('/proc/self/task')) - len(before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_index_round_trip_keeps_rows_and_order(tmp_path):
    rows = [replace(ROWS[0], level=None, labels={}, sources=()), replace(ROWS[1], sources=SOURCES), *ROWS[:1:-1]]
    write_index(tmp_path / "index.parquet", rows)
    assert read_index(tmp_path / "index.parquet") == rows


def test_rows_of_each_shard_are_read_as_columns(tmp_path):
    shards = ("000002.tar", "000000.tar", "000000.tar", "000001.tar", "000002.tar", "000001.tar")
    rows = [replace(row, shard=shard) for row, shard in zip(ROWS, shards, strict=True)]
    rows[1] = replace(rows[1], sources=SOURCES, labels={})
    rows[5] = replace(rows[5], sources=())
    write_index(tmp_path / "index.parquet", rows)
    by_shard = read_index_by_shard(tmp_path / "index.parquet")
    assert list(by_shard) == ["000002.tar", "000000.tar", "000001.tar"]
    for shard, found in by_shard.items():
        own = [row for row in rows if row.shard == shard]
        assert isinstance(found, IndexRows) and found == own and found[0] == own[0] and len(found) == len(own)
        assert found != own[:1] and found != own[::-1]


def test_rows_are_written_a_few_at_a_time(tmp_path, monkeypatch):
    taken, groups = [], []
    write = pq.ParquetWriter.write_table

    def write_group(writer, table):
        groups.append((len(table), len(taken)))
        write(writer, table)

    monkeypatch.setattr("smile_pipe.shards.index._ROWS_PER_GROUP", 4)
    monkeypatch.setattr(pq.ParquetWriter, "write_table", write_group)
    write_index(tmp_path / "index.parquet", (taken.append(row) or row for row in ROWS))
    assert groups == [(4, 4), (2, 6)] and read_index(tmp_path / "index.parquet") == ROWS


def test_order_of_labels_does_not_change_the_bytes(tmp_path):
    write_index(tmp_path / "a.parquet", [replace(ROWS[0], labels={"z": "1", "a": "2"})])
    write_index(tmp_path / "b.parquet", [replace(ROWS[0], labels={"a": "2", "z": "1"})])
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_equal_rows_give_equal_bytes_and_no_other_file(tmp_path):
    write_index(tmp_path / "a.parquet", ROWS)
    write_index(tmp_path / "b.parquet", iter(ROWS))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_empty_index_keeps_its_columns(tmp_path):
    write_index(tmp_path / "index.parquet", [])
    assert read_index(tmp_path / "index.parquet") == []
    assert "offset" in pq.read_schema(tmp_path / "index.parquet").names


def test_failures_round_trip(tmp_path):
    write_failures(tmp_path / "failures.parquet", [FAILURE, FAILURE.model_copy(update={"key": "b", "sources": ()})])
    first, second = read_failures(tmp_path / "failures.parquet")
    assert first == FAILURE and (second.key, second.sources) == ("b", ())


def test_an_error_while_writing_leaves_the_old_table_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "index.parquet"
    write_index(path, ROWS)
    before = path.read_bytes()

    def full(writer, table):
        assert len(list(tmp_path.iterdir())) == 2
        raise OSError("No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_index(path, ROWS[:1])
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("read", [read_index, read_failures])
class TestRefused:
    def test_a_table_that_is_missing(self, tmp_path, read):
        with pytest.raises(UsageError, match=r"index\.parquet: not a readable table"):
            read(tmp_path / "index.parquet")

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"key,subject\na,b\n"])
    def test_file_that_is_not_a_table(self, tmp_path, read, content):
        (tmp_path / "index.parquet").write_bytes(content)
        with pytest.raises(UsageError, match="not a readable table"):
            read(tmp_path / "index.parquet")

    def test_table_without_some_columns_is_refused_with_their_names(self, tmp_path, read):
        pq.write_table(pa.table({"key": ["a"], "shard": ["000000.tar"]}), tmp_path / "index.parquet")
        with pytest.raises(UsageError, match=r"the columns differ from those of this release: .*sources") as error:
            read(tmp_path / "index.parquet")
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("name", ["../../victim", "/etc/passwd", "..", "", "a.tar", "000000.tar\n", None])
    def test_invalid_shard_name(self, tmp_path, read, name):
        write_index(tmp_path / "index.parquet", [ROWS[0], replace(ROWS[1], shard=name)])
        write_failures(tmp_path / "failures.parquet", [FAILURE, FAILURE.model_copy(update={"shard": name})])
        path = tmp_path / ("index.parquet" if read is read_index else "failures.parquet")
        with pytest.raises(UsageError, match="invalid shard name") as error:
            read(path)
        assert str(error.value).startswith(f"{path}: ") and repr(name) in str(error.value)

    def test_a_column_of_another_type(self, tmp_path, read):
        write_index(tmp_path / "index.parquet", ROWS)
        write_failures(tmp_path / "failures.parquet", [FAILURE])
        path = tmp_path / ("index.parquet" if read is read_index else "failures.parquet")
        table = pq.read_table(path)
        column = table.column_names.index("sources")
        pq.write_table(table.set_column(column, "sources", pa.array(["x"] * len(table))), path)
        with pytest.raises(UsageError, match="not a readable table"):
            read(path)
