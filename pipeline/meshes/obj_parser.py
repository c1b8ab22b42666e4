"""The compiled parser of OBJ files: one pass over the bytes.

Nearly all lines of a scan are vertices, texture coordinates and triangles with single blanks. Such a line is parsed
without a branch that depends on its numbers: one comparison of 64 bytes gives the ends of all of them, and whether it
is such a line is checked once, at its end. Any other line is parsed again, byte by byte.
"""

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.intrinsics import count_trailing_zeros, find_non_digits, load_byte
from smile_pipe.pipeline.meshes.source import PADDING
from smile_pipe.pipeline.meshes.text_parser import (
    BACKSLASH,
    DOT,
    HASH,
    INTEGER_POWERS,
    LINE_FEED,
    MINUS,
    POWERS,
    RETURN,
    SLASH,
    SPACE,
    TAB,
    compiled,
    ends_token,
    inlined,
    parse_digits,
    parse_integer,
    parse_number,
    signed,
    skip_blanks,
)

DONE, FULL, TOO_FEW_NUMBERS, BAD_CORNER, BAD_INDEX = range(5)
"""Status of a scan: finished, an array is full, or what is wrong with the line."""

NO_UV, BAD_UV = -2, -3
"""Texture coordinate index of an OBJ corner without one, and with one that does not exist."""

_F, _M, _S, _T, _U, _V = b"fmstuv"
_1 = np.uint64(1)


@inlined
def _scan_simple_row(text: NDArray[np.uint8], pos: int, num: int, out: NDArray[np.floating], count: int) -> int:
    """Parse a line of `num` numbers like `-12.345` from byte `pos` into `out[count:]`, with single blanks.

    Returns:
        The byte that ends the line; 0 for any other line, also one of more than 64 bytes.
    """
    first, marks, is_simple = pos, find_non_digits(text, pos), True
    for n in range(num):
        is_negative = load_byte(text, pos) == MINUS
        marks &= marks - np.uint64(is_negative)
        start = pos + is_negative
        point = first + signed(count_trailing_zeros(marks))
        marks &= marks - _1
        end = first + signed(count_trailing_zeros(marks))
        marks &= marks - _1
        whole, decimals, separator = point - start, end - point - 1, load_byte(text, end)
        is_simple &= (whole > 0) & (whole < 8) & (load_byte(text, point) == DOT) & (decimals > 0) & (decimals <= 8)
        is_simple &= (separator == SPACE) if n < num - 1 else (separator == LINE_FEED) | (separator == RETURN)
        decimals &= 15
        mantissa = parse_digits(text, start, whole) * INTEGER_POWERS[decimals] + parse_digits(text, point + 1, decimals)
        value = mantissa / POWERS[decimals]
        out[count + n] = -value if is_negative else value
        pos = end + 1
    return end if is_simple else 0


@inlined
def _scan_simple_triangle(text: NDArray[np.uint8], pos: int, corners: NDArray[np.int32], count: int) -> int:
    """Parse a line of three corners from byte `pos` as `_scan_polygon` does, with positive indices and single blanks.

    Returns:
        The byte that ends the line; 0 for any other line, also one of more than 64 bytes.
    """
    first, marks, is_simple = pos, find_non_digits(text, pos), True
    for n in range(3):
        end = first + signed(count_trailing_zeros(marks))
        marks &= marks - _1
        point, uv = parse_digits(text, pos, end - pos), NO_UV + 1
        is_simple &= (pos < end) & (end <= pos + 8) & (point > 0)
        if load_byte(text, end) == SLASH:
            pos = end + 1
            end = first + signed(count_trailing_zeros(marks))
            marks &= marks - _1
            uv = parse_digits(text, pos, end - pos) if pos < end else uv
            is_simple &= (pos <= end) & (end <= pos + 8) & (uv != 0)
            if load_byte(text, end) == SLASH:
                pos = end + 1
                end = first + signed(count_trailing_zeros(marks))
                marks &= marks - _1
        separator = load_byte(text, end)
        is_simple &= (separator == SPACE) if n < 2 else (separator == LINE_FEED) | (separator == RETURN)
        corners[0, count + n], corners[1, count + n] = point - 1, uv - 1
        pos = end + 1
    corners[0, count + 3] = corners[1, count + 3] = -1
    return end if is_simple else 0


@inlined
def _scan_row(
    text: NDArray[np.uint8],
    pos: int,
    limit: int,
    array: int,
    out: NDArray[np.floating],
    count: int,
    fallbacks: NDArray[np.int64],
    row: int,
) -> tuple[int, int, int]:
    """Parse up to `limit` numbers of a line into `out[count:]`; `array` and `row` are for `fallbacks`.

    Returns:
        The byte after them, how many there are, the number of rows set in `fallbacks`.
    """
    num_read = 0
    while num_read < limit:
        pos = skip_blanks(text, pos)
        if load_byte(text, pos) in (LINE_FEED, HASH):
            break
        start = pos
        out[count + num_read], pos, is_exact = parse_number(text, pos)
        if not is_exact:
            fallbacks[row, 0], fallbacks[row, 1], fallbacks[row, 2] = start, array, count + num_read
            row += 1
        num_read += 1
    return pos, num_read, row


@inlined
def _resolve_index(value: int, count: int) -> int:
    """Convert an OBJ index (from 1, or negative from the last element) to one from 0; -1 if it is invalid."""
    return value - 1 if value > 0 else (count + value if value < 0 and count + value >= 0 else -1)


@compiled
def _scan_polygon(
    text: NDArray[np.uint8],
    pos: int,
    num_points: int,
    num_uvs: int,
    corners: NDArray[np.int32],
    count: int,
) -> tuple[int, int, int]:
    """Append the corners of an OBJ face line to `corners` [2, N] as vertex and uv (or NO_UV), then -1 as the end.

    Returns:
        The byte after the last corner, the number of columns set in `corners`, `DONE` or the problem there.
    """
    first = count
    while True:
        pos = skip_blanks(text, pos)
        if load_byte(text, pos) in (LINE_FEED, HASH):
            break
        if count + 1 >= corners.shape[1]:
            return pos, first, FULL
        point, after = parse_integer(text, pos)
        uv = NO_UV
        if after > pos and load_byte(text, after) == SLASH:
            value, end = parse_integer(text, after + 1)
            if end > after + 1:
                uv = _resolve_index(value, num_uvs)
            if load_byte(text, end) == SLASH:
                _, end = parse_integer(text, end + 1)
            after = end
        if after == pos or not (ends_token(load_byte(text, after)) or load_byte(text, after) == BACKSLASH):
            return pos, count, BAD_CORNER
        point = _resolve_index(point, num_points)
        if point < 0:
            return pos, count, BAD_INDEX
        corners[0, count], corners[1, count] = point, BAD_UV if uv == -1 else uv
        count += 1
        pos = after
    corners[0, count] = corners[1, count] = -1
    return pos, count + 1, DONE


@compiled
def _scan_line(
    text: NDArray[np.uint8],
    state: NDArray[np.int64],
    points: NDArray[np.floating],
    uvs: NDArray[np.float32],
    colors: NDArray[np.float32],
    corners: NDArray[np.int32],
    fallbacks: NDArray[np.int64],
    materials: NDArray[np.int64],
    num_fallbacks: int,
) -> tuple[int, int]:
    """Parse any line as `scan_obj` does; `num_fallbacks` rows of `fallbacks` are set before."""
    start, num_points, num_uvs, num_colors, num_corners, num_materials = state
    start = pos = skip_blanks(text, start)
    status = DONE
    c, blank = load_byte(text, pos), load_byte(text, pos + 1) in (SPACE, TAB)
    if c == _V and min(len(fallbacks) - num_fallbacks, len(points) - num_points, len(uvs) - num_uvs) < 6:
        status = FULL
    elif c == _V and blank:
        pos, num_read, num_fallbacks = _scan_row(text, pos + 2, 3, 0, points, num_points, fallbacks, num_fallbacks)
        status = DONE if num_read == 3 else TOO_FEW_NUMBERS
        num_points += 3
        pos, num_read, num_fallbacks = _scan_row(text, pos, 3, 2, colors, num_colors, fallbacks, num_fallbacks)
        if 0 < num_read < 3:
            colors[num_colors + 2] = np.nan
        num_colors += 3 if num_read else 0
    elif c == _V and load_byte(text, pos + 1) == _T:
        uvs[num_uvs + 1] = 0.0
        pos, num_read, num_fallbacks = _scan_row(text, pos + 2, 2, 1, uvs, num_uvs, fallbacks, num_fallbacks)
        status = DONE if num_read >= 1 else TOO_FEW_NUMBERS
        num_uvs += 2
    elif c == _F and blank:
        pos, num_corners, status = _scan_polygon(text, pos + 2, num_points // 3, num_uvs // 2, corners, num_corners)
        start = pos if status in (BAD_CORNER, BAD_INDEX) else start
    elif c in (_M, _U) and load_byte(text, pos + 1) in (_S, _T) and num_materials < materials.shape[1]:
        materials[0, num_materials], materials[1, num_materials] = pos, num_corners
        num_materials += 1
    if status == DONE:
        while load_byte(text, pos) != LINE_FEED:
            pos += 1
        start = pos + 1
    state[:] = start, num_points, num_uvs, num_colors, num_corners, num_materials
    return status, num_fallbacks


@compiled
def scan_obj(
    text: NDArray[np.uint8],
    state: NDArray[np.int64],
    points: NDArray[np.floating],
    uvs: NDArray[np.float32],
    colors: NDArray[np.float32],
    corners: NDArray[np.int32],
    fallbacks: NDArray[np.int64],
    materials: NDArray[np.int64],
) -> tuple[int, int]:
    """Parse OBJ lines from byte `state[0]`.

    Args:
        text: see the module.
        state: int64 [6], updated: the next byte, then the number of elements set in points, uvs, colors, corners
            (columns) and materials.
        points: array 0 of the fallbacks, flat x y z.
        uvs: array 1, flat u v.
        colors: array 2, flat r g b, as long as `points`; b is NaN if a line has only one or two of them.
        corners: [2, N], see `_scan_polygon`.
        fallbacks: int64 [N, 3], tokens for `resolve_fallbacks`.
        materials: int64 [2, M], where a `mtllib` or `usemtl` line may start and the corners before; others are ignored.

    Returns:
        `DONE`, `FULL`, or the problem at byte `state[0]`; the number of rows set in `fallbacks`.
    """
    pos, num_points, num_uvs, num_corners = state[0], state[1], state[2], state[4]
    num_fallbacks, status = 0, DONE
    while pos < len(text) - PADDING and status == DONE:
        c, second, end = load_byte(text, pos), load_byte(text, pos + 1), 0
        if c == _F and second == SPACE and num_corners + 4 <= corners.shape[1]:
            end = _scan_simple_triangle(text, pos + 2, corners, num_corners)
            num_corners += 4 if end else 0
        elif c == _V and second == SPACE and num_points + 3 <= len(points):
            end = _scan_simple_row(text, pos + 2, 3, points, num_points)
            num_points += 3 if end else 0
        elif c == _V and second == _T and num_uvs + 2 <= len(uvs):
            end = _scan_simple_row(text, pos + 3, 2, uvs, num_uvs)
            num_uvs += 2 if end else 0
        pos = end + 1 if end else pos
        if not end:
            state[0], state[1], state[2], state[4] = pos, num_points, num_uvs, num_corners
            status, num_fallbacks = _scan_line(
                text, state, points, uvs, colors, corners, fallbacks, materials, num_fallbacks
            )
            pos, num_points, num_uvs, num_corners = state[0], state[1], state[2], state[4]
    state[0], state[1], state[2], state[4] = pos, num_points, num_uvs, num_corners
    return status, num_fallbacks
