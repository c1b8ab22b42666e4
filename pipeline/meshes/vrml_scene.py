"""What is found on a walk through a VRML file: its shapes, and the first texture in use."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import MeshError
from pipeline.meshes.shapes import Shape, moved
from pipeline.meshes.source import Source
from pipeline.meshes.vrml_shapes import shape_of
from pipeline.meshes.vrml_syntax import Node
from pipeline.meshes.vrml_transforms import matrix_of

NO_UVS = np.empty((0, 2), np.float32)
NO_POINTS = NO_COLORS = np.empty((0, 3), np.float32)
_ROOM = 64 << 20  # what any file's shapes may take


@dataclass(eq=False)
class Scene:
    """The shapes of a file, in the places that the nodes around them say.

    Attributes:
        source: the file.
        shapes: in the order of the file.
        texture_name: the first texture that the file names, or "".
        nbytes: what the shapes take; small files that use large arrays over and over are refused.
    """

    source: Source
    shapes: list[Shape] = field(default_factory=list)
    texture_name: str = ""
    nbytes: int = 0

    def add(
        self,
        node: Node,
        arrays: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]],
        indices: tuple[NDArray[np.int32] | None, NDArray[np.int32] | None],
        matrix: NDArray[np.float64],
    ) -> None:
        """Add the shape of an IndexedFaceSet; one without points or polygons is left out.

        Args:
            node: the IndexedFaceSet.
            arrays: points [V, 3], uvs [U, 2] and colours [C, 3].
            indices: [N], for each corner the index of its uv and its colour; None where they are as `coordIndex`.
            matrix: [4, 4], where it lies.

        Raises:
            MeshError: its arrays do not fit together (with its line), or the shapes take too much memory.
        """
        points, uvs, colors = arrays
        if "coordIndex" not in node.indices or not len(points):
            return
        try:
            shape = shape_of(points, uvs, colors, node.indices["coordIndex"], *indices)
        except MeshError as error:
            raise self.source.error(node.at, str(error)) from error
        self.nbytes += shape.nbytes
        if self.nbytes > _ROOM + 16 * self.source.size:
            raise self.source.error(
                node.at, f"the shapes take more than {self.nbytes} bytes; arrays are used too often"
            )
        self.shapes.append(moved(shape, matrix))

    def matrix_of(self, node: Node) -> NDArray[np.float64]:
        """The matrix [4, 4] of a node that moves what is in it or after it.

        Raises:
            MeshError: a field of it is not what it should be (with its line).
        """
        try:
            return matrix_of(node.kind, node.numbers)
        except MeshError as error:
            raise self.source.error(node.at, str(error)) from error
