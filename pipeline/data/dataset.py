"""Dataset of faces: rows of an index to batches of uint8 views at the input size of the image tower.

Threads read and decode ahead while the model computes. Each sample is decoded once as long as the cache has room. Of a
sequence no more frames are decoded than `DecodeSpec` allows. Damaged samples never enter a batch.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_pipe.model.packing import PackedFrames
from smile_pipe.pipeline.data.input_images import INPUT_VERSION, fit_view
from smile_pipe.pipeline.data.integrity import (
    DAMAGE,
    OnBadShard,
    first_readable,
    no_readable_sample,
    raise_bad_sample,
)
from smile_pipe.pipeline.data.temporal import TemporalRead, select_frames
from smile_pipe.pipeline.rendering.cameras import Rig, View
from smile_pipe.shards.cache import local_folder, request_ahead
from smile_pipe.shards.images import decode_image
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import Camera, Caption, Sample
from smile_pipe.shards.streaming import OnBadSample, sample_pipeline

# Number of batches read ahead, and of samples per task: waking a thread for each sample has a cost.
READ_AHEAD = 3
READ_CHUNK = 8
# Least number of threads if reading does not compete with the model for cores: threads that wait for a remote storage
# need no core, and with a GPU the cores are free.
MIN_FREE_READERS = 8


@dataclass(frozen=True)
class DecodeSpec:
    """Which images of a sample are decoded, and at which size.

    Attributes:
        channels: Channels of the images; a view has three colours of each, in this order.
        image_size: Height and width of the result, in pixels.
        temporal: Which frames of a sequence are read; see `select_frames`.
        max_frames: Largest number of frames of a sequence.
        input_version: See `INPUT_VERSION`.
    """

    channels: tuple[str, ...]
    image_size: int
    temporal: TemporalRead = "none"
    max_frames: int = 16
    input_version: int = INPUT_VERSION


@dataclass(frozen=True)
class FaceSample:
    """One decoded sample.

    Attributes:
        views: uint8 [T, V, 3 C, H, W] with C channels.
        times: float32 [T]; see `PackedFrames`.
        text: Its prompt.
        concept: What the prompt means; equal for prompts of one expression.
        key: Its unique name.
        subject: The person.
        caption: What the prompt was measured from; None if it is not a caption.
    """

    views: NDArray[np.uint8]
    times: NDArray[np.float32]
    text: str
    concept: str
    key: str
    subject: str
    caption: Caption | None = None


@dataclass(frozen=True)
class Batch:
    """B samples with all of their N frames.

    Attributes:
        views: uint8 [N, V, 3 C, H, W] with C channels.
        frames: Which views belong to which sample, and when.
        texts: Prompts, one per sample.
        concepts: Concepts of the prompts.
        keys: Names of the samples.
        subjects: Persons.
        captions: What the prompts were measured from.
    """

    views: Tensor
    frames: PackedFrames
    texts: list[str]
    concepts: list[str]
    keys: list[str]
    subjects: list[str]
    captions: list[Caption | None] = field(default_factory=list)


@dataclass(frozen=True)
class DiskCache:
    """Where copies of remote shards are kept; see `smile_pipe.shards.reader.ShardSet.with_cache`.

    Attributes:
        folder: None for the cache folder of the user; shards on a local disk are then not copied.
        max_bytes: Largest size of the folder.
    """

    folder: Path | None = None
    max_bytes: int = 20 << 30

    @classmethod
    def of(cls, folder: Path | None, gigabytes: float) -> Self:
        """Return the cache that two options give; a folder that is given is created.

        Raises:
            UsageError: It cannot be written.
        """
        return cls(local_folder(folder) if folder else None, round(gigabytes * 2**30))


class FaceDataset:
    """Reads and decodes samples of shards, with a cache in memory, and one on disk for remote shards.

    Attributes:
        shards: The shard set.
        decode_spec: What is decoded.
        pin_memory: Whether batches are collated in pinned memory, from which copies to a GPU need no waiting.
        skipped: Keys of the samples that were left out because they cannot be read (`on_bad_shard="skip"`).
    """

    def __init__(
        self,
        shards: ShardSet,
        decode_spec: DecodeSpec,
        cache_bytes: int,
        on_bad_shard: OnBadShard = "fail",
        pin_memory: bool = False,
        disk_cache: DiskCache = DiskCache(),
    ) -> None:
        self.shards = shards.with_cache(disk_cache.folder, disk_cache.max_bytes)
        self.decode_spec, self.on_bad_shard = decode_spec, on_bad_shard
        self.pin_memory = pin_memory
        self.skipped: set[str] = set()
        self._free_bytes = cache_bytes
        self._cache: dict[str, FaceSample] = {}

    def read(self, row: SampleRow) -> FaceSample:
        """Read one sample, from the cache if it is there.

        Raises:
            BadSampleError: It cannot be read, or lacks the images that are read of the others.
        """
        return self._read([row], raise_bad_sample)[0]

    def batches(self, groups: Iterable[Sequence[SampleRow]], spares: Sequence[SampleRow] = ()) -> Iterator[Batch]:
        """Yield a batch for each group of rows, in order, while the next ones are read.

        If samples are skipped, a batch has fewer samples than its group has rows. A group without a readable sample
        takes one of `spares`, the same one each time it is read; without spares it gives no batch.

        Raises:
            BadSampleError: See `read`; with `skip`, none of `spares` can be read.
        """
        with ThreadPoolExecutor(self._num_readers()) as readers, ThreadPoolExecutor(1) as collator:
            pending: deque[Future[Batch | None]] = deque()
            for group in request_ahead(self.shards.copies, groups, lambda row: row.key not in self._cache):
                chunks = [group[start : start + READ_CHUNK] for start in range(0, len(group), READ_CHUNK)]
                parts = [readers.submit(self._read_chunk, chunk) for chunk in chunks]
                pending.append(collator.submit(self._collate, group, parts, spares))
                if len(pending) > READ_AHEAD and (batch := pending.popleft().result()):
                    yield batch
            while pending:
                if batch := pending.popleft().result():
                    yield batch

    def directions(self, rows: Sequence[SampleRow]) -> Tensor:
        """Unit vectors from the face to the camera of each view, [V, 3].

        All samples of a set share their rig. If each sample has its own camera jitter, the result is of the rig before
        jitter.
        """
        settings = self.shards.manifest.settings
        if settings.get("jitter_deg"):
            views = tuple(View.model_validate(view) for view in settings["views"])
            return directions_of(Rig.build(views, settings["size"], settings["projection"]).cameras)
        return directions_of(first_readable(self.shards, rows, self.on_bad_shard).record.cameras)

    def _num_readers(self) -> int:
        """One thread per core of this process: decoding and shrinking, which are most of the work, release the GIL."""
        cores = torch.get_num_threads()
        competes = self.shards.is_near and not self.pin_memory
        return cores if competes else max(cores, MIN_FREE_READERS)

    def _read_chunk(self, rows: Sequence[SampleRow]) -> list[FaceSample]:
        return self._read([row for row in rows if row.key not in self.skipped], self._fail_or_skip)

    def _fail_or_skip(self, row: SampleRow, error: Exception) -> None:
        if self.on_bad_shard == "fail" or not isinstance(error, DAMAGE):
            raise_bad_sample(row, error)
        self.skipped.add(row.key)

    def _read(self, rows: Sequence[SampleRow], on_bad_sample: OnBadSample) -> list[FaceSample]:
        """Read and decode samples, in their order and without the bad ones; those in the cache are not read."""
        faces = {row.key: face for row in rows if (face := self._cache.get(row.key)) is not None}
        missing = {row.key: row for row in rows if row.key not in faces}
        for sample in sample_pipeline(self.shards, list(missing.values()), on_bad_sample) if missing else ():
            key = sample.record.key
            try:
                face = faces[key] = decode_face(sample, self.decode_spec)
            except DAMAGE as error:
                on_bad_sample(missing[key], error)
                continue
            # Without a lock, threads may exceed the limit by the faces that they hold, which is negligible.
            if face.views.nbytes <= self._free_bytes:
                self._free_bytes -= face.views.nbytes
                self._cache[key] = face
        return [faces[row.key] for row in rows if row.key in faces]

    def _collate(
        self, group: Sequence[SampleRow], parts: Sequence[Future[list[FaceSample]]], spares: Sequence[SampleRow]
    ) -> Batch | None:
        faces = [face for future in parts for face in future.result()]
        if not faces and spares:
            faces = [self._read_spare(group, spares)]
        return collate(faces, self.pin_memory) if faces else None

    def _read_spare(self, group: Sequence[SampleRow], spares: Sequence[SampleRow]) -> FaceSample:
        """Read the first good one of `spares`, starting at the group, so that different groups take different ones."""
        start = next((n for n, row in enumerate(spares) if row.key == group[0].key), 0)
        for row in chain(spares[start:], spares[:start]):
            if faces := self._read_chunk([row]):
                return faces[0]
        raise no_readable_sample(self.shards, len(spares))


def directions_of(cameras: Sequence[Camera]) -> Tensor:
    """Unit vectors from the face to each camera, [V, 3]."""
    return torch.tensor([[-axis[2] for axis in camera.R] for camera in cameras], dtype=torch.float32)


def decode_face(sample: Sample, decode_spec: DecodeSpec) -> FaceSample:
    """Decode the images of a sample that `decode_spec` selects.

    Raises:
        SampleError: See `select_frames`; or the sample has images of depth or flow without their scale.
        ImageError: An image cannot be decoded.
    """
    record, size, channels = sample.record, decode_spec.image_size, decode_spec.channels
    frames = select_frames(record, decode_spec.temporal, decode_spec.max_frames)
    views = np.empty((len(frames), len(record.cameras), 3 * len(channels), size, size), np.uint8)
    for (t, frame), (c, channel) in product(enumerate(frames), enumerate(channels)):
        name = f"{channel}{frame.suffix}"
        for v, camera in enumerate(record.cameras):
            pixels = decode_image(name, sample.images[camera.name, name], min_side=size)
            fit_view(pixels, record, channel, views[t, v, 3 * c : 3 * c + 3], decode_spec.input_version)
    times = np.array([frame.time for frame in frames], np.float32)
    return FaceSample(views, times, sample.text, record.concept, record.key, record.subject, record.caption)


def collate(faces: Sequence[FaceSample], pin_memory: bool = False) -> Batch:
    """Combine samples to a batch, in their order; the views may be written to pinned memory."""
    shape = (sum(len(face.views) for face in faces), *faces[0].views.shape[1:])
    views = torch.empty(shape, dtype=torch.uint8, pin_memory=pin_memory)
    np.concatenate([face.views for face in faces], out=views.numpy())
    counts = torch.tensor([len(face.times) for face in faces])
    return Batch(
        views=views,
        frames=PackedFrames(counts, torch.from_numpy(np.concatenate([face.times for face in faces]))),
        texts=[face.text for face in faces],
        concepts=[face.concept for face in faces],
        keys=[face.key for face in faces],
        subjects=[face.subject for face in faces],
        captions=[face.caption for face in faces],
    )
