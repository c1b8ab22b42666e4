"""The files under a data directory, read once and shared by all layouts.

Goes in: the directory, or its URL. Comes out: the relative paths of its files, as text, in no `Path` objects: a 4D
dataset has some hundred thousand. Promised: no symbolic link to a directory is followed, so no path leaves the
directory that way.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from smile_pipe.pipeline.datasets.data_dir import Stat, list_files
from smile_pipe.pipeline.meshes.reader import SUFFIXES
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath

MESH_SUFFIXES = frozenset((*SUFFIXES, ".bnt"))
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
TEXTURES = (*_IMAGES, *(suffix.upper() for suffix in _IMAGES))
LANDMARKS = (".bnd", ".lm3", "_lmk68.txt")
MAX_FILES = 5_000_000
_WILDCARDS = "*?["
_LAST_LETTER = "\U0010ffff"


@dataclass(frozen=True)
class FileIndex:
    """What lies under a data directory.

    Attributes:
        root: the directory.
        files: paths relative to it, with '/'.
        undecoded: those whose names are not UTF-8, escaped; the tables of a render could not hold them.
        stats: size and time of each file, where listing them told; None on a disk.
    """

    root: StoragePath
    files: frozenset[str]
    undecoded: tuple[str, ...] = ()
    stats: Mapping[str, Stat] | None = None

    @classmethod
    def scan(cls, root: PathLike) -> "FileIndex":
        """List all files under `root`.

        Raises:
            UsageError: `root` is not a directory, or cannot be read (in part), or holds no file that has a name in
                UTF-8, or more than `MAX_FILES`.
        """
        root = StoragePath(root)
        if not root.is_local:
            return cls._under_url(root)
        if not root.is_dir():
            raise UsageError(f"{root}: no such directory; name the folder that the dataset lies in")
        if not os.access(root, os.R_OK | os.X_OK):
            raise UsageError(f"{root}: cannot be read; check its permissions")
        files: set[str] = set()
        undecoded: list[str] = []
        for path in _walk(root.local):
            if path.isascii() or _is_utf8(path):
                files.add(path)
            else:
                undecoded.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
            if len(files) + len(undecoded) > MAX_FILES:
                raise _too_many(root)
        if not files and undecoded:
            raise UsageError(f"{root}: no file's name is UTF-8, e.g. {min(undecoded)}; rename them")
        if not files:
            raise UsageError(f"{root}: is empty; name the folder that the dataset lies in")
        return cls(root, frozenset(files), tuple(sorted(undecoded)))

    @classmethod
    def _under_url(cls, root: StoragePath) -> "FileIndex":
        stats = list_files(root)
        if len(stats) > MAX_FILES:
            raise _too_many(root)
        if not stats:
            raise UsageError(f"{root}: nothing is there; name the folder that the dataset lies in")
        return cls(root, frozenset(stats), stats=stats)

    @cached_property
    def meshes(self) -> Sequence[str]:
        """The files that have a suffix of a mesh, sorted."""
        return sorted(path for path in self.files if suffix_of(path) in MESH_SUFFIXES)

    def has_folder(self, path: str) -> bool:
        """Whether there is a folder of that name; one that is a link is one, too."""
        return os.path.isdir(self.root / path) if self.root.is_local else path in self._folders

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(path[:at] for path in self.files for at, sign in enumerate(path) if sign == "/")

    def first_of(self, stem: str, suffixes: Iterable[str]) -> str | None:
        """The first `stem + suffix` that exists."""
        for suffix in suffixes:
            if (path := stem + suffix) in self.files:
                return path
        return None

    def meshes_in(self, folder: str) -> list[str]:
        """The meshes that lie in `folder` ("." is the root) itself, not below it, but for hidden ones."""
        start = "" if folder == "." else f"{folder}/"
        return [
            path
            for path in self._starting_with(start)
            if "/" not in (name := path.removeprefix(start)) and name[0] != "."
        ]

    def matching(self, pattern: str) -> list[str]:
        """The meshes whose path fits `pattern`: `*`, `?` and `[...]` within a name, `**` for any folders.

        As in a shell, a wildcard finds no name that begins with a dot.
        """
        wild = min((at for sign in _WILDCARDS if (at := pattern.find(sign)) >= 0), default=len(pattern))
        parts = pattern.split("/")
        return [path for path in self._starting_with(pattern[:wild]) if _fits(path.split("/"), parts)]

    def _starting_with(self, start: str) -> Sequence[str]:
        return self.meshes[bisect_left(self.meshes, start) : bisect_left(self.meshes, start + _LAST_LETTER)]


def _too_many(root: StoragePath) -> UsageError:
    return UsageError(f"{root}: holds over {MAX_FILES:,} files; name the folder that the dataset lies in")


def suffix_of(path: str) -> str:
    """The last suffix of a path, in lower case and with its dot, or ""."""
    stem, dot, suffix = path[path.rfind("/") + 1 :].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def stem_of(path: str) -> str:
    """A path without its last suffix."""
    return path[: len(path) - len(suffix_of(path))]


def natural_order(path: str) -> tuple[list[tuple[int, str]], str]:
    """What to sort paths by so that frame 9 comes before frame 10."""
    pieces = re.split(r"0*([0-9]+)", stem_of(path))
    # Of two numbers the longer one is larger; between them stand texts, which have no length here.
    return [(len(piece) if i % 2 else 0, piece) for i, piece in enumerate(pieces)], path


def printable(path: str) -> str:
    """`path` for a message: letters that would move a terminal's cursor are escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in path)


def _walk(root: Path) -> Iterator[str]:
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    # `entry.is_dir()` would raise for a link that leads back to itself.
                    elif not (entry.is_symlink() and os.path.isdir(entry.path)):
                        yield path
        except OSError as error:
            # Passed over, the folder's samples would seem to have been removed, and a render would remove them too.
            reason = f"{root / printable(folder)}: cannot be read ({error.strerror}); check its permissions"
            raise UsageError(reason) from None


def _is_utf8(path: str) -> bool:
    # Python puts lone surrogates in the place of the bytes of a file name that it cannot decode.
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the names `parts` of a path fit those of a pattern; all ways to read a `**` are followed at once."""
    at = _over_folders({0}, pattern)
    for part in parts:
        here = {i for i in at if i < len(pattern)}
        stay = {i for i in here if pattern[i] == "**" and not part.startswith(".")}
        step = {i + 1 for i in here if pattern[i] != "**" and _name_fits(part, pattern[i])}
        at = _over_folders(stay | step, pattern)
    return len(pattern) in at


def _name_fits(name: str, pattern: str) -> bool:
    hidden = name.startswith(".") and not pattern.startswith(".")
    return not hidden and fnmatchcase(name, pattern)


def _over_folders(at: set[int], pattern: Sequence[str]) -> set[int]:
    for start in tuple(at):
        end = start
        while end < len(pattern) and pattern[end] == "**":
            end += 1
            at.add(end)
    return at
