"""The buffers of a glTF file as arrays: the binary chunk, data URIs, and files in its own folder.

Declared sizes are untrusted: byte ranges are checked before an array is made. Arrays are views and take no memory.
"""

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.gltf_document import Accessor, Document, get_item
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.source import MAX_BYTES, Source

_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_COLUMNS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


@dataclass(eq=False)
class Buffers:
    """The buffers of a document.

    Attributes:
        source: the file.
        document: its JSON.
        binary: uint8 [N], the binary chunk of a GLB, or None.
        nbytes: size of the file and of the buffers loaded so far.
    """

    source: Source
    document: Document
    binary: NDArray[np.uint8] | None
    nbytes: int = 0
    _loaded: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.nbytes = self.source.size

    def array(self, index: int, types: tuple[str, ...]) -> NDArray:
        """Return the numbers of accessor `index` [count, columns], as a view in the type of the file.

        Args:
            index: the accessor.
            types: allowed accessor types, of "SCALAR", "VEC2", "VEC3" and "VEC4".

        Raises:
            MeshError: the accessor has another type, is sparse, or exceeds its bytes, or a buffer cannot be loaded.
        """
        accessor = get_item(self.document.accessors, index, "accessor")
        component = _COMPONENTS.get(accessor.component_type)
        if component is None or accessor.type not in types:
            declared = f"{accessor.type[:8]!a} of component type {accessor.component_type}"
            raise MeshError(f"invalid accessor {index}: {declared}; expected {' or '.join(types)}")
        if accessor.sparse is not None or accessor.buffer_view is None:
            raise MeshError(f"unsupported accessor {index}: it is sparse or has no bytes")
        view = get_item(self.document.buffer_views, accessor.buffer_view, "bufferView")
        columns, dtype = _COLUMNS[accessor.type], np.dtype(component)
        stride = view.byte_stride or columns * dtype.itemsize
        _check_extent(index, accessor, stride, columns * dtype.itemsize, view.byte_length)
        if accessor.count == 0:
            return np.empty((0, columns), dtype)
        content = self.content(accessor.buffer_view)
        return np.ndarray(
            (accessor.count, columns), dtype, content.data, accessor.byte_offset, (stride, dtype.itemsize)
        )

    def normalized_array(self, index: int, types: tuple[str, ...], force_normalized: bool) -> NDArray[np.float32]:
        """Return accessor `index` as float32 [count, columns], normalised integers as fractions of the maximum.

        Args:
            index: the accessor.
            types: as for `array`.
            force_normalized: whether to treat integers as fractions even if the accessor does not declare it.
        """
        values = self.array(index, types)
        if values.dtype.kind == "f" or not (force_normalized or self.document.accessors[index].normalized):
            return values.astype(np.float32)
        return np.maximum(values / np.iinfo(values.dtype).max, -1.0).astype(np.float32)

    def content(self, index: int) -> NDArray[np.uint8]:
        """Return the bytes of bufferView `index`, not copied.

        Raises:
            MeshError: they exceed their buffer, or the buffer cannot be loaded.
        """
        view = get_item(self.document.buffer_views, index, "bufferView")
        content = self._buffer(view.buffer)
        if view.byte_offset + view.byte_length > len(content):
            raise MeshError(
                f"truncated buffer {view.buffer}: bytes {view.byte_offset} to "
                f"{view.byte_offset + view.byte_length} of {len(content)} are used"
            )
        return content[view.byte_offset : view.byte_offset + view.byte_length]

    def _buffer(self, index: int) -> NDArray[np.uint8]:
        if index not in self._loaded:
            self._loaded[index] = self._load(index)
        return self._loaded[index]

    def _load(self, index: int) -> NDArray[np.uint8]:
        uri = get_item(self.document.buffers, index, "buffer").uri
        if uri is None:
            if index or self.binary is None:
                raise MeshError(f"no bytes for buffer {index}")
            return self.binary
        if uri.startswith("data:"):
            content = np.frombuffer(decode_data_uri(uri), np.uint8)
        else:
            source = self._file(uri)
            content = source.text[: source.size]
        self.nbytes += len(content)
        if self.nbytes - self.source.size > MAX_BYTES:
            raise MeshError(f"buffers too large: more than {MAX_BYTES} bytes together")
        return content

    def _file(self, uri: str) -> Source:
        """Read a buffer from a file in the folder of the glTF or below."""
        path = self.source.sidecars.find(unquote(uri))
        if path is None:
            raise MeshError(f"buffer {uri[:80]!a} is outside the folder of the file; move it there")
        try:
            return Source.read(path)
        except MeshError as error:
            raise MeshError(f"buffer {uri[:80]!a}: {error}") from error


def decode_data_uri(uri: str) -> bytes:
    """Decode a data URI.

    Raises:
        MeshError: it is not base64.
    """
    head, comma, body = uri.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        raise MeshError("invalid data URI: not base64") from None


def _check_extent(index: int, accessor: Accessor, stride: int, size: int, room: int) -> None:
    """Raise unless the elements, `size` bytes every `stride` bytes, are disjoint and within `room` bytes."""
    if stride < size:
        raise MeshError(f"overlapping elements in accessor {index}: {size} bytes every {stride} bytes")
    end = accessor.byte_offset + stride * (accessor.count - 1) + size
    if accessor.count and end > room:
        raise MeshError(f"truncated accessor {index}: {accessor.count} elements in {room} bytes")
