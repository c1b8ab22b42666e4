"""The compiled loops of the `zbuffer` renderer: normals, projection, rasterisation, shading, flow.

Rasterisation finds, for each pixel, the nearest face; shading then visits each covered pixel once, so that a face
hidden by another costs no shading. Nearness is what the z-buffer compares: 1 / z for perspective views and -z for
orthographic ones, because both are linear in screen space.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

# Screen positions are snapped to 1/256 pixel and compared as integers: two faces that share an edge then agree
# exactly on which side of it a pixel centre lies, so that there is neither a gap nor a double hit along it.
SUBPIXEL = 256
# Beyond this many pixels a coordinate could overflow the products of 64-bit edge functions; such faces are not drawn.
GUARD = 1 << 20
# Nearer than this (frame units) counts as behind the camera.
NEAR = 1e-3


@njit(cache=True, nogil=True)
def vertex_normals(vertices: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float32]:
    """Unit normals [V, 3]: the mean of the adjacent faces' normals, weighted by area; 0 where there is no face."""
    normals = np.zeros((len(vertices), 3), np.float32)
    for f in range(len(faces)):
        i, j, k = faces[f]
        ax, ay, az = vertices[j] - vertices[i]
        bx, by, bz = vertices[k] - vertices[i]
        nx, ny, nz = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for v in (i, j, k):
            normals[v, 0] += nx
            normals[v, 1] += ny
            normals[v, 2] += nz
    for v in range(len(normals)):
        length = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2)
        if length > 0:
            normals[v] /= length
    return normals


@njit(cache=True, nogil=True)
def project(
    vertices: NDArray[np.float32],
    R: NDArray[np.float64],
    T: NDArray[np.float64],
    K: NDArray[np.float64],
    perspective: bool,
    screen: NDArray[np.float64],
) -> None:
    """Fill `screen` [V, 3] with pixel u, v and nearness, NaN behind the camera and outside the guard band."""
    for i in range(len(vertices)):
        x, y, z = np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])
        cx = x * R[0, 0] + y * R[1, 0] + z * R[2, 0] + T[0]
        cy = x * R[0, 1] + y * R[1, 1] + z * R[2, 1] + T[1]
        cz = x * R[0, 2] + y * R[1, 2] + z * R[2, 2] + T[2]
        divisor = cz if perspective else 1.0
        if not cz > NEAR:
            screen[i, 2] = np.nan
            continue
        u, v = K[0, 2] - K[0, 0] * cx / divisor, K[1, 2] - K[1, 1] * cy / divisor
        screen[i, 0], screen[i, 1] = u, v
        screen[i, 2] = (1.0 / cz if perspective else -cz) if abs(u) < GUARD and abs(v) < GUARD else np.nan


@njit(cache=True, nogil=True)
def rasterise(
    screen: NDArray[np.float64], faces: NDArray[np.int32], ids: NDArray[np.int32], nearness: NDArray[np.float64]
) -> None:
    """Fill `ids` [H, W] with the nearest face of each pixel centre, -1 where there is none.

    A pixel centre on an edge belongs to the face of which that edge is a top or left one.
    """
    height, width = ids.shape
    ids[:] = -1
    nearness[:] = -np.inf
    half = SUBPIXEL // 2
    for f in range(len(faces)):
        i, j, k = faces[f]
        q0, q1, q2 = screen[i, 2], screen[j, 2], screen[k, 2]
        if np.isnan(q0 + q1 + q2):
            continue
        x0, y0 = round(screen[i, 0] * SUBPIXEL), round(screen[i, 1] * SUBPIXEL)
        x1, y1 = round(screen[j, 0] * SUBPIXEL), round(screen[j, 1] * SUBPIXEL)
        x2, y2 = round(screen[k, 0] * SUBPIXEL), round(screen[k, 1] * SUBPIXEL)
        area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
        if area == 0:
            continue
        if area < 0:  # Both sides are drawn: a face seen from behind is walked the other way round.
            x1, y1, q1, x2, y2, q2, area = x2, y2, q2, x1, y1, q1, -area
        left = max((min(x0, x1, x2) + half - 1) // SUBPIXEL, 0)
        right = min((max(x0, x1, x2) - half) // SUBPIXEL, width - 1)
        top = max((min(y0, y1, y2) + half - 1) // SUBPIXEL, 0)
        bottom = min((max(y0, y1, y2) - half) // SUBPIXEL, height - 1)
        if left > right or top > bottom:
            continue
        px, py = left * SUBPIXEL + half, top * SUBPIXEL + half
        row0 = (x2 - x1) * (py - y1) - (y2 - y1) * (px - x1) - (not (y2 < y1 or (y2 == y1 and x2 > x1)))
        row1 = (x0 - x2) * (py - y2) - (y0 - y2) * (px - x2) - (not (y0 < y2 or (y0 == y2 and x0 > x2)))
        row2 = (x1 - x0) * (py - y0) - (y1 - y0) * (px - x0) - (not (y1 < y0 or (y1 == y0 and x1 > x0)))
        slope1, slope2 = (q1 - q0) / area, (q2 - q0) / area
        for y in range(top, bottom + 1):
            e0, e1, e2 = row0, row1, row2
            for x in range(left, right + 1):
                if (e0 | e1 | e2) >= 0:
                    q = q0 + slope1 * e1 + slope2 * e2
                    if q > nearness[y, x]:
                        nearness[y, x] = q
                        ids[y, x] = f
                e0 -= (y2 - y1) * SUBPIXEL
                e1 -= (y0 - y2) * SUBPIXEL
                e2 -= (y1 - y0) * SUBPIXEL
            row0 += (x2 - x1) * SUBPIXEL
            row1 += (x0 - x2) * SUBPIXEL
            row2 += (x1 - x0) * SUBPIXEL


@njit(cache=True, nogil=True)
def barycentrics(
    screen: NDArray[np.float64], i: int, j: int, k: int, u: float, v: float, perspective: bool
) -> tuple[float, float, float, float]:
    """Perspective-correct weights of vertices i, j, k at pixel position (u, v), and the depth there."""
    x0, y0, x1, y1, x2, y2 = screen[i, 0], screen[i, 1], screen[j, 0], screen[j, 1], screen[k, 0], screen[k, 1]
    area = (x1 - x0) * (y2 - y0) - (y1 - y0) * (x2 - x0)
    if abs(area) < 1e-12:
        a, b = 1.0 / 3, 1.0 / 3
    else:
        a = ((x2 - x1) * (v - y1) - (y2 - y1) * (u - x1)) / area
        b = ((x0 - x2) * (v - y2) - (y0 - y2) * (u - x2)) / area
    # Snapping may put a pixel centre up to 1/512 pixel outside the exact triangle; never extrapolate from a sliver.
    a, b = min(max(a, 0.0), 1.0), min(max(b, 0.0), 1.0)
    c = max(1.0 - a - b, 0.0)
    total = a + b + c
    a, b, c = a / total, b / total, c / total
    nearness = a * screen[i, 2] + b * screen[j, 2] + c * screen[k, 2]
    if not perspective:
        return a, b, c, -nearness
    return a * screen[i, 2] / nearness, b * screen[j, 2] / nearness, c * screen[k, 2] / nearness, 1.0 / nearness


@njit(cache=True, nogil=True)
def sample_texture(texture: NDArray[np.uint8], u: float, v: float, out: NDArray[np.float64]) -> None:
    """Bilinear lookup into `out` [3]; (0, 0) is the texture's lower left corner, outside clamps to the edge."""
    height, width = texture.shape[:2]
    x = min(max(u * width - 0.5, 0.0), width - 1.0)
    y = min(max((1.0 - v) * height - 0.5, 0.0), height - 1.0)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, width - 1), min(y0 + 1, height - 1)
    fx, fy = x - x0, y - y0
    for c in range(3):
        upper = texture[y0, x0, c] * (1 - fx) + texture[y0, x1, c] * fx
        lower = texture[y1, x0, c] * (1 - fx) + texture[y1, x1, c] * fx
        out[c] = upper * (1 - fy) + lower * fy


@njit(cache=True, nogil=True)
def shade(
    screen: NDArray[np.float64],
    faces: NDArray[np.int32],
    normals: NDArray[np.float32],
    ids: NDArray[np.int32],
    R: NDArray[np.float64],
    K: NDArray[np.float64],
    perspective: bool,
    ambient: float,
    face_uvs: NDArray[np.int32],
    uvs: NDArray[np.float32],
    texture: NDArray[np.uint8],
    colors: NDArray[np.float32],
    rgb: NDArray[np.uint8],
    depth: NDArray[np.float32],
    normal: NDArray[np.float32],
) -> None:
    """Fill the images of one view at the pixels where `ids` names a face.

    An empty `face_uvs` means no texture; `colors` [V, 3] are then used, or its single row for the whole mesh.
    """
    albedo = np.empty(3)
    last_color = len(colors) - 1
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            f = ids[y, x]
            if f < 0:
                continue
            i, j, k = faces[f]
            a, b, c, z = barycentrics(screen, i, j, k, x + 0.5, y + 0.5, perspective)
            if len(face_uvs):
                p, q, r = face_uvs[f]
                sample_texture(
                    texture,
                    a * uvs[p, 0] + b * uvs[q, 0] + c * uvs[r, 0],
                    a * uvs[p, 1] + b * uvs[q, 1] + c * uvs[r, 1],
                    albedo,
                )
            else:
                p, q, r = min(i, last_color), min(j, last_color), min(k, last_color)
                for m in range(3):
                    albedo[m] = a * colors[p, m] + b * colors[q, m] + c * colors[r, m]
            n0 = a * normals[i, 0] + b * normals[j, 0] + c * normals[k, 0]
            n1 = a * normals[i, 1] + b * normals[j, 1] + c * normals[k, 1]
            n2 = a * normals[i, 2] + b * normals[j, 2] + c * normals[k, 2]
            length = max(np.sqrt(n0 * n0 + n1 * n1 + n2 * n2), 1e-12)
            # Camera axes are +x left, +y up, +z into the scene; the image's are +x right, +y up, +z to the viewer.
            nx = -(n0 * R[0, 0] + n1 * R[1, 0] + n2 * R[2, 0]) / length
            ny = (n0 * R[0, 1] + n1 * R[1, 1] + n2 * R[2, 1]) / length
            nz = -(n0 * R[0, 2] + n1 * R[1, 2] + n2 * R[2, 2]) / length
            vx, vy = 0.0, 0.0
            if perspective:
                vx, vy = (K[0, 2] - x - 0.5) / K[0, 0], -(K[1, 2] - y - 0.5) / K[1, 1]
            facing = (nx * vx + ny * vy + nz) / np.sqrt(vx * vx + vy * vy + 1.0)
            if facing < 0:
                nx, ny, nz, facing = -nx, -ny, -nz, -facing
            light = ambient + (1.0 - ambient) * facing
            for m in range(3):
                rgb[y, x, m] = np.uint8(min(albedo[m] * light + 0.5, 255.0))
            depth[y, x] = z
            normal[y, x, 0], normal[y, x, 1], normal[y, x, 2] = nx, ny, nz


@njit(cache=True, nogil=True)
def draw_flow(
    screen: NDArray[np.float64],
    faces: NDArray[np.int32],
    flow: NDArray[np.float32],
    ids: NDArray[np.int32],
    R: NDArray[np.float64],
    perspective: bool,
    out: NDArray[np.float32],
) -> None:
    """Fill `out` [H, W, 3] with the flow [V, 3] of the vertices, along the image's axes, where `ids` names a face.

    Apart from `shade`, so that meshes without a flow cost nothing more.
    """
    for y in range(ids.shape[0]):
        for x in range(ids.shape[1]):
            f = ids[y, x]
            if f < 0:
                continue
            i, j, k = faces[f]
            a, b, c, _ = barycentrics(screen, i, j, k, x + 0.5, y + 0.5, perspective)
            d0 = a * flow[i, 0] + b * flow[j, 0] + c * flow[k, 0]
            d1 = a * flow[i, 1] + b * flow[j, 1] + c * flow[k, 1]
            d2 = a * flow[i, 2] + b * flow[j, 2] + c * flow[k, 2]
            out[y, x, 0] = -(d0 * R[0, 0] + d1 * R[1, 0] + d2 * R[2, 0])
            out[y, x, 1] = d0 * R[0, 1] + d1 * R[1, 1] + d2 * R[2, 1]
            out[y, x, 2] = -(d0 * R[0, 2] + d1 * R[1, 2] + d2 * R[2, 2])
