"""Build samples from processed units, and shards from samples: prompts, records, tars.

Reused samples of a shard are packed again from its earlier version, and some get a new record and prompt around the
same images.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np

from smile_pipe.pipeline.captions.prompts import Prompt, write_prompt
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.data_dir import DataDir, open_data_dir
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.output import RenderOutput, ShardRecord
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.reading import SourceReader, read_frames
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import StepSeconds
from smile_pipe.pipeline.render.units import STORAGE, Failure, ProcessedUnit, ReadInfo, notes_of, split_into_units
from smile_pipe.pipeline.rendering.encoding import DEPTH_SCALE, FLOW_SCALE
from smile_pipe.pipeline.sequences.dynamic_images import quantise_dynamic
from smile_pipe.shards.errors import StorageError
from smile_pipe.shards.images import DYNAMIC, encode_image
from smile_pipe.shards.index import FailureRow, IndexRow, SourceFile
from smile_pipe.shards.manifest import SCHEMA_VERSION
from smile_pipe.shards.reader import ShardError, read_members
from smile_pipe.shards.sample import DynamicScale, Sample, SampleRecord, Timeline, from_members
from smile_pipe.shards.storage import StoragePath
from smile_pipe.shards.writer import PackedSample, digest_of, pack, pack_members, write_shard

MAX_NOTES = 8


@dataclass(frozen=True)
class BuiltSample:
    """A sample with the files that it was made from, or the reason why it could not be built.

    Attributes:
        source: the sample's files and labels.
        source_files: every file that the sample depends on, with its digest.
        images_fingerprint: see `SampleFingerprints.images`.
        fingerprint: see `SampleFingerprints.whole`.
        sample: None if it failed.
        failure: None if it did not fail.
    """

    source: SampleSource
    source_files: tuple[SourceFile, ...]
    images_fingerprint: str
    fingerprint: str
    sample: Sample | None = None
    failure: Failure | None = None

    def failure_row(self, shard: str) -> FailureRow:
        """Return the row of `failures.parquet`; `self.failure` must be set."""
        assert self.failure is not None
        return FailureRow(
            key=self.source.key,
            source=self.source.frames[0].mesh,
            stage=self.failure.stage,
            reason=self.failure.reason,
            shard=shard,
            fingerprint=self.fingerprint,
            sources=self.source_files,
        )


@dataclass(frozen=True)
class WrittenShard:
    """A shard that is on disk, the workers' time that it took, and the notes of its new samples."""

    record: ShardRecord
    seconds: StepSeconds
    notes: tuple[str, ...] = ()


def build_shard(
    task: ShardTask,
    units: Sequence[ProcessedUnit],
    root: StoragePath,
    settings: RenderSettings,
    fingerprints: SampleFingerprints,
    output: RenderOutput,
) -> WrittenShard:
    """Write one shard, and its record once the shard has its final name.

    Args:
        task: the shard to build; its `samples` are not looked at.
        units: the encoded units of the task's samples; units of one sample are neighbours, in the order of time.
        root: the data directory.
        settings: how the units were rendered.
        fingerprints: of these settings.
        output: where the shard is written.

    Raises:
        ShardError: the earlier version of the shard is damaged.
        StorageError: the storage of the data directory failed.
        OSError: the shard cannot be written.
    """
    began = time.perf_counter()
    built = list(build_samples(units, settings, fingerprints))
    entries: list[tuple[PackedSample, IndexRow]] = []
    for reused in task.reused:
        members = read_members(_read_stored(output.shards / task.name, reused.row), task.name)
        if reused.source is None:
            # Not the bytes as they are: shards of an earlier schema version have the members in another order.
            entries.append((PackedSample(pack_members(members), reused.row.fingerprint), reused.row))
        else:
            stored = from_members(members)
            built.append(rewrite_sample(reused.source, reused.row, stored, settings, fingerprints, root))
    for one in built:
        if one.sample is not None:
            entries.append((pack(one.sample), _index_row(task.name, one, one.sample.record)))
    entries.sort(key=lambda entry: entry[1].key)
    # If this task is killed after the shard is written, a record of the earlier version would vouch for the new one.
    output.remove_record(task.name)
    path = output.shards / task.name
    entry, locations = write_shard(path, [packed for packed, _ in entries]) if entries else (None, [])
    if entry is None:
        path.unlink(missing_ok=True)
    failures = [*task.failures, *(one.failure_row(task.name) for one in built if one.sample is None)]
    record = ShardRecord(
        name=task.name,
        settings=settings.images_fingerprint,
        entry=entry,
        rows=tuple(replace(row, **vars(at)) for (_, row), at in zip(entries, locations, strict=True)),
        failures=tuple(sorted(failures, key=lambda failure: failure.key)),
        schema_version=SCHEMA_VERSION,
    )
    output.write_record(record)
    seconds = sum((unit.seconds for unit in units), StepSeconds(write=time.perf_counter() - began))
    notes = tuple(note for one in built if one.sample is not None for note in one.sample.record.notes.splitlines())
    return WrittenShard(record, seconds, notes)


def build_samples(
    units: Sequence[ProcessedUnit], settings: RenderSettings, fingerprints: SampleFingerprints
) -> Iterator[BuiltSample]:
    """Put the encoded units of each sample together; units of one sample are neighbours, in the order of time.

    Raises:
        StorageError: the storage of the data directory failed.
    """
    for _, group in groupby(units, key=lambda unit: unit.work.sample.key):
        own = list(group)
        source = own[0].work.sample
        built = _without_sample(source, _source_files(source, own), fingerprints)
        failure = next((unit.failure for unit in own if unit.failure is not None), None)
        if failure is not None and failure.stage == STORAGE:
            raise StorageError(failure.reason)
        if failure is None:
            try:
                yield replace(built, sample=_sample(built, own, fingerprints.layout, settings))
                continue
            except Exception as error:
                failure = Failure.of("text", error)
        yield replace(built, failure=failure)


def rewrite_sample(
    source: SampleSource,
    row: IndexRow,
    stored: Sample,
    settings: RenderSettings,
    fingerprints: SampleFingerprints,
    root: StoragePath,
) -> BuiltSample:
    """Give a sample a new record and prompt around the images that it has.

    Files are read only for captions, which measure the meshes, or to find out which notes of earlier captions remain.

    Args:
        source: the sample's files and labels now.
        row: the sample in the index.
        stored: the sample in its shard.
        settings: how the images were rendered, and how prompts are written.
        fingerprints: of these settings.
        root: the data directory.
    """
    built = _without_sample(source, row.sources, fingerprints)
    with open_data_dir(root) as data_dir:
        try:
            was_measured = stored.record.text_source == "geometry" and bool(stored.record.notes)
            infos = _read(source, settings, data_dir) if settings.text_source == "geometry" or was_measured else []
            measures = [measured for info in infos for measured in info.measures]
            reference = infos[0].reference if infos else None
            prompt = write_prompt(source, settings.text_source, settings.prompts, measures, reference)
        except StorageError:
            raise
        except Exception as error:
            return replace(built, failure=Failure.of("text", error, str(data_dir.root)))
    changes = _labels_and_text(built, fingerprints.layout, prompt, settings)
    if infos:
        changes["notes"] = _join_notes(notes_of(source, infos))
    return replace(built, sample=replace(stored, record=stored.record.model_copy(update=changes), text=prompt.text))


def _without_sample(
    source: SampleSource, files: tuple[SourceFile, ...], fingerprints: SampleFingerprints
) -> BuiltSample:
    images = fingerprints.images(source, files)
    return BuiltSample(source, files, images, fingerprints.whole(source, images, files))


def _source_files(source: SampleSource, units: Sequence[ProcessedUnit]) -> tuple[SourceFile, ...]:
    """Each file once: those of the source in its order, then textures that only meshes name."""
    read = {file.path: file for unit in units for file in unit.sources}
    known = [read[path] for path in source.paths if path in read]
    return (*known, *(replace(read[path], named=True) for path in sorted(read.keys() - set(source.paths))))


def _sample(built: BuiltSample, units: Sequence[ProcessedUnit], layout: str, settings: RenderSettings) -> Sample:
    source, statistics = built.source, units[0].statistics
    infos = [unit.info for unit in units if unit.info is not None]
    assert statistics is not None
    measures = [measured for info in infos for measured in info.measures]
    prompt = write_prompt(source, settings.text_source, settings.prompts, measures, infos[0].reference)
    dynamic, scales = _dynamic_images(units, settings)
    record = SampleRecord(
        **_labels_and_text(built, layout, prompt, settings),
        cameras=settings.rig_of(source.key).cameras,
        channels=settings.channels,
        frame=infos[0].frame,
        depth=DEPTH_SCALE if "depth" in settings.channels else None,
        flow=FLOW_SCALE if "flow" in settings.channels else None,
        mesh=statistics,
        timeline=None if source.frame_rate is None else _timeline(source, infos[0], settings, scales),
        notes=_join_notes(notes_of(source, infos)),
    )
    encoded = iter([image for unit in units for image in unit.images])
    return Sample(record, prompt.text, dynamic | {name: next(encoded) for name in _frame_image_names(record)})


def _join_notes(notes: Sequence[str]) -> str:
    """Join notes to lines, and shorten a long list: each frame of a sequence may have a note."""
    if len(notes) > MAX_NOTES:
        notes = [*notes[: MAX_NOTES - 1], f"and {len(notes) - MAX_NOTES + 1} more notes"]
    return "\n".join(notes)


def _labels_and_text(built: BuiltSample, layout: str, prompt: Prompt, settings: RenderSettings) -> dict[str, Any]:
    """The fields of a record that do not depend on the images."""
    labels = ("key", "subject", "expression", "level", "labels")
    return {name: getattr(built.source, name) for name in labels} | {
        "layout": layout,
        "source": built.source.frames[0].mesh,
        "fingerprint": built.fingerprint,
        "text_source": settings.text_source,
        "concept": prompt.concept,
        "action_units": built.source.action_units or {},
        "caption": prompt.caption,
    }


def _read(source: SampleSource, settings: RenderSettings, data_dir: DataDir) -> list[ReadInfo]:
    reader = SourceReader(data_dir)
    return [read_frames(unit, reader, settings)[0] for unit in split_into_units(source, settings)]


def _timeline(
    source: SampleSource, info: ReadInfo, settings: RenderSettings, scales: Mapping[str, DynamicScale]
) -> Timeline:
    sequences = settings.sequences
    return Timeline(
        frame_rate=source.frame_rate or 0.0,
        num_source_frames=source.num_recorded,
        frames=info.numbers,
        sampling=sequences.sampling,
        temporal=sequences.temporal,
        onset=source.numbers[0],
        apex=info.apex,
        magnify=sequences.magnify,
        dynamic=scales,
    )


def _frame_image_names(record: SampleRecord) -> list[tuple[str, str]]:
    """(view, channel[.frame]) of the images of frames, in the order of `encode_unit`: by frame, view and channel."""
    frames = [""] if record.timeline is None else [f".{m}" for m in record.timeline.moments if m != DYNAMIC]
    views = [camera.name for camera in record.cameras]
    return [(view, f"{channel}{frame}") for frame in frames for view in views for channel in record.channels]


def _dynamic_images(
    units: Sequence[ProcessedUnit], settings: RenderSettings
) -> tuple[dict[tuple[str, str], bytes], dict[str, DynamicScale]]:
    parts = [unit.weighted_sums for unit in units if unit.weighted_sums]
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


def _read_stored(path: StoragePath, row: IndexRow) -> bytes:
    """Read the bytes of a sample in the earlier version of its shard.

    Raises:
        ShardError: they have another digest than the index says.
    """
    content = path.read_range(row.offset, row.bytes)
    if digest_of(content) != row.digest:
        raise ShardError(f"{path}: {row.key} is damaged and cannot be used again; delete this shard, then render again")
    return content


def _index_row(shard: str, built: BuiltSample, record: SampleRecord) -> IndexRow:
    """The index row of a sample; offset, size and digest are filled in when the shard is written."""
    same = ("key", "subject", "expression", "level", "labels", "layout", "fingerprint")
    return IndexRow(
        **{name: getattr(record, name) for name in same},
        num_frames=1 if record.timeline is None else len(record.timeline.frames),
        frame_rate=0.0 if record.timeline is None else record.timeline.frame_rate,
        shard=shard,
        offset=0,
        bytes=0,
        digest="",
        images=built.images_fingerprint,
        framed_by=record.frame.method,
        surface=record.mesh.surface,
        sources=built.source_files,
    )
