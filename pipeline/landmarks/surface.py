"""What the surface of a scan says about its alignment: its main piece, its landmarks, and where it faces."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from smile_pipe.pipeline.meshes.mesh import Mesh

# Pieces closer than one or two cells of a grid over the whole mesh are one. Those with less than this share of the area
# of the largest are debris.
GRID, MIN_SHARE = 32, 0.25
# Largest area of a face that counts, relative to the median.
MAX_AREA = 20.0
# Largest median distance of landmarks from the surface, relative to the spread of the landmarks (root mean square
# distance from their mean, about 55 mm on a face). Half of the length of an edge is added, at most as much again.
MAX_DISTANCE = 0.08
MAX_LANDMARKS = 8  # that are compared with the surface
# Largest extent of a mesh, relative to the same spread: a person of 2.5 m.
MAX_EXTENT = 50.0
_NUM_SAMPLES = 1024  # faces that directions and lengths are measured on
# Below this ratio of the sum of the normals to the area, a surface is closed and faces nowhere.
MIN_OPEN = 0.3
MIN_COSINE = 0.5  # of the angle between the direction that a surface faces and the front
MAX_WIDTH = 1.3  # relative to the height


def main_piece(mesh: Mesh) -> NDArray[np.bool_]:
    """For each vertex, whether it belongs to the face and not to debris far from it, [V].

    Vertices are of one piece if a face connects them, or if they are in adjacent cells of a grid over the mesh. This is
    repeated on what is left until there is no debris. Vertices that no face uses belong to nothing.
    """
    kept = mesh.is_used
    while True:
        used = mesh.vertices[kept].astype(np.float64)
        low, extent = used.min(axis=0), float(np.ptp(used, axis=0).max())
        if extent <= 0:
            return kept
        cells = np.clip((mesh.vertices - low) * (GRID / extent), 0, GRID - 1)
        pieces = _pieces(np.where(kept[:, None], cells, 0).astype(np.int32), mesh.faces, kept)
        if not pieces.any():
            return kept
        whole = mesh.faces[kept[mesh.faces].all(axis=1)]
        areas = capped_areas(mesh.vertices[whole].astype(np.float64))
        sizes = np.bincount(pieces[whole[:, 0]], areas, minlength=int(pieces.max()) + 1)
        is_large = sizes >= MIN_SHARE * sizes.max()
        if is_large[pieces[kept]].all():
            return kept
        kept = kept & is_large[np.where(kept, pieces, 0)]


def _pieces(cells: NDArray[np.int32], faces: NDArray[np.int32], kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number of the piece of each vertex [V]; see `main_piece`. That of a vertex that is not kept has no meaning."""
    grid = np.zeros((GRID, GRID, GRID), bool)
    grid[tuple(cells[kept].T)] = True
    blocks, num_blocks = ndimage.label(grid, structure=np.ones((3, 3, 3)))
    if num_blocks == 1:  # most scans; whatever the faces connect, there is one piece
        return np.zeros(len(cells), np.int32)
    block_of = blocks[tuple(cells.T)]
    corners = block_of[faces[kept[faces].all(axis=1)]]
    rows, columns = corners[:, :2].ravel(), corners[:, 1:].ravel()
    is_edge = rows != columns
    edges = (np.ones(is_edge.sum()), (rows[is_edge], columns[is_edge]))
    _, pieces = connected_components(coo_array(edges, shape=(num_blocks + 1, num_blocks + 1)), directed=False)
    return pieces[block_of]


def capped_areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Areas [F] of faces with corners [F, 3, 3], at most `MAX_AREA` times their median.

    So a floor of two large triangles, or a face that a stray vertex has pulled out, counts little.
    """
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normals = np.stack([a[:, i] * b[:, j] - a[:, j] * b[:, i] for i, j in ((1, 2), (2, 0), (0, 1))])
    areas = np.sqrt((normals**2).sum(axis=0)) / 2
    return np.minimum(areas, MAX_AREA * np.median(areas)) if areas.any() else areas


def landmarks_problem(mesh: Mesh) -> str:
    """Compare the landmarks of a mesh with its surface.

    They may be those of another scan, in other units, or with other axes.

    Returns:
        Why they cannot be used, or "".
    """
    assert mesh.landmarks is not None
    known = mesh.landmarks[np.isfinite(mesh.landmarks).all(axis=1)].astype(np.float64)
    spread = float(np.sqrt(((known - known.mean(axis=0)) ** 2).sum(axis=1).mean())) if len(known) > 2 else 0.0
    if spread == 0.0:  # too few to compare
        return ""
    points = known[np.linspace(0, len(known) - 1, min(len(known), MAX_LANDMARKS)).astype(int)]
    squares = cdist(points, mesh.vertices.compress(mesh.is_used, axis=0), "sqeuclidean").min(axis=1)
    distance = float(np.median(np.sqrt(squares))) / spread
    corners = _sample_corners(mesh)
    edge = float(np.median(np.linalg.norm(corners[:, 1] - corners[:, 0], axis=1))) / spread
    extent = float(np.ptp(corners.reshape(-1, 3), axis=0).max()) / spread
    if extent > MAX_EXTENT:
        return f"landmarks are not used: the scan is {extent:.3g} times as large as their spread; check their unit"
    if distance > MAX_DISTANCE + min(edge / 2, MAX_DISTANCE):
        return (
            f"landmarks are not used: their median distance from the surface is {distance:.2g} times their spread; "
            "check that they are of this scan, and their unit and axes"
        )
    return ""


def orientation_problem(mesh: Mesh, matrix: NDArray[np.float64]) -> str:
    """Find out from the shape of a scan whether it looks turned.

    An open surface, as of a face without the back of its head, should face the front and be higher than wide. Closed
    surfaces, and faces that are upside down but face the front, are not recognised.

    Args:
        mesh: the scan.
        matrix: [3, 3], from its axes to left, up and front.

    Returns:
        What is odd, or "".
    """
    corners = _sample_corners(mesh) @ matrix
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(normals, axis=1)
    total = normals.sum(axis=0)
    length = float(np.linalg.norm(total))
    if not length > MIN_OPEN * areas.sum():
        return ""
    direction = total / length
    centres = corners.mean(axis=1)
    centres -= np.average(centres, axis=0, weights=areas)
    heights = centres @ direction
    # The winding of the faces is not reliable, but a face bulges to the front: its rim is behind its middle.
    radii = (centres**2).sum(axis=1) - heights**2
    if np.average(heights * (radii - np.average(radii, weights=areas)), weights=areas) > 0:
        direction = -direction
    if direction[2] < MIN_COSINE:
        axis = int(np.abs(matrix @ direction).argmax())
        name = "xyz"[axis] if (matrix @ direction)[axis] > 0 else f"-{'xyz'[axis]}"
        return f"looks turned: its surface faces {name} in the axes of the file; give its `up` or `axes`"
    width, height, _ = np.ptp(np.percentile(centres, [2, 98], axis=0), axis=0)
    return "looks turned: it is wider than high; give its `up` or `axes`" if width > MAX_WIDTH * height else ""


def _sample_corners(mesh: Mesh) -> NDArray[np.float64]:
    """Corners [N, 3, 3] of faces, evenly spaced in their order."""
    return mesh.vertices[mesh.faces[:: -(-len(mesh.faces) // _NUM_SAMPLES)]].astype(np.float64)
