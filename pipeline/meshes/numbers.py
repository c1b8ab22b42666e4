"""Arrays of numbers from text files: runs the compiled parser and resolves the tokens that it leaves open."""

import re
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from smile_pipe.pipeline.meshes.buffers import reusable_array
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.text_parser import scan_integers, scan_numbers

_Scalar = TypeVar("_Scalar", bound=np.generic)

MAX_FALLBACKS = 4096
"""Rows of the array in which the parser lists tokens for `resolve_fallbacks`."""

_TOKEN = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf|infinity)", re.IGNORECASE)
_TOKEN_END = re.compile(rb"[\x00-\x20,\]}#]")
_MAX_TOKEN = 4096
_BYTES_PER_NUMBER = 8  # an estimate; the minimum is 2


def read_numbers(source: Source, pos: int, dtype: DTypeLike) -> tuple[NDArray[np.floating], int]:
    """Read numbers from byte `pos` until a bracket or brace closes or the file ends.

    Args:
        source: a text file. White space and commas separate numbers; `#` starts a comment.
        pos: first byte.
        dtype: float32; or float64 to keep integers up to 2**53 exact (other values may differ from
            Python's in the last bits).

    Returns:
        The numbers [N], and the byte where they end.

    Raises:
        MeshError: a token is not a number (with its line).
    """
    out = reusable_array((source.size - pos) // _BYTES_PER_NUMBER + 64, dtype)
    fallbacks = np.empty((MAX_FALLBACKS, 3), np.int64)
    count = 0
    while True:
        pos, count, num_fallbacks = scan_numbers(source.text, pos, count, out, fallbacks)
        resolve_fallbacks(source, fallbacks[:num_fallbacks], (out,))
        if count == len(out):
            out = grow(out)
        elif num_fallbacks < len(fallbacks):
            return out[:count], pos


def read_integers(source: Source, pos: int) -> tuple[NDArray[np.int32], int]:
    """Read integers from byte `pos` until something else follows; return them [N] and the byte after them."""
    out = reusable_array((source.size - pos) // _BYTES_PER_NUMBER + 64, np.int32)
    count = 0
    while True:
        pos, count = scan_integers(source.text, pos, count, out)
        if count < len(out):
            return out[:count], pos
        out = grow(out)


def grow(array: NDArray[_Scalar]) -> NDArray[_Scalar]:
    """Copy an array into one with twice the columns. The new columns are uninitialised."""
    out = np.empty((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    out[..., : array.shape[-1]] = array
    return out


def resolve_fallbacks(source: Source, fallbacks: NDArray[np.int64], arrays: tuple[NDArray[np.floating], ...]) -> None:
    """Parse tokens with Python's `float` that the compiled parser could not decide.

    Args:
        source: the parsed file.
        fallbacks: int64 [N, 3]: first byte of a token, index into `arrays`, index of the element.
        arrays: flat arrays of numbers; the elements are set.

    Raises:
        MeshError: a token is not a number (with its line).
    """
    for start, array_index, element in fallbacks.tolist():
        token = _TOKEN_END.split(source.slice(start, start + _MAX_TOKEN), maxsplit=1)[0]
        if len(token) == _MAX_TOKEN or not _TOKEN.fullmatch(token):
            raise source.error_at(start, f"{token[:40].decode('latin-1')!r} is not a number")
        with np.errstate(over="ignore"):  # values beyond float32 become infinite; `Mesh.build` rejects them
            arrays[array_index][element] = float(token)
