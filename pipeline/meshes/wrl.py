"""VRML 2.0 face scans (`.wrl`), the form of BU-3DFE and BU-4DFE: a Mesh out of one, or a Mesh into one."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import Mesh


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
