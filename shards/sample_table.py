"""The samples of an open shard set as columns, so that a set of millions of samples needs no Python object for each.

It holds what readers need of `index.parquet`, which also lists the source files for the render stage. A selection
shares the columns, and adds eight bytes per sample.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any, Union, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import INDEX_SCHEMA, SampleRow, as_coded, read_columns
from smile_pipe.shards.storage import PathLike

COLUMNS = tuple(field.name for field in fields(SampleRow))
TABLE_SCHEMA = pa.schema([as_coded(INDEX_SCHEMA.field(name)) for name in COLUMNS])
"""The columns of a `SampleTable`."""
_ROWS_AT_A_TIME = 10_000


class SampleTable(Sequence[SampleRow]):
    """Samples in order; an item is a `SampleRow`, a slice is a table.

    Attributes:
        columns: The Arrow columns of the whole set, each in one piece.
        numbers: Which rows of the columns the samples are, int64 [N].
    """

    def __init__(self, columns: pa.Table, numbers: NDArray[np.int64] | None = None) -> None:
        self.columns = columns
        self.numbers = np.arange(len(columns)) if numbers is None else numbers
        self._is_whole = numbers is None

    @classmethod
    def read(cls, source: PathLike | pa.NativeFile, origin: str) -> "SampleTable":
        """Read the columns of an `index.parquet`.

        Raises:
            UsageError: See `read_columns`; or a value is missing.
        """
        table = read_columns(source, INDEX_SCHEMA, origin, only=COLUMNS, coded=True)
        # Column by column, so that only one is in memory twice.
        pieces, columns = {name: table[name] for name in COLUMNS}, {}
        del table
        for name in COLUMNS:
            column = pieces.pop(name)
            if name != "level" and column.null_count:
                raise UsageError(f"{origin}: a sample has no {name}; render again")
            columns[name] = _in_one_piece(column)
        return cls(pa.table(columns))

    @classmethod
    def joined(cls, tables: Sequence["SampleTable"]) -> "SampleTable":
        """Several tables as one; keys and shards get the number of their table, from 1, as in `2:KEY`."""
        taken = []
        for number, table in enumerate(tables, 1):
            columns = {name: table._taken(name) for name in COLUMNS}
            for name in ("key", "shard"):
                plain = columns[name].cast(pa.string())
                marked = pc.binary_join_element_wise(pa.scalar(str(number)), plain, ":")
                columns[name] = marked.cast(columns[name].type) if name == "key" else marked.dictionary_encode()
            taken.append(pa.table(columns))
        table = pa.concat_tables(taken)
        return cls(pa.table({name: _in_one_piece(table[name]) for name in COLUMNS}))

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, at: int) -> SampleRow: ...
    @overload
    def __getitem__(self, at: slice) -> "SampleTable": ...
    def __getitem__(self, at: int | slice) -> Union[SampleRow, "SampleTable"]:
        if isinstance(at, slice):
            return SampleTable(self.columns, self.numbers[at])
        return self.at([at])[0]

    def __iter__(self) -> Iterator[SampleRow]:
        for start in range(0, len(self), _ROWS_AT_A_TIME):
            yield from self.at(slice(start, start + _ROWS_AT_A_TIME))

    def at(self, positions: Sequence[int] | NDArray[np.int64] | slice) -> list[SampleRow]:
        """The rows at some positions of this table, in the order of `positions`."""
        chosen = positions if isinstance(positions, slice) else np.asarray(positions, np.int64)
        taken = self.columns.take(pa.array(self.numbers[chosen]))
        columns = {name: taken[name].to_pylist() for name in COLUMNS}
        columns["labels"] = list(map(dict, columns["labels"]))
        return list(map(SampleRow, *(columns[name] for name in COLUMNS)))

    def values(self, name: str) -> list[Any]:
        """The values of one column, in order; a Python object for each sample."""
        return self._taken(name).to_pylist()

    def array(self, name: str) -> NDArray[Any]:
        """A column of numbers, [N]; null is 0."""
        return pc.fill_null(self._taken(name), 0).to_numpy()

    def codes(self, name: str) -> NDArray[np.int64]:
        """One of the `CODED` columns as numbers, int64 [N]: equal texts have equal codes, in the order of the texts."""
        column = self.columns[name].chunk(0) if len(self.columns) else pa.array([], pa.string()).dictionary_encode()
        texts = np.array(column.dictionary.to_pylist(), dtype=object)
        rank = np.unique(texts, return_inverse=True)[1]
        return rank[column.indices.to_numpy()[self.numbers]]

    def distinct(self, name: str) -> list[Any]:
        """The values that occur in a column, sorted."""
        return sorted(pc.unique(self._taken(name)).to_pylist())

    def repeated(self, name: str) -> dict[Any, int]:
        """How often the values occur in a column that occur more than once."""
        counts = pc.value_counts(self._taken(name))
        counts = counts.filter(pc.greater(counts.field("counts"), 1))
        return {entry["values"]: entry["counts"] for entry in counts.to_pylist()}

    def has(self, name: str, values: Collection[Any]) -> NDArray[np.bool_]:
        """Whether the value of a column is one of `values`, bool [N]."""
        plain = INDEX_SCHEMA.field(name).type
        return pc.is_in(self._taken(name).cast(plain), pa.array(list(values), plain)).to_numpy()

    def where(self, name: str, values: Collection[Any]) -> "SampleTable":
        """The samples whose value of a column is one of `values`."""
        return self.filter(self.has(name, values))

    def filter(self, is_selected: NDArray[np.bool_]) -> "SampleTable":
        """The samples for which a mask of bool [N] is true."""
        return SampleTable(self.columns, self.numbers[is_selected])

    def by_shard(self) -> dict[str, "SampleTable"]:
        """The samples of each shard in the order of the table, by the sorted names of the shards."""
        codes = self.codes("shard")
        order = np.argsort(codes, kind="stable")
        parts = np.split(self.numbers[order], np.flatnonzero(np.diff(codes[order])) + 1)
        return {
            name: SampleTable(self.columns, part) for name, part in zip(self.distinct("shard"), parts, strict=False)
        }

    def _taken(self, name: str) -> pa.ChunkedArray:
        return self.columns[name] if self._is_whole else self.columns[name].take(pa.array(self.numbers))


def _in_one_piece(column: pa.ChunkedArray) -> pa.Array:
    return column.unify_dictionaries().combine_chunks()


def shard_codes(rows: Sequence[SampleRow]) -> NDArray[np.int64]:
    """Number of the shard of each sample, int64 [N], in the order of the names of the shards."""
    if isinstance(rows, SampleTable):
        return rows.codes("shard")
    return np.unique([row.shard for row in rows], return_inverse=True)[1]


def rows_at(rows: Sequence[SampleRow], positions: Sequence[int] | NDArray[np.int64]) -> list[SampleRow]:
    """The rows at some positions, in the order of `positions`; of a table all at once, which is much faster."""
    return rows.at(positions) if isinstance(rows, SampleTable) else [rows[position] for position in positions]
