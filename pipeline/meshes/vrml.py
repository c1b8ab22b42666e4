"""VRML 2.0 face scans (`.wrl`, ISO/IEC 14772-1), as in BU-3DFE and BU-4DFE: read and write.

All shapes of a file become one mesh, transformed by the nodes around them. Prototypes, inlined files and scripts do not
occur in scans and are ignored.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike, NDArray

from smile_pipe.pipeline.meshes.mesh import FEW_CORNERS, Mesh, MeshError
from smile_pipe.pipeline.meshes.shapes import Shape, join_shapes, transform_shape
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import has_short_polygons
from smile_pipe.pipeline.meshes.vrml_shapes import build_shape, matrix_of
from smile_pipe.pipeline.meshes.vrml_syntax import Node, read_nodes

_NO_UVS, _NO_POINTS = np.empty((0, 2), np.float32), np.empty((0, 3), np.float32)
_MIN_SCENE_BYTES = 64 << 20  # memory that the shapes of a file of any size may take


@dataclass(eq=False)
class _Scene:
    """The shapes of a file, transformed by the nodes around them.

    Attributes:
        source: the file.
        shapes: in the order of the file.
        texture_name: first texture in the file, or "".
        nbytes: memory of the shapes. Small files that reuse large arrays many times are rejected.
        has_short_polygons: whether faces of fewer than three corners were left out.
    """

    source: Source
    shapes: list[Shape] = field(default_factory=list)
    texture_name: str = ""
    nbytes: int = 0
    has_short_polygons: bool = False

    def visit(self, node: Node, matrix: NDArray[np.float64]) -> None:
        """Add the shapes of a node that is transformed by `matrix` [4, 4]."""
        try:
            if node.kind == "IndexedFaceSet":
                self._add(node, matrix)
            elif node.kind == "ImageTexture":
                self.texture_name = self.texture_name or node.words.get("url", "")
            elif node.kind == "Transform":
                matrix = matrix @ matrix_of(node.numbers)
        except MeshError as error:
            raise self.source.error_at(node.pos, str(error)) from error
        for child in node.children:
            self.visit(child, matrix)

    def _add(self, node: Node, matrix: NDArray[np.float64]) -> None:
        """Add an IndexedFaceSet. Colours of faces are dropped, since `Mesh` has none."""
        fields, empty = {child.kind: child for child in node.children}, Node("", 0)
        points = fields.get("Coordinate", empty).values.get("point", _NO_POINTS)
        uvs = fields.get("TextureCoordinate", empty).values.get("point", _NO_UVS)
        colors = fields.get("Color", empty).values.get("color", _NO_POINTS)
        if node.words.get("colorPerVertex") == "FALSE":
            colors = _NO_POINTS
        if "coordIndex" not in node.indices or not len(points):
            return
        corners = [node.indices.get(name) for name in ("texCoordIndex", "colorIndex")]
        shape = build_shape(points, uvs, colors, node.indices["coordIndex"], *corners)
        self.nbytes += shape.nbytes
        if self.nbytes > _MIN_SCENE_BYTES + 16 * self.source.size:
            raise MeshError(f"arrays reused too often: the shapes take {self.nbytes} bytes")
        self.shapes.append(transform_shape(shape, matrix))
        self.has_short_polygons |= has_short_polygons(node.indices["coordIndex"])


def parse_wrl(source: Source) -> Mesh:
    """Read a VRML 2.0 file.

    Raises:
        MeshError: the file is of another version, the text is malformed (with its line), or the mesh is empty or
            inconsistent.
    """
    source = source.as_text()
    mesh = _parse(source, np.float32)
    return _parse(source, np.float64) if mesh.is_coarse else mesh


def _parse(source: Source, dtype: DTypeLike) -> Mesh:
    """Read the text, with points of type `dtype`: float32 takes less memory."""
    magic = source.line(0, 16)
    if magic.startswith((b"#VRML V1.0", b"#Inventor")):
        raise MeshError("unsupported format: VRML 1.0 or Inventor; convert it to VRML 2.0, PLY or OBJ")
    if not magic.startswith(b"#VRML V2.0"):
        raise MeshError("not a VRML text file: its first line must start with #VRML V2.0")
    scene = _Scene(source)
    scene.visit(read_nodes(source, dtype), np.eye(4))
    if not scene.shapes:
        raise MeshError("no IndexedFaceSet with points and coordIndex")
    return join_shapes(scene.shapes, scene.texture_name, (FEW_CORNERS,) if scene.has_short_polygons else ())


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
