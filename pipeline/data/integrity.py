"""Shards that are not what was written: found when a set is opened, and when a sample of it is read.

Goes in: `on_bad_shard`, and the shards. Comes out: an error that names what is damaged (`fail`), or what is
whole (`skip`). Promised: opening looks at sizes and tables only, one stat a shard. That a sample's bytes are those that
were written is seen by their digest whenever it is read, so no damaged image is ever learned from.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import ImageError
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardError, ShardSet
from smile_pipe.shards.sample import Sample, SampleError
from smile_pipe.shards.verify import Problem, verify_shards

OnBadShard = Literal["fail", "skip"]

ON_BAD_SHARD_HELP = "What damaged samples do: fail ends the job and names them, skip leaves them out and counts them."

_log = logging.getLogger(__name__)


class BadSampleError(RuntimeError):
    """A sample that cannot be read; the message names its shard and key."""


def open_shards(spec: str, on_bad_shard: OnBadShard = "fail") -> ShardSet:
    """Open a shard set, and see that its manifest, its index and the sizes of its shards agree.

    With `skip`, shards of another size, or that are gone, are told in a warning: some of their samples may be whole.

    Raises:
        UsageError: they do not agree, or see `smile_pipe.shards.reader.ShardSet.open`.
    """
    shards = ShardSet.open(spec)
    problems = [problem for _, found in verify_shards(shards, quick=True) for problem in found]
    damaged = _of_other_sizes(shards, problems)
    for problem in problems:
        if problem.shard not in damaged:
            raise UsageError(
                f"{_first(problem)}; `smile-pipe verify {spec}` lists all problems; render again",
                field="shards",
                value=spec,
            )
        if on_bad_shard == "fail":
            raise UsageError(
                f"{_first(problem)}; `smile-pipe verify {spec}` lists all problems; copy the shards again, render "
                "again, or use the samples that are whole with `on_bad_shard=skip`",
                field="shards",
                value=spec,
            )
    if damaged:
        _log.warning(
            "shards %s: %s; damaged shards: %d; what is whole in them is used", spec, _first(problems[0]), len(damaged)
        )
    return shards


def first_good(shards: ShardSet, rows: Sequence[IndexRow], on_bad_shard: OnBadShard = "fail") -> Sample:
    """The first of `rows` that can be read.

    Raises:
        BadSampleError: the first cannot be read, or with `skip` none of them.
    """
    for row in rows:
        try:
            with naming(row):
                return shards.read(row)
        except BadSampleError:
            if on_bad_shard == "fail":
                raise
    raise nothing_left(shards, len(rows))


def nothing_left(shards: ShardSet, num_rows: int) -> BadSampleError:
    """The error for samples of which none can be read."""
    return BadSampleError(
        f"`shards={shards.spec}`: of {pluralize(num_rows, 'sample')} none can be read; "
        f"`smile-pipe verify {shards.spec}` tells why"
    )


@contextmanager
def naming(row: IndexRow) -> Iterator[None]:
    """Turn what says that a sample is damaged into a `BadSampleError`; what says that it cannot be had passes."""
    try:
        yield
    except (ShardError, SampleError, ImageError) as error:
        raise BadSampleError(f"{row.shard}: the sample {row.key} cannot be read ({error})") from error


def _of_other_sizes(shards: ShardSet, problems: Sequence[Problem]) -> set[str]:
    """The shards among `problems` that are gone, or are not as large as they were written."""
    sizes = {entry.name: entry.bytes for entry in shards.manifest.shards}
    return {name for name in {p.shard for p in problems} & sizes.keys() if _size(shards, name) != sizes[name]}


def _size(shards: ShardSet, name: str) -> int | None:
    try:
        return shards.filesystem.size(shards.shard_path(name))
    except FileNotFoundError:
        return None


def _first(problem: Problem) -> str:
    where = " ".join(part for part in (problem.shard, problem.key) if part)
    return f"not what was rendered: {where}{': ' if where else ''}{problem.what}"
