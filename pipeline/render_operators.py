"""The operators of the render job: read, render, encode. Each takes an Arrow table of samples and gives one back.

A row that fails anywhere becomes a row that says so (`failure`), and the later operators let it pass: one bad scan is a
row of `failures.parquet`, never the end of the job.

    read    source                     -> + sources, frame, mesh (packed arrays)
    render  mesh                       -> + statistics, images (packed arrays, quantised)
    encode  images, source, frame, ... -> record, text, members (encoded images)
"""

import functools
import json
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from blake3 import blake3
from pydantic import TypeAdapter

from pipeline.arrays import pack_arrays, unpack_arrays
from pipeline.layouts.layout import ScanSource
from pipeline.meshes.mesh import Mesh, MeshError
from pipeline.meshes.scan import read_scan
from pipeline.render_plan import stat_source
from pipeline.rendering.choice import RendererName, build_renderer
from pipeline.rendering.encode import DEPTH_SCALE, encode_views, quantise_views
from pipeline.rendering.frame import apply_frame, canonical_frame
from pipeline.rendering.renderer import Renderer, ViewImages
from pipeline.rendering.settings import RenderSettings
from shards.index import SourceFile
from shards.manifest import canonical_json, fingerprint
from shards.sample import Frame, MeshStatistics, SampleRecord

SOURCES = TypeAdapter(tuple[SourceFile, ...])
_SCAN_SOURCE = TypeAdapter(ScanSource)
Row = dict[str, Any]

_SOURCE = [("source", pa.string()), ("sources", pa.string()), ("failure", pa.string())]
READ = pa.schema([*_SOURCE, ("frame", pa.string()), ("mesh", pa.large_binary())])
RENDERED = pa.schema(
    [*_SOURCE, ("frame", pa.string()), ("statistics", pa.string()), ("images", pa.large_binary())],
)
ENCODED = pa.schema(
    [*_SOURCE, ("record", pa.string()), ("text", pa.string()), ("members", pa.list_(pa.large_binary()))],
)


def sources_table(samples: Iterable[ScanSource]) -> pa.Table:
    """Samples as rows that the first operator takes."""
    return pa.table({"source": [json.dumps(asdict(sample)) for sample in samples]})


def read_scans(table: pa.Table, root: str) -> pa.Table:
    """Read, digest and frame each sample's files."""

    def read(row: Row) -> Row:
        sample = _SCAN_SOURCE.validate_json(row["source"])
        row["sources"] = SOURCES.dump_json(tuple(_digest(Path(root), path) for path in sample.files)).decode()
        texture, landmarks = (Path(root, path) if path else None for path in (sample.texture, sample.landmarks))
        mesh = read_scan(Path(root, sample.mesh), texture, landmarks)
        frame = canonical_frame(mesh)
        arrays = asdict_arrays(apply_frame(mesh, frame))
        return {"frame": frame.model_dump_json(), "mesh": pack_arrays(arrays)}

    return _map_rows(table, "read", read, READ, root)


def render_views(table: pa.Table, settings: RenderSettings) -> pa.Table:
    """Render all meshes of the table in one call of the renderer; if that fails, one by one, to find the culprit."""
    renderer, rig = cached_renderer(settings.renderer), settings.rig
    rows = table.to_pylist()
    good = [row for row in rows if row["failure"] is None]
    meshes = [_mesh(row["mesh"]) for row in good]
    try:
        images: list[ViewImages | None] = [*renderer.render(meshes, rig)] if meshes else []
    except Exception:
        images = [None] * len(good)
    for row, mesh, image in zip(good, meshes, images, strict=True):
        try:
            image = image or renderer.render([mesh], rig)[0]
            if not image.depth.any():
                raise MeshError("shows nothing in any view: the mesh is empty, degenerate or out of sight")
            row["images"] = pack_arrays(quantise_views(image, settings.channels))
            row["statistics"] = _statistics(mesh).model_dump_json()
        except Exception as error:
            row["failure"] = _failure("render", error)
    return pa.Table.from_pylist([{name: row.get(name) for name in RENDERED.names} for row in rows], RENDERED)


def encode_samples(table: pa.Table, settings: RenderSettings, layout: str) -> pa.Table:
    """Encode the images, draw the prompt and write the record of each sample."""
    rig = settings.rig

    def encode(row: Row) -> Row:
        sample = _SCAN_SOURCE.validate_json(row["source"])
        images = encode_views(unpack_arrays(row["images"]), rig)
        digests = [source.blake3 for source in SOURCES.validate_json(row["sources"])]
        record = SampleRecord(
            **{name: getattr(sample, name) for name in ("key", "subject", "expression", "level", "labels")},
            layout=layout,
            source=sample.mesh,
            fingerprint=fingerprint(settings.fingerprint, layout, asdict(sample), digests),
            text_source=settings.text_source,
            concept=sample.expression,
            cameras=rig.cameras,
            channels=settings.channels,
            frame=Frame.model_validate_json(row["frame"]),
            depth=DEPTH_SCALE if "depth" in settings.channels else None,
            mesh=MeshStatistics.model_validate_json(row["statistics"]),
        )
        text = settings.prompts.prompt_for(sample.key, sample.expression)
        return {"record": canonical_json(record), "text": text, "members": list(images.values())}

    return _map_rows(table, "encode", encode, ENCODED)


@functools.cache
def cached_renderer(name: RendererName) -> Renderer:
    """One renderer a process: a worker that takes the next batch does not build it again."""
    return build_renderer(name)


def asdict_arrays(mesh: Mesh) -> dict[str, np.ndarray]:
    """The arrays of a mesh that are there, by field name."""
    return {f.name: value for f in fields(mesh) if isinstance(value := getattr(mesh, f.name), np.ndarray)}


def _mesh(block: bytes) -> Mesh:
    arrays: dict[str, Any] = unpack_arrays(block)
    return Mesh(**arrays)


def _map_rows(
    table: pa.Table, stage: str, function: Callable[[Row], Row], schema: pa.Schema, root: str = ""
) -> pa.Table:
    rows = []
    for row in table.to_pylist():
        if row.get("failure") is None:
            try:
                row |= function(row)
            except Exception as error:
                row["failure"] = _failure(stage, error, root)
        rows.append({name: row.get(name) for name in schema.names})
    return pa.Table.from_pylist(rows, schema)


def _failure(stage: str, error: Exception, root: str = "") -> str:
    # A MeshError is written for people; anything else is our own mistake, and its place in the code helps to mend it.
    place = "" if isinstance(error, (MeshError, OSError)) else f" at {_place(error)}"
    reason = f"{error}" if isinstance(error, MeshError) else f"{type(error).__name__}: {error}{place}"
    # Reasons begin with the file; where the dataset lay on this machine says nothing to whoever reads the table.
    return json.dumps({"stage": stage, "reason": (reason.replace(f"{root}/", "") if root else reason)[:1000]})


def _place(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _digest(root: Path, path: str) -> SourceFile:
    size, mtime_ns = stat_source(root, path)
    try:
        content = blake3((root / path).read_bytes()).hexdigest(length=16)
    except OSError:
        # Reading it as a scan says what is wrong; the row needs size and time, to be noticed when it is mended.
        content = ""
    return SourceFile(path, size, mtime_ns, content)


def _statistics(mesh: Mesh) -> MeshStatistics:
    surface: Literal["texture", "vertex-colors", "plain"] = (
        "texture" if mesh.texture is not None else "plain" if mesh.colors is None else "vertex-colors"
    )
    num_landmarks = 0 if mesh.landmarks is None else len(mesh.landmarks)
    return MeshStatistics(
        num_vertices=len(mesh.vertices), num_faces=len(mesh.faces), surface=surface, num_landmarks=num_landmarks
    )
