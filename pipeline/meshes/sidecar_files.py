"""The files that a mesh needs beside itself: the material file of an OBJ, the buffers of a glTF.

A reader asks here for each by the name that the mesh has for it, and whoever started the reader is told of it first: to
note that the result depends on it, or to fetch it.
"""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from smile_pipe.pipeline.meshes.texture import resolve_texture_name


def _ignore_access(path: str) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class SidecarFiles:
    """Where the files that one mesh may name lie: in its own folder or below.

    Attributes:
        root: the data directory.
        mesh: the mesh file, relative to `root`, with `/` between the parts.
        tell: is given each file, relative to `root`, before it is looked for; it may not be there.
        looks: whether files are wanted that only colour the mesh.
    """

    root: Path
    mesh: str
    on_access: Callable[[str], None] = _ignore_access
    with_materials: bool = True

    @classmethod
    def for_mesh(cls, mesh: Path) -> Self:
        """Those of a mesh that is read by itself."""
        return cls(mesh.parent, mesh.name)

    def find(self, name: str) -> Path | None:
        """The companion of that name: a regular file, or one that is missing.

        None where the name leaves the folder of the mesh, by the rules of `resolve_texture_name`.
        """
        folder, mesh = posixpath.split(self.mesh)
        found = resolve_texture_name(self.root / folder, mesh, name)
        if found is None:
            return None
        self.on_access(posixpath.join(folder, found))
        return self.root / folder / found
