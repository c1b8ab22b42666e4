"""VRML 2.0 face scans (`.wrl`), the form of BU-3DFE and BU-4DFE: a Mesh out of one, or a Mesh into one.

All shapes of the file become one mesh, in the places that the Transform nodes around them say. Prototypes, inlined
files, scripts and repeated shapes (`USE`) have no place in a scan and are not followed.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import Mesh, MeshError
from pipeline.meshes.source import Source
from pipeline.meshes.vrml_nodes import read_scene
from pipeline.meshes.vrml_shapes import join


def parse_wrl(source: Source) -> Mesh:
    """Read a VRML 2.0 file.

    Raises:
        MeshError: the text is malformed (with its line), or the mesh is empty or inconsistent.
    """
    magic = source.line(0, 16)
    if not magic.startswith(b"#VRML V2.0"):
        old = magic.startswith((b"#VRML V1.0", b"#Inventor"))
        raise MeshError(f"is {'VRML 1.0' if old else 'not VRML'}; its first line must begin with #VRML V2.0")
    shapes, texture_name = read_scene(source)
    return join(shapes, texture_name)


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
