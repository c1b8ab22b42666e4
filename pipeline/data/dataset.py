"""Faces as tensors: from rows of the index to uint8 views of the size that the image tower takes.

Goes in: a shard set and rows. Comes out: batches, read ahead by threads while the model computes. Promised: each sample
is decoded once while the cache holds, whatever the number of epochs; the cache never outgrows its budget; of a sequence
no more frames are decoded than `DecodeSpec` allows; a damaged sample is in no batch.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smile_pipe.model.packing import PackedFrames
from smile_pipe.pipeline.data.integrity import BadSampleError, OnBadShard, first_good, naming, nothing_left
from smile_pipe.pipeline.data.resize import fit_image
from smile_pipe.pipeline.data.temporal import TemporalRead, moments_of
from smile_pipe.pipeline.rendering.cameras import Rig, View
from smile_pipe.shards.images import Pixels, as_rgb, decode_image
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import Camera, Sample, SampleError

# Batches that are read ahead, and samples that a thread takes at once: to wake another for each of them has its price.
READ_AHEAD = 3
READ_CHUNK = 8
# Decoding and shrinking, which are most of the work, do not hold Python's lock; what does keeps more threads waiting.
READ_THREADS = min(max(os.cpu_count() or 1, 2), 8)

# Displacements d are shown as tanh(d / FLOW_BEND), in frame units (9 mm): a millimetre at rest moves 14 of 255 levels,
# so that micro-expressions are seen, and a jaw that drops by 4 cm is still not clipped. The upper byte of the stored 16
# bits has 1.4 levels a millimetre.
FLOW_BEND = 0.1


@dataclass(frozen=True)
class DecodeSpec:
    """What of a sample the image tower sees: one channel, at its size, of some moments (`moments_of`)."""

    channel: str
    image_size: int
    temporal: TemporalRead = "none"
    max_frames: int = 16


@dataclass(frozen=True)
class FaceSample:
    """One decoded sample: views uint8 [T, V, 3, H, W], times float32 [T], its prompt and concept, and whose it is."""

    views: NDArray[np.uint8]
    times: NDArray[np.float32]
    text: str
    concept: str
    key: str
    subject: str


@dataclass(frozen=True)
class Batch:
    """Faces of one step, all moments of all B of them: views uint8 [N, V, 3, H, W], N the sum of `counts` [B]."""

    views: Tensor
    counts: Tensor
    times: Tensor
    texts: list[str]
    concepts: list[str]
    keys: list[str]
    subjects: list[str]

    @property
    def moments(self) -> PackedFrames:
        """Which views are of which face, and when."""
        return PackedFrames(self.counts, self.times)


class FaceDataset:
    """Reads and decodes samples of one shard set, and remembers what fits in memory.

    Attributes:
        skipped: keys of the samples that were left out, as they could not be read (`on_bad_shard="skip"`).
    """

    def __init__(
        self, shards: ShardSet, reading: DecodeSpec, cache_bytes: int, on_bad_shard: OnBadShard = "fail"
    ) -> None:
        self.shards, self.reading, self.on_bad_shard = shards, reading, on_bad_shard
        self.skipped: set[str] = set()
        self._budget = cache_bytes
        self._cache: dict[str, FaceSample] = {}

    def read(self, row: IndexRow) -> FaceSample:
        """One face.

        Raises:
            BadSampleError: it cannot be read, or has not what is read of the others.
        """
        face = self._cache.get(row.key)
        if face is None:
            with naming(row):
                face = decode_face(self.shards.read(row), self.reading)
            # Threads may overdraw the budget by the faces in their hands, which is nothing beside it.
            if face.views.nbytes <= self._budget:
                self._budget -= face.views.nbytes
                self._cache[row.key] = face
        return face

    def batches(self, groups: Iterable[Sequence[IndexRow]], spares: Sequence[IndexRow] = ()) -> Iterator[Batch]:
        """A batch for each group of rows, in order, with the next ones being read meanwhile.

        Where samples are skipped, a batch has fewer faces than its group has rows. A group of which nothing is left
        takes one of `spares`, the same whenever it is read, or without spares gives no batch.

        Raises:
            BadSampleError: see `read`; with `skip`, none of `spares` can be read.
        """
        with ThreadPoolExecutor(READ_THREADS) as readers, ThreadPoolExecutor(1) as collator:
            ahead: deque[Future[Batch | None]] = deque()
            for group in groups:
                chunks = [group[start : start + READ_CHUNK] for start in range(0, len(group), READ_CHUNK)]
                read = [readers.submit(self._read_chunk, chunk) for chunk in chunks]
                ahead.append(collator.submit(self._collate, group, read, spares))
                if len(ahead) > READ_AHEAD and (batch := ahead.popleft().result()):
                    yield batch
            while ahead:
                if batch := ahead.popleft().result():
                    yield batch

    def directions(self, rows: Sequence[IndexRow]) -> Tensor:
        """Unit vectors from the face towards each view's camera, [V, 3].

        All samples of a set share their rig; where each has its own jitter, those of the rig that all come from.
        """
        settings = self.shards.manifest.settings
        if settings.get("jitter_deg"):
            views = tuple(View.model_validate(view) for view in settings["views"])
            return directions_of(Rig.build(views, settings["size"], settings["projection"]).cameras)
        return directions_of(first_good(self.shards, rows, self.on_bad_shard).record.cameras)

    def _read_chunk(self, rows: Sequence[IndexRow]) -> list[FaceSample]:
        """The good ones of some rows."""
        return [face for row in rows if (face := self._read_good(row)) is not None]

    def _read_good(self, row: IndexRow) -> FaceSample | None:
        """One face, or None where it is skipped."""
        if row.key in self.skipped:
            return None
        try:
            return self.read(row)
        except BadSampleError:
            if self.on_bad_shard == "fail":
                raise
            self.skipped.add(row.key)
            return None

    def _collate(
        self, group: Sequence[IndexRow], read: Sequence[Future[list[FaceSample]]], spares: Sequence[IndexRow]
    ) -> Batch | None:
        faces = [face for future in read for face in future.result()]
        if not faces and spares:
            faces = [self._spare(group, spares)]
        return collate(faces) if faces else None

    def _spare(self, group: Sequence[IndexRow], spares: Sequence[IndexRow]) -> FaceSample:
        """The first good one of `spares` from where the group begins in them, so that not one stands for all."""
        start = next((n for n, row in enumerate(spares) if row.key == group[0].key), 0)
        for row in (*spares[start:], *spares[:start]):
            if (face := self._read_good(row)) is not None:
                return face
        raise nothing_left(self.shards, len(spares))


def directions_of(cameras: Sequence[Camera]) -> Tensor:
    """Unit vectors from the face towards each camera, [V, 3]."""
    return torch.tensor([[-axis[2] for axis in camera.R] for camera in cameras], dtype=torch.float32)


def decode_face(sample: Sample, reading: DecodeSpec) -> FaceSample:
    """Decode what is read of a sample; see `moments_of` for the errors."""
    record, size = sample.record, reading.image_size
    moments = moments_of(record, reading.temporal, reading.max_frames)
    views = np.empty((len(moments), len(record.cameras), 3, size, size), np.uint8)
    for t, moment in enumerate(moments):
        name = f"{reading.channel}{moment.suffix}"
        for v, camera in enumerate(record.cameras):
            pixels = decode_image(name, sample.images[camera.name, name], min_side=size)
            fit_image(as_rgb(_visible(pixels, sample, reading.channel)), views[t, v])
    times = np.array([moment.time for moment in moments], np.float32)
    return FaceSample(views, times, sample.text, record.concept, record.key, record.subject)


def flow_as_rgb(flow: NDArray[np.uint16], step: float) -> NDArray[np.uint8]:
    """Stored flow [H, W, 3], with `step` frame units a level -> uint8, 128 at rest: 128 + 127 tanh(d / `FLOW_BEND`)."""
    return _flow_levels(step)[flow]


@lru_cache(maxsize=4)
def _flow_levels(step: float) -> NDArray[np.uint8]:
    """The level that each stored number is shown as, [65536]."""
    distances = (np.arange(65536) - 32768) * step
    return np.nan_to_num(np.round(128 + 127 * np.tanh(distances / FLOW_BEND)), nan=128.0).astype(np.uint8)


def _visible(pixels: Pixels, sample: Sample, channel: str) -> Pixels:
    if channel != "flow" or pixels.dtype != np.uint16:
        return pixels
    if sample.record.flow is None:
        raise SampleError(f"{sample.record.key}.json: has flow images and no scale to read them by; render again")
    return flow_as_rgb(pixels.astype(np.uint16, copy=False), sample.record.flow.step)


def collate(faces: Sequence[FaceSample]) -> Batch:
    """Faces of one step, in their order."""
    return Batch(
        views=torch.from_numpy(np.concatenate([face.views for face in faces])),
        counts=torch.tensor([len(face.times) for face in faces]),
        times=torch.from_numpy(np.concatenate([face.times for face in faces])),
        texts=[face.text for face in faces],
        concepts=[face.concept for face in faces],
        keys=[face.key for face in faces],
        subjects=[face.subject for face in faces],
    )
