"""Faces as tensors: from rows of the index to uint8 views of the size that the image tower takes.

Goes in: a shard set and rows. Comes out: batches, read ahead by threads while the model computes. Promised: each sample
is decoded once while the cache holds, whatever the number of epochs; the cache never outgrows its budget.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from shards.images import as_rgb, decode_image
from shards.index import IndexRow
from shards.reader import ShardSet
from shards.sample import Sample

READ_AHEAD = 3
READ_THREADS = 2


@dataclass(frozen=True)
class Face:
    """One decoded sample: views uint8 [V, 3, H, W], and its prompt and concept."""

    views: NDArray[np.uint8]
    text: str
    concept: str


@dataclass(frozen=True)
class Batch:
    """Faces of one step: views uint8 [B, V, 3, H, W], prompts, and concepts."""

    views: Tensor
    texts: list[str]
    concepts: list[str]


class FaceReader:
    """Reads and decodes samples of one shard set, and remembers what fits in memory."""

    def __init__(self, shards: ShardSet, channel: str, image_size: int, cache_bytes: int) -> None:
        self.shards, self.channel, self.image_size = shards, channel, image_size
        self._budget = cache_bytes
        self._cache: dict[str, Face] = {}

    def read(self, row: IndexRow) -> Face:
        """One face; see `shards.reader.ShardSet.read` for the errors."""
        face = self._cache.get(row.key)
        if face is None:
            sample = self.shards.read(row)
            face = Face(self._decode(sample), sample.text, sample.record.concept)
            # Threads may overdraw the budget by the faces in their hands, which is nothing beside it.
            if face.views.nbytes <= self._budget:
                self._budget -= face.views.nbytes
                self._cache[row.key] = face
        return face

    def batches(self, groups: Iterable[Sequence[IndexRow]]) -> Iterator[Batch]:
        """A batch for each group of rows, in order, with the next ones being read meanwhile."""
        with ThreadPoolExecutor(READ_THREADS) as pool:
            ahead: list[list[Future[Face]]] = []
            for group in groups:
                ahead.append([pool.submit(self.read, row) for row in group])
                if len(ahead) > READ_AHEAD:
                    yield _collate(ahead.pop(0))
            while ahead:
                yield _collate(ahead.pop(0))

    def directions(self, row: IndexRow) -> Tensor:
        """Unit vectors from the face towards each view's camera, [V, 3]; all samples of a set share their rig."""
        cameras = self.shards.read(row).record.cameras
        return torch.tensor([[-axis[2] for axis in camera.R] for camera in cameras], dtype=torch.float32)

    def _decode(self, sample: Sample) -> NDArray[np.uint8]:
        views = [
            fit_image(decode_image(self.channel, sample.images[camera.name, self.channel]), self.image_size)
            for camera in sample.record.cameras
        ]
        return np.ascontiguousarray(np.stack(views).transpose(0, 3, 1, 2))


def fit_image(pixels: NDArray, size: int) -> NDArray[np.uint8]:
    """Decoded pixels of a view -> uint8 [size, size, 3]."""
    pixels = as_rgb(pixels)
    if pixels.shape[0] == size:
        return pixels
    # Box filtering when shrinking averages the pixels that fall on one: no aliasing. Growing needs interpolation.
    method = Image.Resampling.BOX if pixels.shape[0] > size else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(pixels).resize((size, size), method))


def _collate(faces: list[Future[Face]]) -> Batch:
    ready = [face.result() for face in faces]
    views = torch.from_numpy(np.stack([face.views for face in ready]))
    return Batch(views, [face.text for face in ready], [face.concept for face in ready])
