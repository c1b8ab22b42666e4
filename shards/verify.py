"""Verifying a shard set: is everything there that the manifest and the index promise, and is it what was written?

Goes in: a `ShardSet`. Comes out: what is wrong, each with its place: a shard, and where it can be told a sample and a
member. Promised: a change of any byte of a shard is found, as its SHA-256 is in the manifest; nothing is unpickled, and
no more than one sample is held in memory.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import ImageError, decode_image
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.manifest import ShardEntry, fingerprint
from smile_pipe.shards.reader import ShardError, ShardSet
from smile_pipe.shards.sample import Sample, SampleError
from smile_pipe.shards.storage import StorageError, describe_error, storage_errors

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; `key` is "" where it is not about one sample."""

    shard: str
    key: str
    what: str


def verify_shards(shards: ShardSet, quick: bool = False) -> Iterator[tuple[str, list[Problem]]]:
    """Check a shard set, shard by shard: yields each shard's name and what is wrong with it.

    Args:
        shards: the set as it was opened.
        quick: look at sizes and manifests only, and open no shard.
    """
    rows: dict[str, list[IndexRow]] = {}
    for row in shards.rows:
        rows.setdefault(row.shard, []).append(row)
    if len(shards.rows) == shards.manifest.num_samples:
        # The set was not asked for in part.
        yield "", [*_strangers(shards), *_counts(shards)]
    for entry in (entry for entry in shards.manifest.shards if entry.name in rows):
        yield entry.name, list(_problems(shards, entry, rows[entry.name], quick))


def _strangers(shards: ShardSet) -> Iterator[Problem]:
    """Tar files that the manifest does not know: another reader would take their samples for the set's own."""
    known = {entry.name for entry in shards.manifest.shards}
    paths: Sequence[str] = ()
    # A storage that lists nothing may read well; what cannot be read is told shard by shard.
    with suppress(OSError), storage_errors(shards.root):
        # Not `glob`, which takes signs in the name of the folder for those of a pattern.
        paths = shards.filesystem.ls(f"{shards.root}/shards", detail=False)
    for name in sorted({path.rpartition("/")[2] for path in paths} - known):
        if name.endswith(".tar"):
            yield Problem(name, "", "is not in the manifest")


def _counts(shards: ShardSet) -> Iterator[Problem]:
    manifest = shards.manifest
    for what, promised, found in (
        ("sequences", manifest.num_sequences, sum(row.frame_rate > 0 for row in shards.rows)),
        ("subjects", manifest.num_subjects, len(shards.subjects)),
    ):
        if promised != found:
            yield Problem("", "", f"the manifest promises {promised} {what}, and the index has {found}")
    for key, count in Counter(row.key for row in shards.rows).items():
        if count > 1:
            yield Problem("", key, f"stands in the index {count} times")
    for expression in sorted({row.expression for row in shards.rows} - set(manifest.expressions)):
        yield Problem("", "", f"the index has the expression {expression!r}, which the manifest does not know")


def _problems(shards: ShardSet, entry: ShardEntry, rows: Sequence[IndexRow], quick: bool) -> Iterator[Problem]:
    """What is wrong with a shard, as far as it can be read: that it cannot is the last of its problems."""
    try:
        yield from _sizes(shards, entry, rows)
        if not quick:
            yield from _contents(shards, entry, rows)
    except FileNotFoundError:
        yield Problem(entry.name, "", "is missing")
    except StorageError as error:
        yield Problem(entry.name, "", f"cannot be read ({describe_error(error.__cause__ or error)})")


def _sizes(shards: ShardSet, entry: ShardEntry, rows: Sequence[IndexRow]) -> Iterator[Problem]:
    with storage_errors(_path(shards, entry)):
        size = shards.filesystem.size(_path(shards, entry))
    if size != entry.bytes:
        yield Problem(entry.name, "", f"has {size} bytes, and {entry.bytes} were written")
    if len(rows) != entry.num_samples:
        yield Problem(
            entry.name, "", f"has {pluralize(entry.num_samples, 'sample')} by the manifest, {len(rows)} by the index"
        )
    if fingerprint([row.fingerprint for row in rows]) != entry.fingerprint:
        yield Problem(entry.name, "", "the manifest and the index have other fingerprints of its samples")
    end = 0
    for row in rows:
        if row.offset != end:
            yield Problem(entry.name, row.key, f"begins at {row.offset} by the index, and what is before ends at {end}")
        end = row.offset + row.bytes


def _contents(shards: ShardSet, entry: ShardEntry, rows: Sequence[IndexRow]) -> Iterator[Problem]:
    """What reading the shard shows: damaged samples by their keys, else that something else in it changed."""
    found = False
    for row in rows:
        for problem in _sample_problems(shards, row):
            found = True
            yield problem
    if not found and _sha256(shards, entry) != entry.sha256:
        yield Problem(entry.name, "", "is not what was written (SHA-256), outside of its samples")


def _sample_problems(shards: ShardSet, row: IndexRow) -> Iterator[Problem]:
    try:
        sample = shards.read(row)
    except (ShardError, SampleError) as error:
        yield Problem(row.shard, row.key, str(error))
        return
    for view, name in sample.record.images:
        try:
            pixels = decode_image(name, sample.images[view, name])
        except ImageError as error:
            yield Problem(row.shard, row.key, f"{view}.{name}: {error}")
            continue
        size = shards.manifest.image_size
        if pixels.shape[:2] != (size, size):
            shown = " x ".join(map(str, pixels.shape[:2]))
            yield Problem(row.shard, row.key, f"{view}.{name} is {shown} pixels, and the set has {size}")
    for what, own, index in _compared(sample, row):
        if own != index:
            yield Problem(row.shard, row.key, f"its record has the {what} {own!r}, and the index {index!r}")
    if {camera.name for camera in sample.record.cameras} != set(shards.manifest.views):
        yield Problem(row.shard, row.key, "has other views than the manifest")
    if sample.record.channels != shards.manifest.channels:
        yield Problem(row.shard, row.key, "has other channels than the manifest")


def _compared(sample: Sample, row: IndexRow) -> list[tuple[str, Any, Any]]:
    record, same = sample.record, ("subject", "expression", "level", "layout", "fingerprint")
    frames = 1 if record.timeline is None else len(record.timeline.frames)
    return [
        *((name, getattr(record, name), getattr(row, name)) for name in same),
        ("labels", dict(record.labels), dict(row.labels)),
        ("number of frames", frames, row.num_frames),
    ]


def _sha256(shards: ShardSet, entry: ShardEntry) -> str:
    digest = hashlib.sha256()
    with storage_errors(_path(shards, entry)), shards.filesystem.open(_path(shards, entry), "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _path(shards: ShardSet, entry: ShardEntry) -> str:
    return f"{shards.root}/shards/{entry.name}"
