"""Buffers of a glTF file that are compressed with `EXT_meshopt_compression`, a vendor extension of Khronos.

imagecodecs decodes numbers of vertices but not vertex indices. These are decoded here: the packages that can are built
from C++ at installation, or need AVX2.
"""

import imagecodecs
import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import MeshError

_NONE = 2**32 - 1  # an index that no mesh has
_READ, _BEFORE, _AFTER = 16, 17, 18
_THIRD = np.array([0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, _BEFORE, _AFTER, _READ])  # references of a third corner


def decode_meshopt(data: NDArray[np.uint8], mode: str, filter_name: str, count: int, stride: int) -> NDArray[np.uint8]:
    """Decode one buffer.

    Args:
        data: uint8 [N], the compressed bytes.
        mode: "ATTRIBUTES" for numbers of vertices, "TRIANGLES" for vertex indices.
        filter_name: "NONE", or "EXPONENTIAL" for floats stored as exponents and mantissas.
        count: number of elements.
        stride: bytes of each element.

    Returns:
        uint8 [count * stride].

    Raises:
        MeshError: the data are damaged, or have another mode or filter.
    """
    if mode == "TRIANGLES" and stride in (2, 4):
        indices = np.empty(count, np.uint32)
        if not _decode_triangles(data, indices):
            raise MeshError("damaged meshopt data")
        return indices.astype(f"<u{stride}").view(np.uint8)
    if mode != "ATTRIBUTES" or filter_name not in ("NONE", "EXPONENTIAL"):
        raise MeshError(f"unsupported meshopt data: mode {mode[:20]!a}, filter {filter_name[:20]!a}, {stride} bytes")
    try:
        decoded = imagecodecs.meshopt_decode(data.tobytes(), shape=(count, stride), dtype=np.uint8).reshape(-1)
    except (ValueError, RuntimeError) as error:
        raise MeshError("damaged meshopt data") from error
    if filter_name == "NONE":
        return decoded
    words = decoded.view("<i4")
    with np.errstate(over="ignore"):  # `Mesh.build` rejects values that overflow
        return np.ldexp((words << 8 >> 8).astype("<f4"), words >> 24).view(np.uint8)


@njit(cache=True, nogil=True)
def _decode_triangles(data: NDArray[np.uint8], out: NDArray[np.uint32]) -> bool:
    """Decode triangles into `out` [3 N]; return whether the data are valid.

    Each triangle has one byte in `data`. It gives an edge of an earlier triangle and a reference to the third corner
    (see `_find_vertex`), or references to three corners, in the last 16 bytes or after the bytes of the triangles.
    """
    num_triangles, end = len(out) // 3, len(data) - 16
    if len(out) % 3 or 1 + num_triangles > end or data[0] != 0xE1:
        return False
    state = np.array([1 + num_triangles, 0, 0, 0])
    edges, recent, num_edges = np.full((16, 2), _NONE, np.int64), np.full(16, _NONE, np.int64), 0
    corners, references = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for i in range(num_triangles):
        if state[0] > end:  # a triangle takes at most 16 bytes
            return False
        code = np.int64(data[1 + i])
        if code < 0xF0:
            corners[:2] = edges[(num_edges - 1 - (code >> 4)) & 15]
            references[:] = 1, 1, _THIRD[code & 15]
            corners[2] = _find_vertex(data, state, recent, references[2])
        else:
            pair = np.int64(data[end + (code & 15)] if code < 0xFE else data[state[0]])
            references[:] = 0, pair >> 4, pair & 15
            if code >= 0xFE:
                state[0] += 1
                state[1] *= pair != 0
                references[0] = 15 * (code & 1)
                references[references == 15] = _READ
            for k in range(3):
                corners[k] = _find_vertex(data, state, recent, references[k])
            edges[num_edges & 15] = corners[1], corners[0]
            num_edges += 1
        edges[num_edges & 15] = corners[2], corners[1]
        edges[(num_edges + 1) & 15] = corners[0], corners[2]
        num_edges += 2
        for k in range(3):
            out[3 * i + k] = corners[k]
            if references[k] == 0 or references[k] >= _READ:
                recent[state[3] & 15] = corners[k]
                state[3] += 1
    return state[0] == end


@njit(cache=True, nogil=True)
def _find_vertex(data: NDArray[np.uint8], state: NDArray[np.int64], recent: NDArray[np.int64], reference: int) -> int:
    """Return the vertex of a reference.

    Args:
        data: the compressed bytes.
        state: [4], updated: the byte to read next, the next new vertex, the last vertex that was read, and how many
            vertices were entered into `recent`.
        recent: [16], vertices that were new or read; a ring.
        reference: 0 for the next new vertex; up to 15 for the one that was entered so many before; `_READ` for one that
            is stored as its difference to the last one, seven bits a byte; `_BEFORE` and `_AFTER` for differences of 1.
    """
    if reference == 0:
        state[1] += 1
        return state[1] - 1
    if reference < _READ:
        return recent[(state[3] - reference) & 15]
    difference = np.int64(-1 if reference == _BEFORE else 1)
    if reference == _READ:
        value = shift = np.int64(0)
        while shift < 35:
            byte = np.int64(data[state[0]])
            state[0] += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        value &= _NONE
        difference = (value >> 1) ^ -(value & 1)  # the sign is in the lowest bit
    state[2] = (state[2] + difference) & _NONE
    return state[2]
