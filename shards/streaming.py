"""Samples of a shard set as a pipeline of webdataset, to which its own stages or others can be added.

A range of bytes holds one sample. It is compared with its digest, and its members are parsed by our reader of tar
headers. Nothing is opened by name, so a `pipe:` URL never runs, and nothing is unpickled.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardError, ShardSet
from smile_pipe.shards.sample import Sample, SampleError

if TYPE_CHECKING:
    from webdataset import DataPipeline

OnBadSample = Callable[[SampleRow, Exception], None]
"""Called with a sample that cannot be read, and the reason; the sample is left out unless this raises."""


def reraise(row: SampleRow, error: Exception) -> NoReturn:
    """Fail on the first sample that cannot be read."""
    raise error


def sample_pipeline(
    shards: ShardSet, rows: Iterable[SampleRow], on_bad_sample: OnBadSample = reraise
) -> "DataPipeline":
    """The samples of some rows, in their order.

    Args:
        shards: The shard set.
        rows: The samples.
        on_bad_sample: Called for a sample that is damaged. Failures of the storage are raised.
    """
    # webdataset imports torch, which takes a second and which readers of single samples do not need.
    from webdataset import DataPipeline

    return DataPipeline(partial(_read, shards, rows, on_bad_sample))


def _read(shards: ShardSet, rows: Iterable[SampleRow], on_bad_sample: OnBadSample) -> Iterator[Sample]:
    for row in rows:
        try:
            sample = shards.read(row)
        except (ShardError, SampleError) as error:
            on_bad_sample(row, error)
            continue
        yield sample
