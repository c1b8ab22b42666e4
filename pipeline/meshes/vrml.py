"""VRML 1.0 and Inventor 2: a shape is drawn with the points, uvs, colours and place that the nodes before it have set.

What is set inside a Separator ends with it; a Group, and any node that is not known here, hands it on.

VRML 2.0 (ISO/IEC 14772-1): a shape's points, uvs and colours are nodes in its own fields.

VRML face scans (`.wrl`), 2.0 as BU-3DFE and BU-4DFE have them, or 1.0: a Mesh out of one, or a Mesh into one.

All shapes of the file become one mesh, in the places that the nodes around them say. Prototypes, inlined files and
scripts have no place in a scan and are not followed.
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
    """What a shape would be drawn with.

    Attributes:
        matrix: [4, 4], from the shape to the file's axes.
        points: [V, 3].
        uvs: [U, 2].
        colors: [C, 3].
        binding: what a colour is for, as MaterialBinding has it.
    """

    matrix: NDArray[np.float64]
    points: NDArray[np.float32]
    uvs: NDArray[np.float32]
    colors: NDArray[np.float32]
    binding: str


def read_vrml1(source: Source) -> Scene:
    """Read the shapes of a VRML 1.0 or Inventor 2 file.

    Raises:
        MeshError: the text is malformed, or a shape's arrays do not fit together (with its line).
    """
    scene = Scene(source)
    _visit_vrml1(scene, read_nodes(source), _State(np.eye(4), NO_POINTS, NO_UVS, NO_COLORS, "DEFAULT"))
    return scene


def _visit_vrml1(scene: Scene, node: Node, state: _State) -> _State:
    """Add what is in a node, and say what the nodes after it are drawn with."""
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
    """Add an IndexedFaceSet; colours of other things than vertices are dropped, and so are uvs of another shape."""
    uv_corners = _explicit_indices(node.indices.get("textureCoordIndex"))
    color_corners = _explicit_indices(node.indices.get("materialIndex"))
    uvs = state.uvs if uv_corners is not None or len(state.uvs) == len(state.points) else NO_UVS
    colors = state.colors if state.binding == "PER_VERTEX_INDEXED" else NO_COLORS
    scene.add(node, (state.points, uvs, colors), (uv_corners, color_corners), state.matrix)


def _explicit_indices(indices: _Indices | None) -> _Indices | None:
    """Indices, or None where the file has none or the default, a single -1, which stands for those of the points."""
    return None if indices is None or indices[:2].tolist() in ([], [-1]) else indices


def read_vrml2(source: Source) -> Scene:
    """Read the shapes of a VRML 2.0 file.

    Raises:
        MeshError: the text is malformed, or a shape's arrays do not fit together (with its line).
    """
    scene = Scene(source)
    _visit_vrml2(scene, read_nodes(source), np.eye(4))
    return scene


def _visit_vrml2(scene: Scene, node: Node, matrix: NDArray[np.float64]) -> None:
    """Add what is in a node that lies where `matrix` [4, 4] says."""
    if node.kind == "IndexedFaceSet":
        _add_vrml2_shape(scene, node, matrix)
    elif node.kind == "ImageTexture":
        scene.texture_name = scene.texture_name or node.words.get("url", "")
    elif node.kind == "Transform":
        matrix = matrix @ scene.matrix_of(node)
    for child in node.visible_children():
        _visit_vrml2(scene, child, matrix)


def _add_vrml2_shape(scene: Scene, node: Node, matrix: NDArray[np.float64]) -> None:
    """Add an IndexedFaceSet; colours of faces, which a Mesh has no place for, are dropped."""
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
    return join_shapes(scene.shapes, scene.texture_name)


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
