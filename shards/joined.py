"""Several shard sets that are read as one: `A::B`.

All must show faces in the same way: the same views, cameras and image size. A subject of the same name in two sets is
taken for one person, so that no split has a person on both sides. Keys and shards get the number of their set, from 1,
as in `2:F0001_HA04WH`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_pipe.shards.cache import CopyRequests
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import ShardManifest, fingerprint, joined_fingerprint
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import Sample
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.urls import SEPARATOR, split_sets

# Settings of a render that decide what an image or a caption shows, with the words for them; and their defaults where
# shards do not record them.
_SAME_SETTINGS = {
    "views": ("views", ()),
    "size": ("image size", None),
    "projection": ("projection", "perspective"),
    "jitter_deg": ("camera jitter", 0.0),
    "data_version": ("version of the images", None),
    "neutral": ("choice of the neutral scan", "label"),
}


def open_sets(spec: str, open_set: Callable[[str], ShardSet] = ShardSet.open) -> ShardSet:
    """Open one shard set, or several as one.

    Args:
        spec: See `ShardSet.open`; several are separated by `::`.
        open_set: Opens one set.

    Raises:
        UsageError: See `ShardSet.open` and `JoinedShardSet.join`.
    """
    specs = split_sets(spec)
    if not all(specs):
        raise UsageError("names an empty shard set; leave out the `::`", field="shards", value=spec)
    return open_set(spec) if len(specs) == 1 else JoinedShardSet.join(list(map(open_set, specs)))


@dataclass(frozen=True)
class JoinedShardSet(ShardSet):
    """Several shard sets that are read as one.

    Attributes:
        filesystem, root: Those of the first set.
        manifest: What the sets have in common, and their sums; it lists no shards.
        rows: The samples of all sets, in the order of the sets.
        sets: The sets.
    """

    sets: tuple[ShardSet, ...] = ()

    @classmethod
    def join(cls, sets: Sequence[ShardSet]) -> "JoinedShardSet":
        """Join open sets.

        Raises:
            UsageError: They do not go together, or two of them are the same.
        """
        spec, first = SEPARATOR.join(each.spec for each in sets), sets[0]
        rows = SampleTable.joined([each.rows for each in sets])
        return cls(spec, first.filesystem, first.root, _joined_manifest(sets), rows, sets=tuple(sets))

    @property
    def parts(self) -> tuple[ShardSet, ...]:
        """The sets."""
        return self.sets

    @property
    def is_near(self) -> bool:
        """See `ShardSet.is_near`."""
        return all(each.is_near for each in self.sets)

    @property
    def copies(self) -> CopyRequests | None:
        """See `ShardSet.copies`."""
        known = {number: each.copies for number, each in enumerate(self.sets, 1) if each.copies is not None}
        return _JoinedCopies(known) if known else None

    def with_cache(self, folder: Path | None, max_bytes: int) -> "JoinedShardSet":
        """See `ShardSet.with_cache`; the sets share the folder."""
        return replace(self, sets=tuple(each.with_cache(folder, max_bytes) for each in self.sets))

    def read(self, row: SampleRow) -> Sample:
        """See `ShardSet.read`; the record gets the key of the joined set."""
        part, own_row = self._of_part(row)
        sample = part.read(own_row)
        return replace(sample, record=sample.record.model_copy(update={"key": row.key}))

    def read_bytes(self, row: SampleRow) -> bytes:
        """See `ShardSet.read_bytes`; the members have the key of their own set."""
        part, own_row = self._of_part(row)
        return part.read_bytes(own_row)

    def shard_path(self, name: str) -> str:
        """See `ShardSet.shard_path`."""
        number, own_name = _split_name(name)
        return self.sets[number - 1].shard_path(own_name)

    def set_numbers(self, rows: SampleTable) -> NDArray[np.int64]:
        """The position in `sets` of the set of each sample, int64 [N]."""
        return np.searchsorted(self._ends, rows.numbers, side="right")

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([len(each.rows) for each in self.sets])

    def _of_part(self, row: SampleRow) -> tuple[ShardSet, SampleRow]:
        number, shard = _split_name(row.shard)
        return self.sets[number - 1], replace(row, key=_split_name(row.key)[1], shard=shard)


@dataclass(frozen=True)
class _JoinedCopies:
    """Requests copies of the sets that have a cache; see `CopyRequests`."""

    by_set: Mapping[int, CopyRequests]

    @property
    def num_ahead(self) -> int:
        return min(copies.num_ahead for copies in self.by_set.values())

    def request(self, names: Iterable[str]) -> None:
        for number, own_name in map(_split_name, names):
            if number in self.by_set:
                self.by_set[number].request([own_name])


def _split_name(name: str) -> tuple[int, str]:
    number, _, own_name = name.partition(":")
    return int(number), own_name


def _joined_manifest(sets: Sequence[ShardSet]) -> ShardManifest:
    manifests = [each.manifest for each in sets]
    _check_alike(sets)
    channels = tuple(name for name in manifests[0].channels if all(name in each.channels for each in manifests))
    if not channels:
        raise _mismatch(sets, "have no channel in common")
    prompts: dict[str, tuple[str, ...]] = {}
    for manifest in manifests:
        for expression, templates in manifest.prompts.items():
            prompts[expression] = tuple(dict.fromkeys((*prompts.get(expression, ()), *templates)))
    first, fingerprints = manifests[0], [manifest.fingerprint for manifest in manifests]
    return first.model_copy(
        update={
            "fingerprint": joined_fingerprint(fingerprints),
            "layout": _join(each.layout for each in manifests),
            "settings": {**first.settings, "channels": list(channels)},
            "images_fingerprint": fingerprint([each.images_fingerprint for each in manifests]),
            "renderer": _join(each.renderer for each in manifests),
            "channels": channels,
            "prompts": prompts,
            "expressions": tuple(dict.fromkeys(name for each in manifests for name in each.expressions)),
            "num_samples": sum(each.num_samples for each in manifests),
            "num_sequences": sum(each.num_sequences for each in manifests),
            "num_subjects": len(set().union(*(each.subjects for each in sets))),
            "num_failures": sum(each.num_failures for each in manifests),
            "shards": (),
        }
    )


def _check_alike(sets: Sequence[ShardSet]) -> None:
    first = sets[0].manifest
    for number, each in enumerate(sets[1:], 1):
        manifest, pair = each.manifest, (sets[0], each)
        if manifest.fingerprint in {earlier.manifest.fingerprint for earlier in sets[:number]}:
            raise UsageError(
                "is a part of a set that is named before; name both parts by one pattern, or leave it out and use "
                "`shard_weights` to read the set more often",
                field="shards",
                value=each.spec,
            )
        for name, (words, default) in _SAME_SETTINGS.items():
            values = [_plain(settings.get(name, default)) for settings in (first.settings, manifest.settings)]
            if values[0] != values[1]:
                raise _mismatch(pair, f"differ in {words} ({values[0]} and {values[1]})")
        if manifest.views != first.views:
            raise _mismatch(pair, f"differ in views ({', '.join(first.views)} and {', '.join(manifest.views)})")
        if manifest.text_source != first.text_source:
            sources = f"{first.text_source} and {manifest.text_source}"
            raise _mismatch(pair, f"differ in the source of their text ({sources})")
    with_sequences = [each for each in sets if each.manifest.num_sequences]
    for each in with_sequences[1:]:
        if each.manifest.settings.get("sequences") != with_sequences[0].manifest.settings.get("sequences"):
            raise _mismatch((with_sequences[0], each), "store different frames of sequences")


def _plain(value: Any) -> Any:
    """A setting without the differences between versions: views as their names and angles."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(f"{view['name']}:{view.get('yaw', 0):g}:{view.get('pitch', 0):g}" for view in value)
    return value


def _mismatch(sets: Sequence[ShardSet], what: str) -> UsageError:
    names = " and ".join(each.spec for each in sets[:3])
    return UsageError(f"{names} {what}; render them with the same options", field="shards")


def _join(names: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(names))
