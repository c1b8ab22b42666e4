"""Samples as columns: rows, selections and values are those of the index."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from helpers.samples import make_table, write_shard_set
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import SampleRow, read_index, write_index
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample_table import SampleTable, rows_at, shard_codes


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("table") / "shards"
    write_shard_set(root, num_subjects=5)
    return root


@pytest.fixture
def table(root: Path) -> SampleTable:
    return ShardSet.open(str(root)).rows


@pytest.fixture
def rows(root: Path) -> list[SampleRow]:
    """The samples by the reader of the render stage."""
    names = [field.name for field in fields(SampleRow)]
    return [SampleRow(**{name: getattr(row, name) for name in names}) for row in read_index(root / "index.parquet")]


def test_items_are_the_rows_of_the_index(table, rows):
    assert len(table) == len(rows) == 15
    assert list(table) == rows and [table[n] for n in range(15)] == rows and table[-1] == rows[-1]
    assert list(table[3:9:2]) == rows[3:9:2] and isinstance(table[:2], SampleTable)


@pytest.mark.parametrize("positions", [[4, 0, 4], (2,), np.array([14, 1]), []])
def test_rows_at_positions(table, rows, positions):
    expected = [rows[position] for position in positions]
    assert table.at(positions) == expected == rows_at(rows, positions) == rows_at(table, positions)


def test_a_selection_of_a_selection_has_its_own_positions(table, rows):
    later = table[5:]
    found = later.where("expression", ["HA", "NE"])
    expected = [row for row in rows[5:] if row.expression in ("HA", "NE")]
    assert list(found) == expected and found.at([1]) == [expected[1]] and found[1:].at([0]) == [expected[1]]
    assert found.values("key") == [row.key for row in expected]
    assert found.array("offset").tolist() == [row.offset for row in expected]
    assert later.has("key", [rows[6].key, "other"]).tolist() == [n == 1 for n in range(10)]


def test_codes_are_in_the_order_of_the_texts(table, rows):
    shuffled = table[::-1]
    codes = shuffled.codes("expression")
    words = [row.expression for row in rows[::-1]]
    assert [sorted(set(words))[code] for code in codes] == words
    assert shard_codes(rows).tolist() == shard_codes(table).tolist() == table.codes("shard").tolist()


def test_distinct_and_repeated_values(table, rows):
    assert table.distinct("subject") == sorted({row.subject for row in rows})
    assert table[:2].distinct("shard") == ["000000.tar"] and table.repeated("key") == {}
    assert table[:4].repeated("subject") == {rows[0].subject: 3}


def test_rows_of_each_shard(table, rows):
    parts = table[::-1].by_shard()
    assert list(parts) == sorted({row.shard for row in rows})
    assert all(list(part) == [row for row in rows[::-1] if row.shard == name] for name, part in parts.items())


def test_nothing_selected_is_an_empty_table(table):
    nothing = table.where("subject", [])
    assert len(nothing) == 0 and not nothing and nothing.values("key") == [] and nothing.by_shard() == {}
    assert nothing.codes("shard").tolist() == [] and nothing.at([]) == []


def test_level_may_be_missing_and_nothing_else(root, table, rows):
    assert make_table([replace(rows[0], level=None)])[0].level is None
    assert make_table([replace(rows[0], level=None)]).array("level").tolist() == [0]
    before = read_index(root / "index.parquet")
    try:
        for name in ("key", "expression", "offset"):
            write_index(root / "index.parquet", [replace(before[0], **{name: None}), *before[1:]])
            with pytest.raises(UsageError, match=f"a sample has no {name}; render again"):
                ShardSet.open(str(root))
    finally:
        write_index(root / "index.parquet", before)
