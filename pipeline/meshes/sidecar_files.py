"""Files that a mesh refers to: materials and images, and the buffers of a glTF.

A reader looks them up here by the name in the mesh file. A callback gets each path before the lookup, to record it as
an input or to download it. No name leads out of the data directory.
"""

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from smile_pipe.pipeline.meshes.paths import escapes_root
from smile_pipe.pipeline.meshes.texture import resolve_texture_name

_EMBEDDED = re.compile(r"\s*data:", re.IGNORECASE)


def _ignore_access(path: str) -> None:
    pass


def list_names(root: Path, folder: str) -> list[str]:
    """Return the names in a folder, relative to a data directory; none if it cannot be read or is outside."""
    try:
        return [] if escapes_root(root, folder) else os.listdir(root / folder)
    except (OSError, ValueError):
        return []


@dataclass(frozen=True)
class SidecarFiles:
    """The files that one mesh may refer to.

    Attributes:
        root: the data directory.
        mesh: the mesh file, relative to `root`, with `/` as separator.
        on_access: called with each file, relative to `root`, before it is looked up. The file may be missing.
        with_materials: whether to read files that affect only the colours of the mesh.
        list_folder: returns the names in a folder, relative to `root`; None lists the local folder.
    """

    root: Path
    mesh: str
    on_access: Callable[[str], None] = _ignore_access
    with_materials: bool = True
    list_folder: Callable[[str], Iterable[str]] | None = None

    @classmethod
    def for_mesh(cls, mesh: Path) -> Self:
        """Sidecar files of a mesh that is read by itself; its folder is the root."""
        return cls(mesh.parent, mesh.name)

    def find(self, name: str) -> Path | None:
        """Resolve the name of a file that must be exactly where the mesh file says, in its folder or below.

        Returns:
            The path of a regular file or of a missing one. None if the name leaves the folder of the mesh, by the
            rules of `resolve_texture_name`.
        """
        folder, mesh = posixpath.split(self.mesh)
        relative = resolve_texture_name(self.root / folder, mesh, name)
        if relative is None:
            return None
        self.on_access(posixpath.join(folder, relative))
        return self.root / folder / relative

    def search(self, name: str) -> str | None:
        """Search the data directory for a material or an image, as its name may be of another machine.

        It is searched at its path relative to the mesh, then by its last part in the folder of the mesh. In each place
        a name that differs only in upper and lower case is found too, the first in alphabetical order.

        Args:
            name: the name from the mesh, with any separators; absolute, a URL, or relative to the mesh.

        Returns:
            The path of a regular file relative to `root`, or None.
        """
        if _EMBEDDED.match(name):
            return None
        last = posixpath.basename(name.replace("\\", "/"))
        for wanted in dict.fromkeys((name, last)):
            path = resolve_texture_name(self.root, self.mesh, wanted)
            if path is None:
                continue
            self.on_access(path)
            if (self.root / path).is_file():
                return path
            for other in self._in_other_case(path):
                self.on_access(other)
                if (self.root / other).is_file():
                    return other
        return None

    def _in_other_case(self, path: str) -> Iterator[str]:
        folder, last = posixpath.split(path)
        names = list_names(self.root, folder) if self.list_folder is None else self.list_folder(folder)
        for name in sorted(name for name in names if name != last and name.casefold() == last.casefold()):
            other = resolve_texture_name(self.root, posixpath.join(folder, "mesh"), f"./{name}")
            if other is not None:
                yield other
