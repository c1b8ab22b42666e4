"""VRML 2.0 face scans (`.wrl`, ISO/IEC 14772-1), as in BU-3DFE and BU-4DFE: read and write.

All shapes of a file become one mesh, transformed by the nodes around them. Prototypes, inlined files and scripts do not
occur in scans and are ignored.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.shapes import join_shapes
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.vrml_scene import NO_COLORS, NO_POINTS, NO_UVS, Scene
from smile_pipe.pipeline.meshes.vrml_syntax import Node, read_nodes


def _visit(scene: Scene, node: Node, matrix: NDArray[np.float64]) -> None:
    """Add the shapes of a node that is transformed by `matrix` [4, 4]."""
    if node.kind == "IndexedFaceSet":
        _add_shape(scene, node, matrix)
    elif node.kind == "ImageTexture":
        scene.texture_name = scene.texture_name or node.words.get("url", "")
    elif node.kind == "Transform":
        matrix = matrix @ scene.matrix_of(node)
    for child in node.children:
        _visit(scene, child, matrix)


def _add_shape(scene: Scene, node: Node, matrix: NDArray[np.float64]) -> None:
    """Add an IndexedFaceSet. Colours of faces are dropped, since `Mesh` has none."""
    fields = {child.kind: child for child in node.children}
    empty = Node("", 0)
    points = fields.get("Coordinate", empty).values.get("point", NO_POINTS)
    uvs = fields.get("TextureCoordinate", empty).values.get("point", NO_UVS)
    colors = fields.get("Color", empty).values.get("color", NO_COLORS)
    if node.words.get("colorPerVertex") == "FALSE":
        colors = NO_COLORS
    indices = node.indices.get("texCoordIndex"), node.indices.get("colorIndex")
    scene.add(node, (points, uvs, colors), indices, matrix)


def parse_wrl(source: Source) -> Mesh:
    """Read a VRML 2.0 file.

    Raises:
        MeshError: the file is of another version, the text is malformed (with its line), or the mesh is empty or
            inconsistent.
    """
    magic = source.line(0, 16)
    if magic.startswith((b"#VRML V1.0", b"#Inventor")):
        raise MeshError("unsupported format: VRML 1.0 or Inventor; convert it to VRML 2.0, PLY or OBJ")
    if not magic.startswith(b"#VRML V2.0"):
        raise MeshError("not a VRML text file: its first line must start with #VRML V2.0")
    scene = Scene(source)
    _visit(scene, read_nodes(source), np.eye(4))
    if not scene.shapes:
        raise MeshError("no IndexedFaceSet with points and coordIndex")
    return join_shapes(scene.shapes, scene.texture_name)


def write_wrl(path: Path, mesh: Mesh, texture_name: str) -> None:
    """Write a mesh as one textured VRML 2.0 shape. Equal meshes give equal bytes.

    Points have four decimals, enough for millimetres; texture coordinates have six. A mesh without UVs gets no texture.

    Args:
        path: output file; an existing file is replaced.
        mesh: the mesh. Its colours, texture pixels and landmarks are not written.
        texture_name: value of `ImageTexture url`, relative to the file.

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
    """Format one bracketed field. `row` is the format of a row of `values` [N, K]."""
    return f"    {field} [\n" + (row * len(values)) % tuple(values.ravel().tolist()) + "    ]"
