"""Where the meshes of a glTF scene lie."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.gltf_document import Document, Node, item
from pipeline.meshes.mesh import MeshError

_MOVES = {"matrix", "translation", "rotation", "scale"}


def placed(document: Document) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Walk the scene that the file shows: the index of a mesh and its matrix [4, 4], in the order of the nodes.

    A file without scenes shows all its nodes.

    Raises:
        MeshError: a node is reached twice (which a tree does not allow), or an index is out of range.
    """
    ahead = [(root, np.eye(4)) for root in reversed(_roots(document))]
    seen: set[int] = set()
    while ahead:
        index, above = ahead.pop()
        if index in seen:
            raise MeshError(f"has node {index} in more than one place")
        seen.add(index)
        node = item(document.nodes, index, "node")
        matrix = above @ _matrix_of(node) if node.model_fields_set & _MOVES else above
        if node.mesh is not None:
            yield node.mesh, matrix
        ahead += [(child, matrix) for child in reversed(node.children)]


def _roots(document: Document) -> tuple[int, ...]:
    if document.scenes:
        return item(document.scenes, document.scene, "scene").nodes
    children = {child for node in document.nodes for child in node.children}
    return tuple(index for index in range(len(document.nodes)) if index not in children)


def _matrix_of(node: Node) -> NDArray[np.float64]:
    """The matrix [4, 4] of one node: its own, or T R S (glTF 2.0, 3.5.3)."""
    if node.matrix is not None:
        return np.array(node.matrix).reshape(4, 4).T  # the file has it by columns
    matrix = np.eye(4)
    matrix[:3, :3] = _rotation(np.array(node.rotation)) * node.scale
    matrix[:3, 3] = node.translation
    return matrix


def _rotation(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrix [3, 3] of a quaternion x, y, z, w of any length."""
    length = np.linalg.norm(quaternion)
    if length == 0.0:
        return np.eye(3)
    x, y, z, w = quaternion / length
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + 2.0 * (w * cross + cross @ cross)
