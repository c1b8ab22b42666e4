"""From the rows of the render job to samples: pieces are put together again, prompts and records written."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby

import numpy as np

from pipeline.arrays import unpack_arrays
from pipeline.layouts.layout import SampleSource
from pipeline.prompts.source import write_prompt
from pipeline.render_operators import PIECE, SHOT, SOURCES, Row, failure_of
from pipeline.render_read import Shot
from pipeline.rendering.encode import DEPTH_SCALE, FLOW_SCALE
from pipeline.rendering.settings import RenderSettings
from pipeline.sequences.dynamic import quantise_dynamic
from shards.failures import FailureRow
from shards.images import DYNAMIC, encode_image
from shards.index import SourceFile
from shards.manifest import fingerprint
from shards.sample import DynamicScale, MeshStatistics, Sample, SampleRecord, Timeline


@dataclass(frozen=True)
class Made:
    """A sample with the files that it was made from, or why there is none."""

    source: SampleSource
    files: tuple[SourceFile, ...]
    sample: Sample | None
    failure: str | None

    def failure_row(self, shard: str) -> FailureRow:
        """The failure as a row of `failures.parquet`."""
        about = json.loads(self.failure or "{}")
        return FailureRow(
            key=self.source.key, source=self.source.frames[0].mesh, shard=shard, sources=self.files, **about
        )


def made_from(rows: Sequence[Row], layout: str, settings: RenderSettings) -> Iterator[Made]:
    """The samples of encoded rows; the pieces of a sample stand together, in the order of time."""
    pieces = [(PIECE.validate_json(row["piece"]), row) for row in rows]
    for _, group in groupby(pieces, key=lambda piece: piece[0].sample.key):
        mine = list(group)
        source, own = mine[0][0].sample, [row for _, row in mine]
        files = _files(source, own)
        failed = next((row["failure"] for row in own if row["failure"] is not None), None)
        if failed is None:
            try:
                yield Made(source, files, _sample(source, own, files, layout, settings), None)
                continue
            except Exception as error:
                failed = failure_of("text", error)
        yield Made(source, files, None, failed)


def _files(source: SampleSource, rows: Sequence[Row]) -> tuple[SourceFile, ...]:
    """Each file once: those of the source in its order, then textures that meshes named."""
    read = {file.path: file for row in rows for file in SOURCES.validate_json(row["sources"] or "[]")}
    known = [read[path] for path in source.paths if path in read]
    return (*known, *(replace(read[path], named=True) for path in sorted(read.keys() - set(source.paths))))


def _sample(
    source: SampleSource, rows: Sequence[Row], files: Sequence[SourceFile], layout: str, settings: RenderSettings
) -> Sample:
    shots = [SHOT.validate_json(row["shot"]) for row in rows]
    measures = [measured for shot in shots for measured in shot.measures]
    prompt = write_prompt(source, settings.text_source, settings.prompts, measures, shots[0].reference)
    dynamic, scales = _dynamic(rows, settings)
    record = SampleRecord(
        **{name: getattr(source, name) for name in ("key", "subject", "expression", "level", "labels")},
        layout=layout,
        source=source.frames[0].mesh,
        fingerprint=fingerprint(settings.fingerprint, layout, asdict(source), [file.blake3 for file in files]),
        text_source=settings.text_source,
        concept=prompt.concept,
        cameras=settings.rig.cameras,
        channels=settings.channels,
        frame=shots[0].frame,
        depth=DEPTH_SCALE if "depth" in settings.channels else None,
        flow=FLOW_SCALE if "flow" in settings.channels else None,
        mesh=MeshStatistics.model_validate_json(rows[0]["statistics"]),
        timeline=None if source.frame_rate is None else _timeline(source, shots[0], settings, scales),
        action_units=source.action_units or {},
        caption=prompt.caption,
    )
    members = iter([member for row in rows for member in row["members"]])
    images = dynamic | {name: next(members) for name in _kept_names(record)}
    return Sample(record, prompt.text, images)


def _timeline(source: SampleSource, shot: Shot, settings: RenderSettings, scales: dict[str, DynamicScale]) -> Timeline:
    sequences = settings.sequences
    return Timeline(
        frame_rate=source.frame_rate or 0.0,
        num_source_frames=source.num_recorded,
        frames=shot.numbers,
        sampling=sequences.sampling,
        temporal=sequences.temporal,
        onset=source.numbers[0],
        apex=shot.apex,
        magnify=sequences.magnify,
        dynamic=scales,
    )


def _kept_names(record: SampleRecord) -> list[tuple[str, str]]:
    """The (view, name) of the images of frames as the operators encode them: by frame, view and channel."""
    moments = [""] if record.timeline is None else [f".{m}" for m in record.timeline.moments if m != DYNAMIC]
    views = [camera.name for camera in record.cameras]
    return [(view, f"{channel}{moment}") for moment in moments for view in views for channel in record.channels]


def _dynamic(
    rows: Sequence[Row], settings: RenderSettings
) -> tuple[dict[tuple[str, str], bytes], dict[str, DynamicScale]]:
    parts = [unpack_arrays(row["sums"]) for row in rows if row["sums"] is not None]
    if not parts:
        return {}, {}
    sums = {channel: np.sum([part[channel] for part in parts], axis=0) for channel in parts[0]}
    pixels, scales = quantise_dynamic(sums)
    images = {
        (camera.name, f"{channel}.{DYNAMIC}"): encode_image(f"{channel}.{DYNAMIC}", pixels[channel][v])
        for v, camera in enumerate(settings.rig.cameras)
        for channel in pixels
    }
    return images, scales
