"""Files that a mesh refers to: the material file of an OBJ, the buffers of a glTF.

A reader looks them up here by the name in the mesh file. A callback gets each path before the lookup, to record it as
an input or to download it.
"""

import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from smile_pipe.pipeline.meshes.texture import resolve_texture_name


def _ignore_access(path: str) -> None:
    pass


@dataclass(frozen=True)
class SidecarFiles:
    """The files that one mesh may refer to, in its own folder or below.

    Attributes:
        root: the data directory.
        mesh: the mesh file, relative to `root`, with `/` as separator.
        on_access: called with each file, relative to `root`, before it is looked up. The file may be missing.
        with_materials: whether to read files that affect only the colours of the mesh.
    """

    root: Path
    mesh: str
    on_access: Callable[[str], None] = _ignore_access
    with_materials: bool = True

    @classmethod
    def for_mesh(cls, mesh: Path) -> Self:
        """Sidecar files of a mesh that is read by itself; its folder is the root."""
        return cls(mesh.parent, mesh.name)

    def find(self, name: str) -> Path | None:
        """Resolve a name from the mesh file.

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
