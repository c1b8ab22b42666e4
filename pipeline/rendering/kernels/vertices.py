"""Numba kernels per vertex: normals, and projection to the screen."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.backend import MAX_FACE_AREA

# Screen positions are snapped to 1/256 pixel and compared as integers: two faces that share an edge agree exactly on
# which side of it a pixel centre is. There is no gap and no pixel drawn twice along the edge.
SUBPIXEL = 256
# Largest coordinate in pixels; larger ones could overflow the 64-bit edge functions. Faces beyond it are not drawn.
GUARD_BAND = 1 << 20
# Smallest depth in frame units; vertices nearer than this count as behind the camera.
NEAR = 1e-3
# Snapped coordinate of a vertex that cannot be drawn; faces with such a vertex are skipped.
OFFSCREEN = -(1 << 31)


@njit(cache=True, nogil=True)
def vertex_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Compute vertex normals: means of the adjacent faces' normals, weighted by area.

    Args:
        vertices: float32 [V, 3].
        faces: int32 [F, 3].

    Returns:
        float32 [V, 3], unit vectors; 0 for a vertex without a face.
    """
    normals = np.zeros((len(vertices), 3), np.float32)
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        # Scalars, because subtracting rows of an array allocates two arrays per face.
        ax, bx = vertices[j, 0] - vertices[i, 0], vertices[k, 0] - vertices[i, 0]
        ay, by = vertices[j, 1] - vertices[i, 1], vertices[k, 1] - vertices[i, 1]
        az, bz = vertices[j, 2] - vertices[i, 2], vertices[k, 2] - vertices[i, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        if not (abs(nx) < MAX_FACE_AREA and abs(ny) < MAX_FACE_AREA and abs(nz) < MAX_FACE_AREA):
            continue
        for v in (i, j, k):
            normals[v, 0] += nx
            normals[v, 1] += ny
            normals[v, 2] += nz
    for v in range(len(normals)):
        length = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2)
        if length > 0:
            for m in range(3):
                normals[v, m] /= length
    return normals


@njit(cache=True, nogil=True, error_model="numpy")
def project(
    vertices: NDArray[np.float32],
    R: NDArray[np.float64],
    T: NDArray[np.float64],
    K: NDArray[np.float64],
    perspective: bool,
    screen: NDArray[np.float32],
    snapped: NDArray[np.int32],
) -> None:
    """Project the vertices to the image of one view.

    Args:
        vertices: float32 [V, 3], frame units.
        R, T, K: The camera, see `CAMERA_CONVENTION` in `shards/sample.py`.
        perspective: Whether the camera divides by depth.
        screen: float32 [V, 3], output: pixel u, v and nearness. Nearness is 1 / z for a perspective view and -z for an
            orthographic one; both are linear on the screen.
        snapped: int32 [V, 3], output: u and v in 1/`SUBPIXEL` pixel and the bits of the nearness, all that `rasterise`
            needs in one array. u is `OFFSCREEN` for a vertex that is behind the camera, outside the guard band, or not
            finite.
    """
    bits = screen.view(np.int32)
    for i in range(len(vertices)):
        x, y, z = np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])
        cx = x * R[0, 0] + y * R[1, 0] + z * R[2, 0] + T[0]
        cy = x * R[0, 1] + y * R[1, 1] + z * R[2, 1] + T[1]
        cz = x * R[0, 2] + y * R[1, 2] + z * R[2, 2] + T[2]
        scale = 1.0 / cz if perspective else 1.0
        u, v = K[0, 2] - K[0, 0] * cx * scale, K[1, 2] - K[1, 1] * cy * scale
        if cz > NEAR and abs(u) < GUARD_BAND and abs(v) < GUARD_BAND:
            screen[i, 0], screen[i, 1], screen[i, 2] = u, v, scale if perspective else -cz
            snapped[i, 0], snapped[i, 1] = np.rint(u * SUBPIXEL), np.rint(v * SUBPIXEL)
            snapped[i, 2] = bits[i, 2]
        else:
            snapped[i, 0] = OFFSCREEN
