"""What a layout is: it looks at the files under a data directory and says which samples they are.

Goes in: a `Listing` of the directory. Comes out: one `ScanSource` a sample, in the order of their keys. Promised:
unique keys, and no path that leaves the directory.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from shards.errors import UsageError
from shards.sample import KEY


@dataclass(frozen=True)
class ScanSource:
    """One sample as it lies on disk, with its labels; paths are relative to the data directory, with '/'."""

    key: str
    subject: str
    expression: str
    level: int | None
    mesh: str
    texture: str | None = None
    landmarks: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """All files that the sample depends on, mesh first."""
        return tuple(path for path in (self.mesh, self.texture, self.landmarks) if path is not None)


@dataclass(frozen=True)
class Listing:
    """The files under a data directory, read once and shared by all layouts."""

    root: Path
    files: frozenset[str]

    @classmethod
    def scan(cls, root: Path) -> "Listing":
        """List all files under `root`; symbolic links to directories are not followed.

        Raises:
            UsageError: `root` is not a directory, or cannot be read (in part), or holds no file.
        """
        if not root.is_dir():
            raise UsageError(f"{root}: no such directory; name the folder that the dataset lies in")
        if not os.access(root, os.R_OK | os.X_OK):
            raise UsageError(f"{root}: cannot be read; check its permissions")
        walk = os.walk(root, onerror=_refuse)
        files = {Path(folder, name).relative_to(root).as_posix() for folder, _, names in walk for name in names}
        if not files:
            raise UsageError(f"{root}: is empty; name the folder that the dataset lies in")
        return cls(root, frozenset(files))

    def first_of(self, stem: str, suffixes: Iterable[str]) -> str | None:
        """The first `stem + suffix` that exists."""
        return next((stem + suffix for suffix in suffixes if stem + suffix in self.files), None)


def _refuse(error: OSError) -> None:
    # Passed over, the folder's samples would seem to have been removed, and a render would remove them too.
    raise UsageError(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")


class Layout(Protocol):
    """How one dataset lies on disk."""

    name: str

    def fits(self, listing: Listing) -> bool:
        """Whether the directory looks like this layout."""
        ...

    def samples(self, listing: Listing) -> list[ScanSource]:
        """All samples of the directory.

        Raises:
            UsageError: a labels table that cannot be used.
        """
        ...


def checked(samples: list[ScanSource], root: Path) -> list[ScanSource]:
    """`samples` in the order of their keys.

    Raises:
        UsageError: two samples share a key, or a key cannot name one, or a file's name is not UTF-8.
    """
    by_key: dict[str, ScanSource] = {}
    for sample in samples:
        if not KEY.fullmatch(sample.key):
            raise UsageError(
                f"{root / sample.mesh}: its name gives the key {sample.key!r}; a key has at most 80 letters"
            )
        if any(_is_undecoded(path) for path in sample.files):
            # The tables of the output are UTF-8, so such a name would end the render when it is nearly done.
            raise UsageError(f"{root}: {sample.mesh!a} or a file with it has a name that is not UTF-8; rename it")
        if sample.key in by_key:
            raise UsageError(f"two files give the key {sample.key}: {by_key[sample.key].mesh} and {sample.mesh}")
        by_key[sample.key] = sample
    return [by_key[key] for key in sorted(by_key)]


def _is_undecoded(path: str) -> bool:
    # Python puts lone surrogates in the place of the bytes of a file name that it cannot decode.
    return any("\ud800" <= letter <= "\udfff" for letter in path)
