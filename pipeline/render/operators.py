"""The operators of the render job: read, render, encode. Each takes an Arrow table of pieces and gives one back.

A row that fails anywhere becomes a row that says so (`failure`), and the later operators let it pass: one bad scan is a
row of `failures.parquet`, never the end of the job. A storage that fails is no fault of a scan: its rows say so too
(`STORAGE`), and whoever makes samples of them ends the job. Each operator notes how long a row took (`seconds_of`).

    read    piece          -> + sources, shot (what the record needs to know), meshes (packed arrays, one a frame)
    render  meshes         -> + statistics, images (packed arrays, quantised, one a frame)
    encode  images, shot   -> + members (encoded images by frame, view, channel), sums (of dynamic images)

Where a GPU renders they are three, so that it draws while processors read and encode; elsewhere they are one (`make`).
"""

import functools
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from smile_pipe.pipeline.datasets.data_dir import open_data_dir
from smile_pipe.pipeline.datasets.file_index import printable
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.render.arrays import pack_arrays, unpack_arrays
from smile_pipe.pipeline.render.limits import Limits, limited
from smile_pipe.pipeline.render.reading import ReadInfo, SourceReader, read_piece
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import STEPS, seconds_of
from smile_pipe.pipeline.render.units import WorkUnit
from smile_pipe.pipeline.rendering.backend import Renderer, RendererName, ViewImages, build_renderer
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.downsample import downsample
from smile_pipe.pipeline.rendering.encoding import encode_frame, quantise_views
from smile_pipe.pipeline.sequences.dynamic_images import rank_pooling_weights, weighted_sum
from smile_pipe.shards.index import SourceFile
from smile_pipe.shards.sample import MeshStatistics
from smile_pipe.shards.storage import StorageError, StoragePath

SOURCES = TypeAdapter(tuple[SourceFile, ...])
PIECE = TypeAdapter(WorkUnit)
SHOT = TypeAdapter(ReadInfo)
Row = dict[str, Any]

STORAGE = "storage"
"""The stage of a failure that is none of the sample."""

_TEXTS = [(name, pa.string()) for name in ("piece", "sources", "failure", "shot")]
_PIECE = [*_TEXTS, *((seconds_of(step), pa.float64()) for step in STEPS)]
_BLOCKS = pa.list_(pa.large_binary())
READ = pa.schema([*_PIECE, ("meshes", _BLOCKS)])
RENDERED = pa.schema([*_PIECE, ("statistics", pa.string()), ("images", _BLOCKS)])
ENCODED = pa.schema([*_PIECE, ("statistics", pa.string()), ("members", _BLOCKS), ("sums", pa.large_binary())])


def pieces_table(pieces: Iterable[WorkUnit]) -> pa.Table:
    """Pieces as rows that the first operator takes."""
    return pa.table({"piece": [PIECE.dump_json(piece).decode() for piece in pieces]})


def make_pieces(
    table: pa.Table,
    root: str | StoragePath,
    settings: RenderSettings,
    limits: Limits | None = None,
    marks: str | StoragePath = "",
) -> pa.Table:
    """Read, render and encode on one processor, one piece after the other.

    Only the meshes of one piece are in memory, and they are drawn while the processor's caches still have them.
    """
    with _reading(root, settings, limits, marks) as read:
        pieces = (read(table.slice(number, 1)) for number in range(len(table)))
        return pa.concat_tables([encode_pieces(render_views(piece, settings), settings) for piece in pieces])


def read_pieces(
    table: pa.Table,
    root: str | StoragePath,
    settings: RenderSettings,
    limits: Limits | None = None,
    marks: str | StoragePath = "",
) -> pa.Table:
    """Read, digest and frame the files of each piece; `marks` is where the limits remember what workers died of."""
    with _reading(root, settings, limits, marks) as read:
        return read(table)


@contextmanager
def _reading(
    root: str | StoragePath, settings: RenderSettings, limits: Limits | None, marks: str | StoragePath
) -> Iterator[Callable[[pa.Table], pa.Table]]:
    """`read_pieces` for several tables; a storage that failed once is not asked again."""
    lost: list[StorageError] = []
    with open_data_dir(StoragePath(root)) as files:

        def read(row: Row) -> Row:
            if lost:
                raise lost[0]
            piece, reader = PIECE.validate_json(row["piece"]), SourceReader(files)
            try:
                with limited(limits, StoragePath(marks), piece.name) if limits else nullcontext():
                    shot, meshes = read_piece(piece, reader, settings)
            except StorageError as error:
                lost.append(error)
                raise
            except Exception:
                # What a failed sample depends on has to be known, for a change in it is what it is tried again for.
                reader.note(*piece.sample.paths)
                raise
            finally:
                row["sources"] = SOURCES.dump_json(tuple(reader.sources.values())).decode()
            blocks = [pack_arrays(asdict_arrays(mesh)) for mesh in meshes]
            return {"shot": SHOT.dump_json(shot).decode(), "meshes": blocks}

        yield lambda table: _map_rows(table, "read", read, READ, str(files.root))


def render_views(table: pa.Table, settings: RenderSettings) -> pa.Table:
    """Render all meshes of the table in one call of the renderer; if that fails, one by one, to find the culprit."""
    renderer = cached_renderer(settings.renderer)
    began = time.perf_counter()
    rows = list(_rows(table))
    good = [row for row in rows if row["failure"] is None]
    meshes = [[_mesh(block) for block in row["meshes"]] for row in good]
    rigs = [_rig(row, settings) for row in good]
    try:
        pairs = [(mesh, rig) for group, rig in zip(meshes, rigs, strict=True) for mesh in group]
        rendered: list[ViewImages | None] = [*renderer.render(*zip(*pairs, strict=True))] if pairs else []
    except Exception:
        rendered = [None] * len(pairs)
    images = iter(rendered)
    for row, group, rig in zip(good, meshes, rigs, strict=True):
        mine = [next(images) for _ in group]
        try:
            shown = [_shown(image or renderer.render([m], [rig])[0]) for m, image in zip(group, mine, strict=True)]
            small = [downsample(image, settings.samples) for image in shown]
            row["images"] = [pack_arrays(quantise_views(image, settings.channels)) for image in small]
            row["statistics"] = _statistics(group[0]).model_dump_json()
        except MeshError as error:
            mesh = PIECE.validate_json(row["piece"]).sample.frames[0].mesh
            row["failure"] = failure_of("render", MeshError(f"{mesh}: {error}"))
        except Exception as error:
            row["failure"] = failure_of("render", error)
    for row in good:
        row[seconds_of("render")] = (time.perf_counter() - began) / len(good)
    return _table(rows, RENDERED)


def encode_pieces(table: pa.Table, settings: RenderSettings) -> pa.Table:
    """Encode the images of the frames that are kept, and add up those that a dynamic image is made from."""

    def encode(row: Row) -> Row:
        piece, shot = PIECE.validate_json(row["piece"]), SHOT.validate_json(row["shot"])
        frames = [unpack_arrays(block) for block in row["images"]]
        temporal = "frames" if piece.sample.frame_rate is None else settings.sequences.temporal
        members = [] if temporal == "dynamic" else [image for pixels in frames for image in encode_frame(pixels)]
        if temporal == "frames":
            return {"members": members}
        weights = rank_pooling_weights(len(shot.numbers))[piece.start : piece.stop]
        sums = {channel: weighted_sum([pixels[channel] for pixels in frames], weights) for channel in frames[0]}
        return {"members": members, "sums": pack_arrays(sums)}

    return _map_rows(table, "encode", encode, ENCODED)


@functools.cache
def cached_renderer(name: RendererName) -> Renderer:
    """One renderer a process: a worker that takes the next batch does not build it again."""
    return build_renderer(name)


def asdict_arrays(mesh: Mesh) -> dict[str, np.ndarray]:
    """The arrays of a mesh that are there, by field name."""
    return {f.name: value for f in fields(mesh) if isinstance(value := getattr(mesh, f.name), np.ndarray)}


def failure_of(stage: str, error: Exception, root: str = "") -> str:
    """A failed stage and its reason, as JSON."""
    # A MeshError is written for people; anything else is our own mistake, and its where in the code helps to mend it.
    where = "" if isinstance(error, (MeshError, OSError)) else f" at {_place(error)}"
    reason = f"{error}" if isinstance(error, MeshError) else f"{type(error).__name__}: {error}{where}"
    # Reasons begin with the file; where the dataset lay on this machine says nothing to whoever reads the table.
    reason = printable(reason.replace(f"{root}/", "") if root else reason)
    return json.dumps({"stage": stage, "reason": reason[:1000]})


def _mesh(block: pa.Buffer) -> Mesh:
    arrays: dict[str, Any] = unpack_arrays(block)
    return Mesh(**arrays)


def _rig(row: Row, settings: RenderSettings) -> Rig:
    """The cameras of a row's sample, as fine as its samples are."""
    return settings.rig_of(PIECE.validate_json(row["piece"]).sample.key).finer(settings.samples)


def _shown(image: ViewImages) -> ViewImages:
    if not image.depth.any():
        raise MeshError("shows nothing in any view: the mesh is empty, degenerate or out of sight")
    return image


def _map_rows(
    table: pa.Table, stage: str, function: Callable[[Row], Row], schema: pa.Schema, root: str = ""
) -> pa.Table:
    return _table((_mapped(row, stage, function, root) for row in _rows(table)), schema)


def _mapped(row: Row, stage: str, function: Callable[[Row], Row], root: str) -> Row:
    if row.get("failure") is None:
        began = time.perf_counter()
        try:
            row |= function(row)
        except StorageError as error:
            row["failure"] = json.dumps({"stage": STORAGE, "reason": str(error)})
        except Exception as error:
            row["failure"] = failure_of(stage, error, root)
        row[seconds_of(stage)] = time.perf_counter() - began
    return row


def _rows(table: pa.Table) -> Iterator[Row]:
    """The rows of a table; blocks of arrays are views of its memory, which may be most of what a worker has."""
    for i in range(len(table)):
        yield {
            name: _views(column[i].values) if column.type == _BLOCKS else column[i].as_py()
            for name, column in zip(table.column_names, table.columns, strict=True)
        }


def _views(blocks: pa.LargeBinaryArray | None) -> list[pa.Buffer] | None:
    """Each of some blocks, not copied: a scalar of Arrow would be a copy."""
    if not blocks:
        return None
    _, offsets, content = blocks.buffers()
    ends = np.frombuffer(offsets, np.int64)[blocks.offset : blocks.offset + len(blocks) + 1].tolist()
    return [content.slice(start, stop - start) for start, stop in pairwise(ends)]


def _table(rows: Iterable[Row], schema: pa.Schema) -> pa.Table:
    """A table of rows, each of which becomes part of it before the next one is made: none is there twice."""
    parts = [pa.Table.from_pylist([{name: row.get(name) for name in schema.names}], schema) for row in rows]
    return pa.concat_tables(parts) if parts else schema.empty_table()


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _statistics(mesh: Mesh) -> MeshStatistics:
    surface: Literal["texture", "vertex-colors", "plain"] = (
        "texture" if mesh.texture is not None else "plain" if mesh.colors is None else "vertex-colors"
    )
    num_landmarks = 0 if mesh.landmarks is None else len(mesh.landmarks)
    return MeshStatistics(
        num_vertices=len(mesh.vertices), num_faces=len(mesh.faces), surface=surface, num_landmarks=num_landmarks
    )
