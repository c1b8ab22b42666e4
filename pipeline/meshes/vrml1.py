"""VRML 1.0 and Inventor 2: a shape is drawn with the points, uvs, colours and place that the nodes before it have set.

What is set inside a Separator ends with it; a Group, and any node that is not known here, hands it on.
"""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.source import Source
from pipeline.meshes.vrml_scene import NO_COLORS, NO_POINTS, NO_UVS, Scene
from pipeline.meshes.vrml_syntax import Node, read_nodes
from pipeline.meshes.vrml_transforms import KINDS

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
    _visit(scene, read_nodes(source), _State(np.eye(4), NO_POINTS, NO_UVS, NO_COLORS, "DEFAULT"))
    return scene


def _visit(scene: Scene, node: Node, state: _State) -> _State:
    """Add what is in a node, and say what the nodes after it are drawn with."""
    if node.kind == "Coordinate3":
        return replace(state, points=node.values.get("point", NO_POINTS))
    if node.kind == "TextureCoordinate2":
        return replace(state, uvs=node.values.get("point", NO_UVS))
    if node.kind == "Material":
        return replace(state, colors=node.values.get("diffuseColor", NO_COLORS))
    if node.kind == "MaterialBinding":
        return replace(state, binding=node.words.get("value", "DEFAULT"))
    if node.kind in KINDS:
        return replace(state, matrix=state.matrix @ scene.matrix_of(node))
    if node.kind == "Texture2":
        scene.texture_name = scene.texture_name or node.words.get("filename", "")
    elif node.kind == "IndexedFaceSet":
        _add(scene, node, state)
    inner = state
    for child in node.shown():
        inner = _visit(scene, child, inner)
    if node.kind in _SEPARATORS:
        return state
    return replace(inner, matrix=state.matrix) if node.kind == "TransformSeparator" else inner


def _add(scene: Scene, node: Node, state: _State) -> None:
    """Add an IndexedFaceSet; colours of other things than vertices are dropped, and so are uvs of another shape."""
    uv_corners = _given(node.indices.get("textureCoordIndex"))
    color_corners = _given(node.indices.get("materialIndex"))
    uvs = state.uvs if uv_corners is not None or len(state.uvs) == len(state.points) else NO_UVS
    colors = state.colors if state.binding == "PER_VERTEX_INDEXED" else NO_COLORS
    scene.add(node, (state.points, uvs, colors), (uv_corners, color_corners), state.matrix)


def _given(indices: _Indices | None) -> _Indices | None:
    """Indices, or None where the file has none or the default, a single -1, which stands for those of the points."""
    return None if indices is None or indices[:2].tolist() in ([], [-1]) else indices
