"""Processed units as Arrow tables: how they travel between the operators of a Ray Data job, and nowhere else."""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter

from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.render.timings import StepSeconds
from smile_pipe.pipeline.render.units import Failure, ProcessedUnit, ReadInfo, WorkUnit
from smile_pipe.shards.index import SourceFile
from smile_pipe.shards.sample import MeshStatistics

_BLOCKS = pa.list_(pa.large_binary())
SCHEMA = pa.schema(
    [
        ("state", pa.string()),
        ("meshes", _BLOCKS),
        ("pixels", _BLOCKS),
        ("images", _BLOCKS),
        ("weighted_sums", pa.large_binary()),
    ]
)
"""One row a unit. `state` is JSON of all fields but the arrays; arrays are blocks of `pack_arrays`."""

_State = tuple[WorkUnit, tuple[SourceFile, ...], Failure | None, StepSeconds, ReadInfo | None, MeshStatistics | None]
_STATE: TypeAdapter[_State] = TypeAdapter(_State)
_LENGTH = struct.Struct("<Q")


def to_table(units: Iterable[ProcessedUnit]) -> pa.Table:
    """Convert units to a table, one after the other, so that only one unit is in memory twice."""
    parts = [pa.Table.from_pylist([_row(unit)], SCHEMA) for unit in units]
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()


def from_table(table: pa.Table) -> Iterator[ProcessedUnit]:
    """Convert the rows of a table back; meshes and pixels are read-only views of its memory."""
    columns = {name: table.column(name) for name in SCHEMA.names}
    for number in range(len(table)):
        work, sources, failure, seconds, info, statistics = _STATE.validate_json(columns["state"][number].as_py())
        meshes, pixels, images = (_blocks(columns[name][number]) for name in ("meshes", "pixels", "images"))
        sums = columns["weighted_sums"][number].as_py()
        yield ProcessedUnit(
            work,
            sources,
            failure,
            seconds,
            info,
            statistics,
            meshes=[_mesh(block) for block in meshes],
            pixels=[unpack_arrays(block) for block in pixels],
            images=[block.to_pybytes() for block in images],
            weighted_sums={} if sums is None else unpack_arrays(sums),
        )


def pack_arrays(arrays: Mapping[str, NDArray]) -> bytes:
    """Pack named arrays into one block.

    Returns:
        The length of a JSON header, the header (name, dtype and shape of each array), and the arrays' bytes.
    """
    header = json.dumps([(name, array.dtype.str, array.shape) for name, array in arrays.items()]).encode()
    # Padded so that each array begins at a multiple of 8 bytes.
    header += b" " * (-len(header) % 8)
    parts = [_LENGTH.pack(len(header)), header]
    for array in arrays.values():
        content = np.ascontiguousarray(array).tobytes()
        parts += [content, bytes(-len(content) % 8)]
    return b"".join(parts)


def unpack_arrays(block: bytes | pa.Buffer) -> dict[str, NDArray]:
    """Return the arrays of a block by name, as read-only views of its memory."""
    view = memoryview(block)
    (length,) = _LENGTH.unpack_from(view)
    start = _LENGTH.size + length
    arrays = {}
    for name, dtype, shape in json.loads(bytes(view[_LENGTH.size : start])):
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(view, dtype, count, start).reshape(shape)
        start += count * np.dtype(dtype).itemsize
        start += -start % 8
    return arrays


def _row(unit: ProcessedUnit) -> dict[str, Any]:
    state = (unit.work, unit.sources, unit.failure, unit.seconds, unit.info, unit.statistics)
    return {
        "state": _STATE.dump_json(state).decode(),
        "meshes": [pack_arrays(_arrays(mesh)) for mesh in unit.meshes],
        "pixels": [pack_arrays(pixels) for pixels in unit.pixels],
        "images": list(unit.images),
        "weighted_sums": pack_arrays(unit.weighted_sums) if unit.weighted_sums else None,
    }


def _arrays(mesh: Mesh) -> dict[str, NDArray]:
    """The arrays of a mesh by field name, without those that are None."""
    return {f.name: value for f in fields(mesh) if isinstance(value := getattr(mesh, f.name), np.ndarray)}


def _mesh(block: pa.Buffer) -> Mesh:
    arrays: dict[str, Any] = unpack_arrays(block)
    return Mesh(**arrays)


def _blocks(cell: pa.ListScalar) -> list[pa.Buffer]:
    """The blocks of a list cell as views; Arrow's own scalars would copy them."""
    blocks = cell.values
    if not blocks:
        return []
    _, offsets, content = blocks.buffers()
    ends = np.frombuffer(offsets, np.int64)[blocks.offset : blocks.offset + len(blocks) + 1].tolist()
    return [content.slice(start, stop - start) for start, stop in pairwise(ends)]
