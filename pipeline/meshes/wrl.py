"""VRML face scans (`.wrl`), 2.0 as BU-3DFE and BU-4DFE have them, or 1.0: a Mesh out of one, or a Mesh into one.

All shapes of the file become one mesh, in the places that the nodes around them say. Prototypes, inlined files and
scripts have no place in a scan and are not followed.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import Mesh, MeshError
from pipeline.meshes.shapes import join
from pipeline.meshes.source import Source
from pipeline.meshes.vrml1 import read_vrml1
from pipeline.meshes.vrml2 import read_vrml2


def parse_wrl(source: Source) -> Mesh:
    """Read a VRML file; its first line says of which version.

    Raises:
        MeshError: the text is malformed (with its line), or the mesh is empty or inconsistent.
    """
    magic = source.line(0, 16)
    if magic.startswith(b"#VRML V2.0"):
        scene = read_vrml2(source)
    elif magic.startswith((b"#VRML V1.0", b"#Inventor V2.")) and b"binary" not in source.line(0):
        scene = read_vrml1(source)
    else:
        raise MeshError("is not VRML as text; its first line must begin with #VRML V2.0, #VRML V1.0 or #Inventor V2")
    if not scene.shapes:
        raise MeshError("has no IndexedFaceSet with points and coordIndex")
    return join(scene.shapes, scene.texture_name)


def write_wrl(path: Path, mesh: Mesh, texture_name: str) -> None:
    """Write a mesh as one textured VRML shape; the same mesh gives the same bytes.

    Points keep four decimals, enough for millimetres, and texture coordinates six. A mesh without UVs gets no texture.

    Args:
        path: the file to write; an existing one is replaced.
        mesh: what to write; its colours, texture pixels and landmarks have no place in this file.
        texture_name: what `ImageTexture url` shall say, relative to the file.

    Raises:
        OSError: the file cannot be written.
    """
    geometry = [
        "  geometry IndexedFaceSet {",
        "    coord Coordinate {",
        _array("point", "%.4f %.4f %.4f,\n", mesh.vertices),
        "    }",
        _array("coordIndex", "%d, %d, %d, -1,\n", mesh.faces),
    ]
    appearance: list[str] = []
    if mesh.uvs is not None and mesh.face_uvs is not None:
        url = texture_name.replace("\\", "\\\\").replace('"', '\\"')
        appearance = ["  appearance Appearance {", f'    texture ImageTexture {{ url "{url}" }}', "  }"]
        geometry += [
            "    texCoord TextureCoordinate {",
            _array("point", "%.6f %.6f,\n", mesh.uvs),
            "    }",
            _array("texCoordIndex", "%d, %d, %d, -1,\n", mesh.face_uvs),
        ]
    lines = ["#VRML V2.0 utf8", "Shape {", *appearance, *geometry, "  }", "}", ""]
    path.write_text("\n".join(lines), encoding="utf-8", newline="\n")


def _array(field: str, row: str, values: NDArray[np.generic]) -> str:
    """One bracketed field, a row a line; `row` is the format of a row of `values` [N, K]."""
    return f"    {field} [\n" + (row * len(values)) % tuple(values.ravel().tolist()) + "    ]"
