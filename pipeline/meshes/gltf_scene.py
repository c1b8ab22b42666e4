"""The scene of a glTF 2.0 file: where its nodes place the meshes, and how the joints of a skin pose one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.gltf_json import JsonObject
from smile_pipe.pipeline.meshes.mesh import MeshError

_CHUNK = 1 << 16  # vertices that are posed at a time; each takes 128 bytes


@dataclass(frozen=True)
class PlacedMesh:
    """A mesh of the scene.

    Attributes:
        mesh: index of the mesh.
        matrix: [4, 4], from the mesh to the scene, for parts without joints.
        skin: index of the skin that poses it, or None.
    """

    mesh: int
    matrix: NDArray[np.float64]
    skin: int | None


def walk_scene(document: JsonObject) -> Iterator[PlacedMesh]:
    """Yield the meshes of the scene in the order of the nodes.

    All nodes of a file without scenes are used.
    """
    if document.items("scenes"):
        roots = document.item("scenes", document.count("scene", 0)).indices("nodes")
    else:
        parents = _parents(document)
        roots = [index for index in range(len(document.items("nodes"))) if index not in parents]
    stack, seen = [(root, np.eye(4)) for root in reversed(roots)], set[int]()
    while stack:
        index, matrix = stack.pop()
        if index in seen:
            raise MeshError(f"invalid scene: node {index} is reached twice")  # the nodes must form a tree
        seen.add(index)
        node = document.item("nodes", index)
        matrix = matrix @ _matrix_of(node)
        if (mesh := node.index("mesh")) is not None:
            yield PlacedMesh(mesh, matrix, node.index("skin"))
        stack += [(child, matrix) for child in reversed(node.indices("children"))]


def joint_matrices(document: JsonObject, joints: Sequence[int]) -> NDArray[np.float64]:
    """Return the matrices [J, 4, 4] from the joints of a skin to the scene; joints may be outside the scene."""
    parents, known = _parents(document), {-1: np.eye(4)}
    for joint in joints:
        chain, index = dict[int, None](), joint
        while index not in known:
            if index in chain:
                raise MeshError(f"invalid scene: node {index} is its own ancestor")
            chain[index] = None
            index = parents.get(index, -1)
        matrix = known[index]
        for node in reversed(chain):
            matrix = known[node] = matrix @ _matrix_of(document.item("nodes", node))
    return np.array([known[joint] for joint in joints]).reshape(-1, 4, 4)


def pose(
    points: NDArray[np.float32],
    joints: NDArray[np.integer],
    weights: NDArray[np.floating],
    matrices: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Move each vertex by the weighted mean of the matrices of its joints (glTF 2.0, 3.7.3.3).

    Args:
        points: [V, 3].
        joints: [V, K], indices into `matrices`.
        weights: [V, K]. A vertex whose weights are all zero follows its first joint.
        matrices: [J, 4, 4], of each joint the matrix to the scene times its inverse bind matrix.

    Returns:
        [V, 3].
    """
    if joints.size and int(joints.max()) >= len(matrices):
        raise MeshError(f"index out of range: a vertex has joint {joints.max()}, but the skin has {len(matrices)}")
    posed = np.empty((len(points), 3))
    for start in range(0, len(points), _CHUNK):
        part = slice(start, start + _CHUNK)
        shares = weights[part].astype(np.float64)
        shares[shares.sum(axis=1) == 0.0, 0] = 1.0
        shares /= shares.sum(axis=1, keepdims=True)
        with np.errstate(over="ignore", invalid="ignore"):  # `Mesh.build` rejects values that overflow
            blended = np.einsum("vk,vkij->vij", shares, matrices[joints[part], :3])
            posed[part] = np.einsum("vij,vj->vi", blended[..., :3], points[part]) + blended[..., 3]
    return posed


def _parents(document: JsonObject) -> dict[int, int]:
    nodes = range(len(document.items("nodes")))
    return {child: index for index in nodes for child in document.item("nodes", index).indices("children")}


def _matrix_of(node: JsonObject) -> NDArray[np.float64]:
    """The matrix [4, 4] of a node: `matrix`, or T R S with a quaternion x, y, z, w of any length (glTF 2.0, 3.5.3)."""
    if "matrix" in node.values:
        return node.numbers("matrix", (0.0,) * 16).reshape(4, 4).T  # column-major in the file
    if not node.values.keys() & {"translation", "rotation", "scale"}:
        return np.eye(4)
    rotation = node.numbers("rotation", (0.0, 0.0, 0.0, 1.0))
    x, y, z, w = rotation / (np.linalg.norm(rotation) or 1.0)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) + 2.0 * (w * cross + cross @ cross)) * node.numbers("scale", (1.0, 1.0, 1.0))
    matrix[:3, 3] = node.numbers("translation", (0.0, 0.0, 0.0))
    return matrix
