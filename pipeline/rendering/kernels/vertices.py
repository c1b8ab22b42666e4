"""What is computed once a vertex: its normal, and where each view has it."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.rendering.backend import MAX_FACE

# Screen positions are snapped to 1/256 pixel and compared as integers: two faces that share an edge then agree
# exactly on which side of it a pixel centre lies, so that there is neither a gap nor a double hit along it.
SUBPIXEL = 256
# Beyond this many pixels a coordinate could overflow the products of 64-bit edge functions; such faces are not drawn.
GUARD = 1 << 20
# Nearer than this (frame units) counts as behind the camera.
NEAR = 1e-3
# Where a vertex is snapped to that no view can have: no face of it is drawn.
NOWHERE = -(1 << 31)


@njit(cache=True, nogil=True)
def vertex_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Unit normals [V, 3]: the mean of the adjacent faces' normals, weighted by area; 0 where there is no face."""
    normals = np.zeros((len(vertices), 3), np.float32)
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        # One number at a time: to take a row of an array and subtract it from another makes two arrays a face.
        ax, bx = vertices[j, 0] - vertices[i, 0], vertices[k, 0] - vertices[i, 0]
        ay, by = vertices[j, 1] - vertices[i, 1], vertices[k, 1] - vertices[i, 1]
        az, bz = vertices[j, 2] - vertices[i, 2], vertices[k, 2] - vertices[i, 2]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        if not (abs(nx) < MAX_FACE and abs(ny) < MAX_FACE and abs(nz) < MAX_FACE):
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
    """Where a view has the vertices.

    Fills `screen` [V, 3] with pixel u, v and nearness: 1 / z for perspective views and -z for orthographic ones, both
    of which are linear on the screen. Fills `snapped` [V, 3] with u and v in 1/`SUBPIXEL` pixel, and with the bits of
    the nearness, so that a face finds all it needs to be rasterised in one place; u is `NOWHERE` behind the camera,
    outside the guard band, and where the vertex is no number.
    """
    bits = screen.view(np.int32)
    for i in range(len(vertices)):
        x, y, z = np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])
        cx = x * R[0, 0] + y * R[1, 0] + z * R[2, 0] + T[0]
        cy = x * R[0, 1] + y * R[1, 1] + z * R[2, 1] + T[1]
        cz = x * R[0, 2] + y * R[1, 2] + z * R[2, 2] + T[2]
        scale = 1.0 / cz if perspective else 1.0
        u, v = K[0, 2] - K[0, 0] * cx * scale, K[1, 2] - K[1, 1] * cy * scale
        if cz > NEAR and abs(u) < GUARD and abs(v) < GUARD:
            screen[i, 0], screen[i, 1], screen[i, 2] = u, v, scale if perspective else -cz
            snapped[i, 0], snapped[i, 1] = np.rint(u * SUBPIXEL), np.rint(v * SUBPIXEL)
            snapped[i, 2] = bits[i, 2]
        else:
            snapped[i, 0] = NOWHERE
