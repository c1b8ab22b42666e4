"""Verification of a shard set against its manifest and index.

Each problem is reported with its shard, and with its sample and member where they are known. Any changed byte of a
shard is found, since the manifest contains its SHA-256. Nothing is unpickled, and at most one sample is in memory.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from smile_pipe.shards.errors import StorageError, describe_error, storage_errors
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.images import ImageError, decode_image
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import SHARDS_FOLDER, ShardEntry, fingerprint
from smile_pipe.shards.reader import ShardError, ShardSet
from smile_pipe.shards.sample import Sample, SampleError
from smile_pipe.shards.sample_table import SampleTable

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Problem:
    """One problem of a shard set.

    Attributes:
        shard: Name of the shard; "" for a problem of the whole set.
        key: Key of the sample; "" for a problem of the whole shard or set.
        what: The problem, as the predicate of a sentence about the sample or the shard.
    """

    shard: str
    key: str
    what: str


def verify_shards(shards: ShardSet, quick: bool = False) -> Iterator[tuple[str, list[Problem]]]:
    """Verify a shard set, shard by shard.

    Args:
        shards: The set, or a part of it; counts are verified for a whole set only.
        quick: Compare sizes, manifest and index only; no shard is opened.

    Yields:
        The name of each shard ("" for the whole set), and its problems.
    """
    rows, sizes = shards.rows.by_shard(), _sizes(shards)
    if len(shards.rows) == shards.manifest.num_samples:
        # The whole set is open, not a part of it.
        yield "", [*_unlisted_shards(shards, sizes), *_count_problems(shards)]
    for entry in (entry for entry in shards.manifest.shards if entry.name in rows):
        yield entry.name, list(_problems(shards, entry, rows[entry.name], sizes.get(entry.name), quick))


def _sizes(shards: ShardSet) -> dict[str, int | None]:
    """Sizes in bytes of what is in the folder of the shards, from one listing; {} if it cannot be listed.

    The size of a link is None: the listing does not have that of its target.
    """
    # A storage may allow reading but not listing; each size is asked for later. The storage may also remember an older
    # listing.
    with suppress(OSError), storage_errors(shards.root):
        # `glob` would take wildcard characters in the name of the folder for a pattern.
        entries = shards.filesystem.ls(f"{shards.root}/{SHARDS_FOLDER}", detail=True, refresh=True)
        return {
            entry["name"].rpartition("/")[2]: entry["size"] if entry["type"] == "file" else None
            for entry in entries
            if entry["type"] != "directory"
        }
    return {}


def _unlisted_shards(shards: ShardSet, names: Iterable[str]) -> Iterator[Problem]:
    """Tar files that are not in the manifest; another reader would take their samples as part of the set."""
    for name in sorted(set(names) - {entry.name for entry in shards.manifest.shards}):
        if name.endswith(".tar"):
            yield Problem(name, "", "is not in the manifest")


def _count_problems(shards: ShardSet) -> Iterator[Problem]:
    manifest = shards.manifest
    for what, in_manifest, in_index in (
        ("sequences", manifest.num_sequences, int((shards.rows.array("frame_rate") > 0).sum())),
        ("subjects", manifest.num_subjects, len(shards.subjects)),
    ):
        if in_manifest != in_index:
            yield Problem("", "", f"the manifest has {in_manifest} {what}, the index {in_index}")
    for key, count in shards.rows.repeated("key").items():
        yield Problem("", key, f"is in the index {count} times")
    for expression in sorted(set(shards.rows.distinct("expression")) - set(manifest.expressions)):
        yield Problem("", "", f"the index has the expression {expression!r}, which is not in the manifest")


def _problems(
    shards: ShardSet, entry: ShardEntry, rows: SampleTable, size: int | None, quick: bool
) -> Iterator[Problem]:
    """The problems of a shard. If it cannot be read to the end, that is the last problem."""
    try:
        if size is None:
            with storage_errors(shards.shard_path(entry.name)):
                size = shards.filesystem.size(shards.shard_path(entry.name))
        yield from _size_problems(entry, rows, size)
        if not quick:
            yield from _content_problems(shards, entry, rows)
    except FileNotFoundError:
        yield Problem(entry.name, "", "is missing")
    except StorageError as error:
        yield Problem(entry.name, "", f"cannot be read: {describe_error(error.__cause__ or error)}")


def _size_problems(entry: ShardEntry, rows: SampleTable, size: int) -> Iterator[Problem]:
    if size != entry.bytes:
        yield Problem(entry.name, "", f"has {size} bytes, expected {entry.bytes}")
    if len(rows) != entry.num_samples:
        yield Problem(
            entry.name, "", f"has {pluralize(entry.num_samples, 'sample')} by the manifest, {len(rows)} by the index"
        )
    if fingerprint(rows.values("fingerprint")) != entry.fingerprint:
        yield Problem(entry.name, "", "the fingerprints of its samples differ between manifest and index")
    offsets = rows.array("offset")
    ends = np.concatenate([[0], (offsets + rows.array("bytes"))[:-1]])
    for at in np.flatnonzero(offsets != ends).tolist():
        yield Problem(
            entry.name,
            rows[at].key,
            f"starts at {offsets[at]} in the index, but the sample before ends at {ends[at]}",
        )


def _content_problems(shards: ShardSet, entry: ShardEntry, rows: SampleTable) -> Iterator[Problem]:
    """Damaged samples by their keys; if there are none, a change outside of all samples."""
    has_problem = False
    for row in rows:
        for problem in _sample_problems(shards, row):
            has_problem = True
            yield problem
    if not has_problem and _sha256(shards, entry) != entry.sha256:
        yield Problem(entry.name, "", "has another SHA-256: it was changed outside of its samples")


def _sample_problems(shards: ShardSet, row: SampleRow) -> Iterator[Problem]:
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
            yield Problem(row.shard, row.key, f"{view}.{name} has {shown} pixels, expected {size} x {size}")
    for what, own, index in _compared_fields(sample, row):
        if own != index:
            yield Problem(row.shard, row.key, f"the {what} is {own!r} in its record and {index!r} in the index")
    if {camera.name for camera in sample.record.cameras} != set(shards.manifest.views):
        yield Problem(row.shard, row.key, "its views differ from those of the manifest")
    if sample.record.channels != shards.manifest.channels:
        yield Problem(row.shard, row.key, "its channels differ from those of the manifest")


def _compared_fields(sample: Sample, row: SampleRow) -> list[tuple[str, Any, Any]]:
    record, same = sample.record, ("subject", "expression", "level", "layout", "fingerprint")
    frames = 1 if record.timeline is None else len(record.timeline.frames)
    return [
        *((name, getattr(record, name), getattr(row, name)) for name in same),
        ("labels", dict(record.labels), dict(row.labels)),
        ("number of frames", frames, row.num_frames),
    ]


def _sha256(shards: ShardSet, entry: ShardEntry) -> str:
    digest = hashlib.sha256()
    with (
        storage_errors(shards.shard_path(entry.name)),
        shards.filesystem.open(shards.shard_path(entry.name), "rb") as file,
    ):
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
