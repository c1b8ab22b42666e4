"""The files under a data directory or a URL, listed once for all adapters.

Paths are relative text, not `Path` objects: a 4D dataset has some hundred thousand files. Symbolic links to directories
are not followed, so no path leaves the directory through one.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
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
TEXTURES = (*_IMAGES, *(suffix.upper() for suffix in _IMAGES), *(f".{suffix[1:].capitalize()}" for suffix in _IMAGES))
LANDMARKS = (".bnd", ".lm3", "_lmk68.txt")
MAX_BYTES = 4 << 30
"""Limit on the memory of an index: some 30 million files."""
# Of an entry and the header of its text.
_BYTES_PER_FILE = 100
_WILDCARDS = "*?["
_LAST_LETTER = "\U0010ffff"


@dataclass(frozen=True)
class FileIndex:
    """The files under a data directory.

    Attributes:
        root: the directory.
        files: paths relative to `root`, with '/' as separator.
        non_utf8_names: escaped paths that are not UTF-8. They are skipped, since the tables of a render cannot hold
            them.
        linked_folders: links to folders, which are not followed.
        stats: size and time of each file, if the listing included them; None for a local directory.
    """

    root: StoragePath
    files: Set[str]
    non_utf8_names: tuple[str, ...] = ()
    linked_folders: tuple[str, ...] = ()
    stats: Mapping[str, Stat] | None = None

    @classmethod
    def scan(cls, root: PathLike) -> "FileIndex":
        """List all files under `root`.

        Raises:
            UsageError: `root` is not a directory, it or a folder in it cannot be read, it has no file with a UTF-8
                name, or a list of its files takes more than `MAX_BYTES`.
        """
        root = StoragePath(root)
        if not root.is_local:
            return cls._under_url(root)
        if not root.is_dir():
            raise UsageError(f"{root}: no such directory; use the folder of the dataset")
        if not os.access(root, os.R_OK | os.X_OK):
            raise UsageError(f"{root}: cannot be read; check its permissions")
        files: set[str] = set()
        non_utf8_names: list[str] = []
        linked_folders: list[str] = []
        num_bytes = 0
        for path in _walk(root.local, linked_folders):
            if path.isascii() or _is_utf8(path):
                files.add(path)
            else:
                non_utf8_names.append(os.fsencode(path).decode("utf-8", "backslashreplace"))
            num_bytes += _BYTES_PER_FILE + len(path)
            if num_bytes > MAX_BYTES:
                raise _too_many(root)
        if not files and non_utf8_names:
            raise UsageError(f"{root}: no file name is UTF-8, e.g. {min(non_utf8_names)}; rename the files")
        if not files and linked_folders:
            raise UsageError(
                f"{root}: no files but links to folders, e.g. {printable(min(linked_folders))}; they are not followed: "
                "use the folder that they are in, or a copy"
            )
        if not files:
            raise UsageError(f"{root}: the directory is empty; use the folder of the dataset")
        return cls(root, files, tuple(sorted(non_utf8_names)), tuple(sorted(linked_folders)))

    @classmethod
    def _under_url(cls, root: StoragePath) -> "FileIndex":
        stats = list_files(root)
        if _BYTES_PER_FILE * len(stats) + sum(map(len, stats)) > MAX_BYTES:
            raise _too_many(root)
        if not stats:
            raise UsageError(f"{root}: no files at this URL; use the folder of the dataset")
        return cls(root, stats.keys(), stats=stats)

    @cached_property
    def meshes(self) -> Sequence[str]:
        """The files with the suffix of a mesh, sorted."""
        # Most files are found to be no meshes by their last letters, in a fifth of the time of `suffix_of`.
        ends = tuple(MESH_SUFFIXES)
        longest = max(map(len, ends))
        return sorted(
            path for path in self.files if path[-longest:].lower().endswith(ends) and suffix_of(path) in MESH_SUFFIXES
        )

    def has_folder(self, path: str) -> bool:
        """Return whether there is a folder of that name. A link to a folder counts."""
        return os.path.isdir(self.root / path) if self.root.is_local else path in self._folders

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(path[:at] for path in self.files for at, sign in enumerate(path) if sign == "/")

    def first_existing(self, stem: str, suffixes: Iterable[str]) -> str | None:
        """Return the first `stem + suffix` that exists."""
        for suffix in suffixes:
            if (path := stem + suffix) in self.files:
                return path
        return None

    def meshes_in(self, folder: str) -> list[str]:
        """Return the meshes directly in `folder` ("." is the root), without hidden ones."""
        start = "" if folder == "." else f"{folder}/"
        return [
            path
            for path in self._starting_with(start)
            if "/" not in (name := path.removeprefix(start)) and name[0] != "."
        ]

    def glob_meshes(self, pattern: str) -> list[str]:
        """Return the meshes whose path matches `pattern`: `*`, `?` and `[...]` within a name, `**` for any folders.

        As in a shell, a wildcard does not match a name that starts with a dot.
        """
        wild = min((at for sign in _WILDCARDS if (at := pattern.find(sign)) >= 0), default=len(pattern))
        parts = pattern.split("/")
        return [path for path in self._starting_with(pattern[:wild]) if _path_matches(path.split("/"), parts)]

    def _starting_with(self, start: str) -> Sequence[str]:
        return self.meshes[bisect_left(self.meshes, start) : bisect_left(self.meshes, start + _LAST_LETTER)]


def _too_many(root: StoragePath) -> UsageError:
    return UsageError(
        f"{root}: too many files: a list of them takes over {MAX_BYTES >> 20:,} MB; use the folder of the dataset"
    )


def suffix_of(path: str) -> str:
    """Return the last suffix of a path, in lower case and with its dot, or ""."""
    stem, dot, suffix = path[path.rfind("/") + 1 :].rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def stem_of(path: str) -> str:
    """Return a path without its last suffix."""
    return path[: len(path) - len(suffix_of(path))]


def natural_order(path: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key for paths that puts frame 9 before frame 10."""
    pieces = re.split(r"0*([0-9]+)", stem_of(path))
    # The longer of two numbers is larger. The texts between them have no length here.
    return [(len(piece) if i % 2 else 0, piece) for i, piece in enumerate(pieces)], path


def printable(path: str) -> str:
    """Escape characters of `path` that are not printable, such as those that move the cursor of a terminal."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in path)


def _walk(root: Path, linked_folders: list[str]) -> Iterator[str]:
    """Yield all files under `root`, and append links to folders to `linked_folders`."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(os.path.join(root, folder)) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(path)
                    # `entry.is_dir()` would raise for a link to itself.
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        linked_folders.append(path)
                    else:
                        yield path
        except OSError as error:
            # If the folder were skipped, its samples would seem deleted, and a render would delete them too.
            reason = f"{root / printable(folder)}: cannot be read ({error.strerror}); check its permissions"
            raise UsageError(reason) from None


def _is_utf8(path: str) -> bool:
    # Python replaces bytes of a file name that it cannot decode by lone surrogates.
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _path_matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether path components match those of a pattern. All readings of a `**` are followed at once."""
    states = _skip_double_stars({0}, pattern)
    for part in parts:
        open_states = {i for i in states if i < len(pattern)}
        staying = {i for i in open_states if pattern[i] == "**" and not part.startswith(".")}
        advancing = {i + 1 for i in open_states if pattern[i] != "**" and _name_matches(part, pattern[i])}
        states = _skip_double_stars(staying | advancing, pattern)
    return len(pattern) in states


def _name_matches(name: str, pattern: str) -> bool:
    hidden = name.startswith(".") and not pattern.startswith(".")
    return not hidden and fnmatchcase(name, pattern)


def _skip_double_stars(states: set[int], pattern: Sequence[str]) -> set[int]:
    for start in tuple(states):
        end = start
        while end < len(pattern) and pattern[end] == "**":
            end += 1
            states.add(end)
    return states
