"""Damaged shards: detection when a set is opened and when a sample is read, and the choice to fail or to skip.

Opening compares sizes and tables only, with one stat per shard. The digest of a sample is verified each time it is
read, so a damaged image never enters training.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Literal, NoReturn

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import ImageError
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.joined import open_sets
from smile_pipe.shards.reader import ShardError, ShardSet
from smile_pipe.shards.sample import Sample, SampleError
from smile_pipe.shards.urls import split_sets
from smile_pipe.shards.verify import Problem, verify_shards

OnBadShard = Literal["fail", "skip"]

ON_BAD_SHARD_HELP = "Damaged samples: fail ends the job and names them, skip leaves them out and counts them."

DAMAGE = (ShardError, SampleError, ImageError)
"""Errors that mean that a sample is damaged, unlike those of a storage that fails."""

_log = logging.getLogger(__name__)


class BadSampleError(RuntimeError):
    """A sample that cannot be read; the message names its shard and key."""


def open_shards(spec: str, on_bad_shard: OnBadShard = "fail") -> ShardSet:
    """Open shard sets, and check that manifest, index and the sizes of the shards of each agree.

    Args:
        spec: Directory, manifest.json, glob, brace pattern or URL; several sets are separated by `::`, and read as one.
        on_bad_shard: With `skip`, missing shards and shards of another size only cause a warning, because some of their
            samples may be intact.

    Raises:
        UsageError: They do not agree, or see `smile_pipe.shards.joined.open_sets`.
    """
    return open_sets(spec, partial(_open_checked, on_bad_shard=on_bad_shard))


def _open_checked(spec: str, on_bad_shard: OnBadShard) -> ShardSet:
    shards = ShardSet.open(spec)
    problems = [problem for _, found in verify_shards(shards, quick=True) for problem in found]
    damaged = _find_resized(shards, problems)
    for problem in problems:
        if problem.shard not in damaged or on_bad_shard == "fail":
            others = "copy the shards again, use the intact samples with `on_bad_shard=skip`, or "
            raise UsageError(
                f"{_describe(problem)}; `smile-pipe verify {spec}` lists all problems; "
                f"{others if problem.shard in damaged else ''}render again",
                field="shards",
                value=spec,
            )
    if damaged:
        _log.warning(
            "shards %s: %s; damaged shards: %d; their intact samples are used",
            spec,
            _describe(problems[0]),
            len(damaged),
        )
    return shards


def first_readable(shards: ShardSet, rows: Sequence[SampleRow], on_bad_shard: OnBadShard = "fail") -> Sample:
    """Read the first of `rows`; with `skip`, the first one that can be read.

    Raises:
        BadSampleError: The first cannot be read; with `skip`, none of them can.
    """
    for row in rows:
        try:
            return shards.read(row)
        except DAMAGE as error:
            if on_bad_shard == "fail":
                raise_bad_sample(row, error)
    raise no_readable_sample(shards, len(rows))


def no_readable_sample(shards: ShardSet, num_rows: int) -> BadSampleError:
    """The error for a selection of samples of which none can be read."""
    return BadSampleError(
        f"`shards={shards.spec}`: of {pluralize(num_rows, 'sample')} none can be read; "
        f"{verify_hint(shards.spec)} lists the problems"
    )


def verify_hint(spec: str) -> str:
    """The commands that verify shard sets, for messages."""
    return " or ".join(f"`smile-pipe verify {each}`" for each in split_sets(spec))


def raise_bad_sample(row: SampleRow, error: Exception) -> NoReturn:
    """Raise a `BadSampleError` that names the sample, for an error that means damage; others pass unchanged."""
    if not isinstance(error, DAMAGE):
        raise error
    raise BadSampleError(f"{row.shard}: the sample {row.key} cannot be read ({error})") from error


def _find_resized(shards: ShardSet, problems: Sequence[Problem]) -> set[str]:
    """The shards among `problems` that are missing or have another size than the manifest records."""
    sizes = {entry.name: entry.bytes for entry in shards.manifest.shards}
    return {name for name in {p.shard for p in problems} & sizes.keys() if _size(shards, name) != sizes[name]}


def _size(shards: ShardSet, name: str) -> int | None:
    try:
        return shards.filesystem.size(shards.shard_path(name))
    except FileNotFoundError:
        return None


def _describe(problem: Problem) -> str:
    where = " ".join(part for part in (problem.shard, problem.key) if part)
    return f"damaged: {where}{': ' if where else ''}{problem.what}"
