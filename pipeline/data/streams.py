"""Samples of a shard set for other training loops: as a pipeline of webdataset, as a dataset of PyTorch or of Ray Data.

Each loads its library when it is called.
"""

import copy
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from fsspec.implementations.memory import MemoryFileSystem

from smile_pipe.pipeline.data.integrity import DAMAGE, open_shards, raise_bad_sample
from smile_pipe.shards.cache import local_folder
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.images import CHANNELS
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import decode_sample
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.urls import split_sets

if TYPE_CHECKING:
    import ray.data
    import webdataset

    from smile_pipe.pipeline.data.sample_stream import SampleStream


@dataclass(frozen=True)
class StreamableShardSet(ShardSet):
    """A shard set whose samples can be streamed.

    A streamed sample is a dict of `__key__`, `txt` (the prompt), `json` (the record, a dict), and the images by the
    names of their members, `front.depth.png`. Images are arrays with all of their bits; see `smile_pipe.shards.images`.
    The digest of each sample is checked, so a damaged one raises `BadSampleError`.

    Attributes:
        cache_dir: Local folder for copies of the shards that streams read; None for the cache folder of the user, where
            shards under a URL are copied to.
        cache_gb: Largest size of that folder, in GiB; 0 reads without copies.
    """

    cache_dir: Path | None = None
    cache_gb: float = 20.0

    def webdataset(
        self,
        channels: Sequence[str] | None = None,
        subjects: Sequence[str] | None = None,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        *,
        seed: int = 0,
        batch_size: int = 1,
    ) -> "webdataset.DataPipeline":
        """The samples of one rank as a pipeline for `webdataset.WebLoader`; see `torch` for the arguments and errors.

        Iterating again repeats the epoch. The first stage of the pipeline is the result of `torch`; its `set_epoch`
        selects another epoch.
        """
        from webdataset import DataPipeline

        stream = self.torch(channels, subjects, epoch, rank, world_size, start, seed=seed, batch_size=batch_size)
        return DataPipeline(stream)

    def torch(
        self,
        channels: Sequence[str] | None = None,
        subjects: Sequence[str] | None = None,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        *,
        seed: int = 0,
        batch_size: int = 1,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> "SampleStream":
        """The samples of one rank as a dataset of PyTorch, in the order of `smile_pipe.shards.sampler.Sampler`.

        Args:
            channels: Channels of the images; None for all.
            subjects: Subjects whose samples are read; None for all.
            epoch: Selects the order, together with `seed`.
            rank: Number of this process.
            world_size: Number of processes. In an epoch every sample is read by one of them, and the numbers of samples
                of two processes differ by one at most.
            start: Number of samples of this rank that are left out in `epoch`, to resume after them.
            seed: Random seed of the order.
            batch_size: Number of consecutive samples that one worker of a loader reads. If it is that of the loader,
                batches are the same for any number of workers, and a run that has seen n batches resumes exactly with
                `start = n * batch_size`.
            transform: Applied to each sample by the worker that reads it; records have entries that the default
                collation of PyTorch rejects.

        Raises:
            UsageError: The set has no such channel or subject, or a number is out of range.
        """
        from smile_pipe.pipeline.data.sample_stream import SampleStream

        if not 0 <= rank < world_size:
            raise UsageError(f"must be from 0 to {world_size - 1}", field="rank", value=rank)
        for field, value, least in (("epoch", epoch, 0), ("start", start, 0), ("batch_size", batch_size, 1)):
            if value < least:
                raise UsageError(f"must be {least} or more", field=field, value=value)
        return SampleStream(
            replace(self, rows=self._select(subjects)),
            self._channels(channels),
            epoch=epoch,
            rank=rank,
            world_size=world_size,
            start=start,
            seed=seed,
            batch_size=batch_size,
            transform=transform,
        )

    def ray(self, channels: Sequence[str] | None = None, subjects: Sequence[str] | None = None) -> "ray.data.Dataset":
        """The samples as a dataset of Ray Data, a row for each; its tasks read one shard each.

        Without a connection, Ray starts on this machine. All nodes must see the shards under the same path or URL. Ray
        Data has columns, so scans and sequences must not be mixed, and entries of `json` that only some records have
        are null in others.

        Args:
            channels: Channels of the images; None for all.
            subjects: Subjects whose samples are read; None for all.

        Raises:
            UsageError: The set has no such channel or subject, or only this process can see it.
        """
        import ray.data

        if isinstance(self.filesystem, MemoryFileSystem):
            raise UsageError("tasks of Ray cannot see memory://; copy the shards", field="shards", value=self.spec)
        tables = [part.columns.take(pa.array(part.numbers)) for part in self._select(subjects).by_shard().values()]
        # Each task has the index rows of its shard only; a slice would bring all columns.
        no_rows = SampleTable(self.rows.columns.take(pa.array([], pa.int64())))
        reader = _RowReader(replace(self, rows=no_rows), self._channels(channels))
        return ray.data.from_arrow(tables).map(reader)

    def read_decoded(self, row: SampleRow, channels: Container[str] = CHANNELS) -> dict[str, Any]:
        """Read one sample and decode its images of some channels.

        Raises:
            BadSampleError: It is damaged.
            StorageError: The storage failed.
        """
        try:
            return decode_sample(self.read(row), channels)
        except DAMAGE as error:
            raise_bad_sample(row, error)

    def for_this_process(self) -> "StreamableShardSet":
        """The same set with a storage client and with copies of the shards that belong to this process.

        Neither can be used in a process that was forked after their creation.
        """
        shards = replace(self, filesystem=copy.copy(self.filesystem), cache=None)
        cached = shards.with_cache(self.cache_dir, int(self.cache_gb * (1 << 30)))
        return replace(shards, cache=cached.cache)

    def _select(self, subjects: Sequence[str] | None) -> SampleTable:
        if subjects is None:
            return self.rows
        if unknown := sorted(set(subjects) - set(self.subjects)):
            raise UsageError("there are no samples of this subject", field="subjects", value=unknown[0])
        return self.of_subjects(subjects)

    def _channels(self, channels: Sequence[str] | None) -> frozenset[str]:
        known = self.manifest.channels
        if channels is None:
            return frozenset(known)
        if unknown := sorted(set(channels) - set(known)):
            raise UsageError(f"the shards have the channels {', '.join(known)}", field="channels", value=unknown[0])
        return frozenset(channels)


def open_streamable(spec: str, cache_dir: str | None = None, cache_gb: float = 20.0) -> StreamableShardSet:
    """Open a shard set for streaming.

    Args:
        spec: See `smile_pipe.pipeline.data.integrity.open_shards`, also for the errors.
        cache_dir: See `StreamableShardSet`.
        cache_gb: See `StreamableShardSet`.
    """
    if not 0 <= cache_gb < math.inf:
        raise UsageError("must be 0 or more, and finite", field="cache_gb", value=cache_gb)
    if len(split_sets(spec)) > 1:
        raise UsageError("names several shard sets; open and stream each", field="shards", value=spec)
    shards = open_shards(spec)
    given = {field.name: getattr(shards, field.name) for field in fields(shards)}
    return StreamableShardSet(
        **given, cache_dir=None if cache_dir is None else local_folder(cache_dir), cache_gb=cache_gb
    )


class _RowReader:
    """Reads the samples of a table in tasks of Ray Data; each task has a copy of it."""

    def __init__(self, shards: StreamableShardSet, channels: frozenset[str]) -> None:
        self._shards, self._channels = shards, channels

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return self._opened.read_decoded(SampleRow(**row), self._channels)

    @cached_property
    def _opened(self) -> StreamableShardSet:
        return self._shards.for_this_process()
