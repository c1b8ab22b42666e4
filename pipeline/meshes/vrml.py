"""VRML face scans (`.wrl`): read versions 2.0 (BU-3DFE and BU-4DFE use it) and 1.0 or Inventor 2, write 2.0.

All shapes of a file become one mesh, transformed by the nodes around them. In VRML 2.0 (ISO/IEC 14772-1), the points,
uvs and colours of a shape are nodes in its own fields. In VRML 1.0 and Inventor 2, they are state that earlier nodes
set: a Separator restores the state at its end; a Group, like any unknown node, does not. Prototypes, inlined files and
scripts do not occur in scans and are ignored.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.shapes import join_shapes
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.vrml_scene import NO_COLORS, NO_POINTS, NO_UVS, TRANSFORM_NODES, Scene
from smile_pipe.pipeline.meshes.vrml_syntax import Node, read_nodes

_Indices: TypeAlias = NDArray[np.int32]
_SEPARATORS = ("Separator", "WWWAnchor", "LOD", "Switch")


@dataclass(frozen=True, eq=False)
class _State:
    """State of the traversal of VRML 1.0: what the next shape is drawn with.

    Attributes:
        matrix: [4, 4], from the axes of the shape to those of the file.
        points: [V, 3].
        uvs: [U, 2].
        colors: [C, 3].
        binding: value of the last MaterialBinding: what one colour applies to.
    """

    matrix: NDArray[np.float64]
    points: NDArray[np.float32]
    uvs: NDArray[np.float32]
    colors: NDArray[np.float32]
    binding: str


def read_vrml1(source: Source) -> Scene:
    """Read the shapes of a VRML 1.0 or Inventor 2 file.

    Raises:
        MeshError: the text is malformed, or the arrays of a shape do not match (with its line).
    """
    scene = Scene(source)
    _visit_vrml1(scene, read_nodes(source), _State(np.eye(4), NO_POINTS, NO_UVS, NO_COLORS, "DEFAULT"))
    return scene


def _visit_vrml1(scene: Scene, node: Node, state: _State) -> _State:
    """Add the shapes of a node; return the state for the nodes after it."""
    if node.kind == "Coordinate3":
        return replace(state, points=node.values.get("point", NO_POINTS))
    if node.kind == "TextureCoordinate2":
        return replace(state, uvs=node.values.get("point", NO_UVS))
    if node.kind == "Material":
        return replace(state, colors=node.values.get("diffuseColor", NO_COLORS))
    if node.kind == "MaterialBinding":
        return replace(state, binding=node.words.get("value", "DEFAULT"))
    if node.kind in TRANSFORM_NODES:
        return replace(state, matrix=state.matrix @ scene.matrix_of(node))
    if node.kind == "Texture2":
        scene.texture_name = scene.texture_name or node.words.get("filename", "")
    elif node.kind == "IndexedFaceSet":
        _add_shape(scene, node, state)
    inner = state
    for child in node.visible_children():
        inner = _visit_vrml1(scene, child, inner)
    if node.kind in _SEPARATORS:
        return state
    return replace(inner, matrix=state.matrix) if node.kind == "TransformSeparator" else inner


def _add_shape(scene: Scene, node: Node, state: _State) -> None:
    """Add an IndexedFaceSet without colours that are not per vertex and without uvs that belong to another shape."""
    uv_corners = _explicit_indices(node.indices.get("textureCoordIndex"))
    color_corners = _explicit_indices(node.indices.get("materialIndex"))
    uvs = state.uvs if uv_corners is not None or len(state.uvs) == len(state.points) else NO_UVS
    colors = state.colors if state.binding == "PER_VERTEX_INDEXED" else NO_COLORS
    scene.add(node, (state.points, uvs, colors), (uv_corners, color_corners), state.matrix)


def _explicit_indices(indices: _Indices | None) -> _Indices | None:
    """Return indices, or None if they are missing or the default, a single -1, which means those of the points."""
    return None if indices is None or indices[:2].tolist() in ([], [-1]) else indices


def read_vrml2(source: Source) -> Scene:
    """Read the shapes of a VRML 2.0 file.

    Raises:
        MeshError: the text is malformed, or the arrays of a shape do not match (with its line).
    """
    scene = Scene(source)
    _visit_vrml2(scene, read_nodes(source), np.eye(4))
    return scene


def _visit_vrml2(scene: Scene, node: Node, matrix: NDArray[np.float64]) -> None:
    """Add the shapes of a node that is transformed by `matrix` [4, 4]."""
    if node.kind == "IndexedFaceSet":
        _add_vrml2_shape(scene, node, matrix)
    elif node.kind == "ImageTexture":
        scene.texture_name = scene.texture_name or node.words.get("url", "")
    elif node.kind == "Transform":
        matrix = matrix @ scene.matrix_of(node)
    for child in node.visible_children():
        _visit_vrml2(scene, child, matrix)


def _add_vrml2_shape(scene: Scene, node: Node, matrix: NDArray[np.float64]) -> None:
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
    """Read a VRML file. Its first line gives the version.

    Raises:
        MeshError: the text is malformed (with its line), or the mesh is empty or inconsistent.
    """
    magic = source.line(0, 16)
    if magic.startswith(b"#VRML V2.0"):
        scene = read_vrml2(source)
    elif magic.startswith((b"#VRML V1.0", b"#Inventor V2.")) and b"binary" not in source.line(0):
        scene = read_vrml1(source)
    else:
        raise MeshError("not a VRML text file: its first line must start with #VRML V2.0, #VRML V1.0 or #Inventor V2")
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
