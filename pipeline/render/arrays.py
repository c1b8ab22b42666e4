"""Named arrays as one block of bytes: how meshes and images travel between the operators of a Ray Data job.

A table of Arrow holds the block as it is; the operator that receives it looks at the arrays in it without parsing them.
"""

import json
import struct
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_LENGTH = struct.Struct("<Q")


def pack_arrays(arrays: Mapping[str, NDArray]) -> bytes:
    """One block: the length of a JSON header, the header (name, dtype and shape of each array), and their bytes."""
    header = json.dumps([(name, array.dtype.str, array.shape) for name, array in arrays.items()]).encode()
    # Padded so that the arrays begin at a multiple of 8 bytes.
    header += b" " * (-len(header) % 8)
    parts = [_LENGTH.pack(len(header)), header]
    for array in arrays.values():
        content = np.ascontiguousarray(array).tobytes()
        parts += [content, bytes(-len(content) % 8)]
    return b"".join(parts)


def unpack_arrays(block: bytes | pa.Buffer) -> dict[str, NDArray]:
    """The arrays of a block, read-only views into it."""
    view = memoryview(block)
    (length,) = _LENGTH.unpack_from(view)
    start = _LENGTH.size + length
    arrays = {}
    for name, dtype, shape in json.loads(bytes(view[_LENGTH.size : start])):
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(view, dtype, count, start).reshape(shape)
        start += count * np.dtype(dtype).itemsize
        start += -start % 8
    return arrays
