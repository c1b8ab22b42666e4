"""From the rows of the render job to samples: pieces are put together again, prompts and records written."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from smile_pipe.pipeline.captions.prompts import Measures, Prompt, write_prompt
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.data_dir import open_data_dir
from smile_pipe.pipeline.render.arrays import unpack_arrays
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.operators import PIECE, SHOT, SOURCES, STORAGE, Row, failure_of
from smile_pipe.pipeline.render.reading import ReadInfo, SourceReader, read_piece
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import split_into_units
from smile_pipe.pipeline.rendering.encoding import DEPTH_SCALE, FLOW_SCALE
from smile_pipe.pipeline.sequences.dynamic_images import quantise_dynamic
from smile_pipe.shards.images import DYNAMIC, encode_image
from smile_pipe.shards.index import FailureRow, IndexRow, SourceFile
from smile_pipe.shards.sample import DynamicScale, MeshStatistics, Sample, SampleRecord, Timeline
from smile_pipe.shards.storage import StorageError, StoragePath


@dataclass(frozen=True)
class BuiltSample:
    """A sample with the files that it was made from, or why there is none.

    Attributes:
        images: mark of its images.
        fingerprint: mark of the whole; see `smile_pipe.pipeline.render.fingerprints`.
    """

    source: SampleSource
    files: tuple[SourceFile, ...]
    images: str
    fingerprint: str
    sample: Sample | None
    failure: str | None = None

    def failure_row(self, shard: str) -> FailureRow:
        """The failure as a row of `failures.parquet`."""
        return FailureRow(
            key=self.source.key,
            source=self.source.frames[0].mesh,
            shard=shard,
            fingerprint=self.fingerprint,
            sources=self.files,
            **json.loads(self.failure or "{}"),
        )


def build_samples(rows: Sequence[Row], layout: str, settings: RenderSettings) -> Iterator[BuiltSample]:
    """The samples of encoded rows; the pieces of a sample stand together, in the order of time.

    Raises:
        StorageError: the storage of the data directory failed.
    """
    marks = SampleFingerprints.of(settings, layout)
    pieces = [(PIECE.validate_json(row["piece"]), row) for row in rows]
    for _, group in groupby(pieces, key=lambda piece: piece[0].sample.key):
        mine = list(group)
        source, own = mine[0][0].sample, [row for _, row in mine]
        made = _unmade(source, _files(source, own), marks)
        failed = next((row["failure"] for row in own if row["failure"] is not None), None)
        if failed is not None and (about := json.loads(failed))["stage"] == STORAGE:
            raise StorageError(about["reason"])
        if failed is None:
            try:
                yield replace(made, sample=_sample(made, own, layout, settings))
                continue
            except Exception as error:
                failed = failure_of("text", error)
        yield replace(made, failure=failed)


def rewritten(
    source: SampleSource, row: IndexRow, before: Sample, settings: RenderSettings, root: StoragePath
) -> BuiltSample:
    """A sample with the images that it has and another record and prompt; only a caption needs its files read."""
    made = _unmade(source, row.sources, SampleFingerprints.of(settings, row.layout))
    with open_data_dir(root) as files:
        try:
            measures, reference = _measures(source, settings, SourceReader(files))
            prompt = write_prompt(source, settings.text_source, settings.prompts, measures, reference)
        except StorageError:
            raise
        except Exception as error:
            return replace(made, failure=failure_of("text", error, str(files.root)))
    changes = _described(made, row.layout, prompt, settings)
    return replace(made, sample=replace(before, record=before.record.model_copy(update=changes), text=prompt.text))


def _unmade(source: SampleSource, files: tuple[SourceFile, ...], marks: SampleFingerprints) -> BuiltSample:
    images = marks.images(source, files)
    return BuiltSample(source, files, images, marks.whole(source, images, files), None)


def _described(made: BuiltSample, layout: str, prompt: Prompt, settings: RenderSettings) -> dict[str, Any]:
    """The fields of a record that images do not decide."""
    same = ("key", "subject", "expression", "level", "labels")
    return {name: getattr(made.source, name) for name in same} | {
        "layout": layout,
        "source": made.source.frames[0].mesh,
        "fingerprint": made.fingerprint,
        "text_source": settings.text_source,
        "concept": prompt.concept,
        "action_units": made.source.action_units or {},
        "caption": prompt.caption,
    }


def _measures(source: SampleSource, settings: RenderSettings, reader: SourceReader) -> tuple[list[Measures], Measures]:
    if settings.text_source != "geometry":
        return [], None
    shots = [read_piece(piece, reader, settings)[0] for piece in split_into_units(source, settings)]
    return [measured for shot in shots for measured in shot.measures], shots[0].reference


def _files(source: SampleSource, rows: Sequence[Row]) -> tuple[SourceFile, ...]:
    """Each file once: those of the source in its order, then textures that meshes named."""
    read = {file.path: file for row in rows for file in SOURCES.validate_json(row["sources"] or "[]")}
    known = [read[path] for path in source.paths if path in read]
    return (*known, *(replace(read[path], named=True) for path in sorted(read.keys() - set(source.paths))))


def _sample(made: BuiltSample, rows: Sequence[Row], layout: str, settings: RenderSettings) -> Sample:
    source = made.source
    shots = [SHOT.validate_json(row["shot"]) for row in rows]
    measures = [measured for shot in shots for measured in shot.measures]
    prompt = write_prompt(source, settings.text_source, settings.prompts, measures, shots[0].reference)
    dynamic, scales = _dynamic(rows, settings)
    record = SampleRecord(
        **_described(made, layout, prompt, settings),
        cameras=settings.rig_of(source.key).cameras,
        channels=settings.channels,
        frame=shots[0].frame,
        depth=DEPTH_SCALE if "depth" in settings.channels else None,
        flow=FLOW_SCALE if "flow" in settings.channels else None,
        mesh=MeshStatistics.model_validate_json(rows[0]["statistics"]),
        timeline=None if source.frame_rate is None else _timeline(source, shots[0], settings, scales),
    )
    members = iter([member for row in rows for member in row["members"]])
    images = dynamic | {name: next(members) for name in _kept_names(record)}
    return Sample(record, prompt.text, images)


def _timeline(
    source: SampleSource, shot: ReadInfo, settings: RenderSettings, scales: dict[str, DynamicScale]
) -> Timeline:
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
        (view.name, f"{channel}.{DYNAMIC}"): encode_image(f"{channel}.{DYNAMIC}", pixels[channel][v])
        for v, view in enumerate(settings.views)
        for channel in pixels
    }
    return images, scales
