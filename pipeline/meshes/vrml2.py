"""VRML 2.0 (ISO/IEC 14772-1): a shape's points, uvs and colours are nodes in its own fields."""

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.source import Source
from pipeline.meshes.vrml_scene import NO_COLORS, NO_POINTS, NO_UVS, Scene
from pipeline.meshes.vrml_syntax import Node, read_nodes


def read_vrml2(source: Source) -> Scene:
    """Read the shapes of a VRML 2.0 file.

    Raises:
        MeshError: the text is malformed, or a shape's arrays do not fit together (with its line).
    """
    scene = Scene(source)
    _visit(scene, read_nodes(source), np.eye(4))
    return scene


def _visit(scene: Scene, node: Node, matrix: NDArray[np.float64]) -> None:
    """Add what is in a node that lies where `matrix` [4, 4] says."""
    if node.kind == "IndexedFaceSet":
        _add(scene, node, matrix)
    elif node.kind == "ImageTexture":
        scene.texture_name = scene.texture_name or node.words.get("url", "")
    elif node.kind == "Transform":
        matrix = matrix @ scene.matrix_of(node)
    for child in node.shown():
        _visit(scene, child, matrix)


def _add(scene: Scene, node: Node, matrix: NDArray[np.float64]) -> None:
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
