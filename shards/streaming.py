"""Samples of a shard set as a pipeline of webdataset: byte ranges, members, members grouped by key, samples.

Members are parsed by our reader of tar headers, which takes a fifth of the time of `tarfile`. A range holds one sample
and is compared with its digest before it is parsed. Nothing is opened by name, so a `pipe:` URL never runs, and nothing
is unpickled.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardError, ShardSet, check_key, read_members
from smile_pipe.shards.sample import Sample, SampleError, from_members

if TYPE_CHECKING:
    from webdataset import DataPipeline

OnBadSample = Callable[[SampleRow, Exception], None]
"""Called with a sample that cannot be read, and the reason; the sample is left out unless this raises."""


def reraise(row: SampleRow, error: Exception) -> NoReturn:
    """Fail on the first sample that cannot be read."""
    raise error


def sample_pipeline(
    shards: ShardSet, rows: Sequence[SampleRow], on_bad_sample: OnBadSample = reraise
) -> "DataPipeline":
    """The samples of some rows, in their order; stages of webdataset or others can be added to it.

    Args:
        shards: The shard set.
        rows: The samples; each key occurs once.
        on_bad_sample: Called for a sample that is damaged. Failures of the storage are raised.
    """
    # webdataset imports torch, which takes a second and which readers of single samples do not need.
    from webdataset import DataPipeline
    from webdataset.tariterators import group_by_keys

    by_key = {row.key: row for row in rows}
    return DataPipeline(
        partial(_read_members, shards, rows, on_bad_sample),
        partial(group_by_keys, lcase=False),
        partial(_build_samples, by_key, on_bad_sample),
    )


def _read_members(shards: ShardSet, rows: Iterable[SampleRow], on_bad_sample: OnBadSample) -> Iterator[dict[str, Any]]:
    """The members of each sample."""
    for row in rows:
        origin = f"{row.shard} at {row.offset}"
        try:
            members = read_members(shards.read_bytes(row), origin)
        except ShardError as error:
            on_bad_sample(row, error)
            continue
        for name, content in members.items():
            yield {"fname": name, "data": content, "__url__": row.key}


def _build_samples(
    by_key: dict[str, SampleRow], on_bad_sample: OnBadSample, groups: Iterable[dict[str, Any]]
) -> Iterator[Sample]:
    for group in groups:
        row, key = by_key[group["__url__"]], group["__key__"]
        try:
            sample = from_members({f"{key}.{name}": group[name] for name in group if not name.startswith("__")})
            check_key(sample, row)
        except (ShardError, SampleError) as error:
            on_bad_sample(row, error)
            continue
        yield sample
