"""The compiled text parser of the OBJ, VRML and ASCII PLY readers: exact numbers in one pass over the bytes.

Every number equals `float32(float(token))`. A token whose value is not certain here is listed in `fallbacks` as (first
byte, array, element); `resolve_fallbacks` parses it with Python's `float`.

`text` is always a `Source.text`. Its padding makes bounds checks unnecessary: after the file's own bytes come a byte
that ends every token, line and continued line, and eight more bytes.

All compiled functions of the text formats are in this one file: Numba's cache compares the time stamp of a function's
own file but not those of the functions it calls, so it would keep an outdated `parse_number`.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.intrinsics import count_trailing_zeros, load_byte, load_word
from smile_pipe.pipeline.meshes.source import PADDING

DONE, FULL, TOO_FEW_NUMBERS, BAD_CORNER, BAD_INDEX = range(5)
"""Status of a scan: finished, an array is full, or what is wrong with the line."""

NO_UV, BAD_UV = -2, -3
"""Texture coordinate index of an OBJ corner without one, and with one that does not exist."""

_TAB, _LINE_FEED, _RETURN, _SPACE, _HASH, _PLUS, _COMMA, _MINUS, _DOT, _SLASH, _ONE = b"\t\n\r #+,-./1"
_BACKSLASH, _CLOSE, _CLOSE_BRACE, _UPPER_E, _LOWER_E = b"\\]}Ee"
_F, _M, _T, _U, _V = b"fmtuv"

_POWERS = np.array([float(f"1e{k}") for k in range(61)])  # correctly rounded; exact up to 1e22
_INTEGER_POWERS = 10 ** np.arange(9)
_MARGIN = 2.0**-49

# For `_parse_digits`. A plain int would turn unsigned arithmetic into floating point.
_3, _8, _10, _16, _32, _63, _64 = (np.uint64(n) for n in (3, 8, 10, 16, 32, 63, 64))
_ZEROS, _SIXES, _HIGH_NIBBLES = (np.uint64(int.from_bytes(bytes([b] * 8))) for b in (0x30, 0x06, 0xF0))
_PAIRS = np.uint64(0xFF | 0xFF << 32)
_WEIGHTS_LOW, _WEIGHTS_HIGH = np.uint64(100 | 1_000_000 << 32), np.uint64(1 | 10_000 << 32)

_signed = cast("Callable[[np.uint64], int]", np.int64)  # int64 is the int of compiled code
_compiled = njit(cache=True, nogil=True)
_inlined = njit(cache=True, nogil=True, inline="always")  # twice as fast as inlining by LLVM


@_inlined
def _ends_token(c: int) -> bool:
    return c <= _SPACE or c in (_COMMA, _CLOSE, _CLOSE_BRACE, _HASH)


@_compiled
def _scale(mantissa: int, exponent: int, dropped: bool) -> tuple[float, bool]:
    """Return mantissa * 10**exponent, and whether it is certain after rounding to float32.

    With a mantissa below 2**53 and an exact power of ten, one multiplication or division is correctly rounded (Clinger,
    "How to read floating point numbers accurately", 1990). Otherwise the result is off by less than four roundings of
    2**-53 and a cut of 10**-17. It is certain if both ends of a wider interval round to the same float32, since
    rounding is monotonic.
    """
    if exponent < -60 or exponent > 60:
        return 0.0, False
    value = float(mantissa) / _POWERS[-exponent] if exponent < 0 else float(mantissa) * _POWERS[exponent]
    if not dropped and mantissa <= 1 << 53 and -22 <= exponent <= 22:
        return value, True
    low, high = np.float32(value * (1.0 - _MARGIN)), np.float32(value * (1.0 + _MARGIN))
    return value, low == high


@_inlined
def _parse_digits(text: NDArray[np.uint8], pos: int) -> tuple[int, int]:
    """Parse at most eight digits at byte `pos`; return their value and count. The value is undefined for count 0.

    All eight bytes are tested in one word, since a loop would mispredict its end at most numbers. Multiplications sum
    the digits in pairs, then fours, then all (Lemire, "Quickly parsing eight digits", 2018).
    """
    word = load_word(text, pos)
    count = count_trailing_zeros((word & _HIGH_NIBBLES) ^ _ZEROS) >> _3
    word = (word ^ _ZEROS) << ((_64 - (count << _3)) & _63)
    if (word + _SIXES) & _HIGH_NIBBLES:  # one of `:;<=>?`, which share the high half with the digits
        return 0, 0
    word = word * _10 + (word >> _8)
    pairs = (word & _PAIRS) * _WEIGHTS_LOW + ((word >> _16) & _PAIRS) * _WEIGHTS_HIGH
    return _signed(pairs >> _32), _signed(count)


@_inlined
def parse_number(text: NDArray[np.uint8], pos: int) -> tuple[float, int, bool]:
    """Parse the number that starts at byte `pos`.

    Returns:
        The value, correct after rounding to float32 (integers below 2**53 are exact); the byte after the token, always
        greater than `pos`; whether the value is certain.
    """
    start = pos
    negative = load_byte(text, pos) == _MINUS
    pos += negative
    first = pos
    mantissa = decimals = 0
    while 48 <= load_byte(text, pos) <= 57 and pos < first + 7:
        mantissa = mantissa * 10 + (load_byte(text, pos) - 48)
        pos += 1
    if load_byte(text, pos) == _DOT:
        fraction, decimals = _parse_digits(text, pos + 1)
        mantissa = mantissa * _INTEGER_POWERS[decimals] + fraction
        pos = pos + 1 + decimals if decimals else start
    if pos == first or not _ends_token(load_byte(text, pos)):
        return _parse_long_number(text, start)
    value = mantissa / _POWERS[decimals]  # at most 15 digits by an exact power: correctly rounded
    return (-value if negative else value), pos, True


@_compiled
def _parse_long_number(text: NDArray[np.uint8], pos: int) -> tuple[float, int, bool]:
    """Parse as `parse_number` does, for tokens that are long, have an exponent, or are not numbers."""
    start = pos
    negative = load_byte(text, pos) == _MINUS
    if negative or load_byte(text, pos) == _PLUS:
        pos += 1
    mantissa = exponent = digits = 0
    dropped = point = False
    while True:
        c = load_byte(text, pos)
        if 48 <= c <= 57:
            digits += 1
            if mantissa < 10**17:
                mantissa = mantissa * 10 + (c - 48)
                exponent -= point
            else:
                dropped = True
                exponent += not point
        elif c == _DOT and not point:
            point = True
        else:
            break
        pos += 1
    if digits and c in (_LOWER_E, _UPPER_E):
        shift, pos = _parse_exponent(text, pos + 1)
        exponent += shift
    if not digits or not _ends_token(load_byte(text, pos)):
        pos = max(pos, start + 1)
        while not _ends_token(load_byte(text, pos)):
            pos += 1
        return 0.0, pos, False
    value, is_exact = _scale(mantissa, exponent, dropped)
    return (-value if negative else value), pos, is_exact


@_compiled
def _parse_exponent(text: NDArray[np.uint8], pos: int) -> tuple[int, int]:
    """Parse the exponent that starts at byte `pos`; return it (10**6 if malformed) and the byte after it."""
    negative = load_byte(text, pos) == _MINUS
    if negative or load_byte(text, pos) == _PLUS:
        pos += 1
    value = 0 if 48 <= load_byte(text, pos) <= 57 else 10**6
    while 48 <= load_byte(text, pos) <= 57:
        value = min(value * 10 + (load_byte(text, pos) - 48), 10**6)
        pos += 1
    return (-value if negative else value), pos


@_inlined
def _skip_separators(text: NDArray[np.uint8], pos: int) -> int:
    """Skip white space, commas and comments; return the first byte of the next token."""
    while True:
        c = load_byte(text, pos)
        if c == _HASH:
            while load_byte(text, pos) != _LINE_FEED:
                pos += 1
        elif (c > _SPACE or c == 0) and c != _COMMA:
            return pos
        pos += 1


@_compiled
def scan_numbers(
    text: NDArray[np.uint8], pos: int, count: int, out: NDArray[np.floating], fallbacks: NDArray[np.int64]
) -> tuple[int, int, int]:
    """Parse numbers from byte `pos` into `out[count:]` until `]` or `}`, the end of the file, or a full array.

    Returns:
        The byte where it stopped, the number of elements in `out`, the number of rows set in `fallbacks` [N, 3].
    """
    num_fallbacks = 0
    while num_fallbacks < len(fallbacks) and count < len(out):
        pos = _skip_separators(text, pos)
        if load_byte(text, pos) in (0, _CLOSE, _CLOSE_BRACE):
            break
        start = pos
        out[count], pos, is_exact = parse_number(text, pos)
        if not is_exact:
            fallbacks[num_fallbacks, 0], fallbacks[num_fallbacks, 1], fallbacks[num_fallbacks, 2] = start, 0, count
            num_fallbacks += 1
        count += 1
    return pos, count, num_fallbacks


@_inlined
def parse_integer(text: NDArray[np.uint8], pos: int) -> tuple[int, int]:
    """Parse the integer at byte `pos`; return it and the byte after it, or `pos` if there is none below 2**31."""
    negative = load_byte(text, pos) == _MINUS
    if not negative:
        value, count = _parse_digits(text, pos)
        if 0 < count < 8:
            return value, pos + count
    start = pos
    pos += negative
    first = pos
    value = 0
    while 48 <= load_byte(text, pos) <= 57:
        value = value * 10 + (load_byte(text, pos) - 48)
        pos += 1
        if value > 2**31 - 1:
            return 0, start
    return (-value if negative else value), (pos if pos > first else start)


@_compiled
def scan_integers(text: NDArray[np.uint8], pos: int, count: int, out: NDArray[np.int32]) -> tuple[int, int]:
    """Parse integers from byte `pos` into `out[count:]` until something else follows or `out` is full.

    Returns:
        The byte where it stopped, the number of elements in `out`.
    """
    while count < len(out):
        c = load_byte(text, pos)
        while c == _COMMA or 0 < c <= _SPACE:
            pos += 1
            c = load_byte(text, pos)
        if c == _HASH:
            pos = _skip_separators(text, pos)
            continue
        if c == _MINUS and load_byte(text, pos + 1) == _ONE and _ends_token(load_byte(text, pos + 2)):
            value, after = -1, pos + 2  # marks the end of a polygon
        else:
            value, after = parse_integer(text, pos)
            if after == pos:
                break
        out[count] = value
        count += 1
        pos = after
    return pos, count


@_inlined
def _skip_blanks(text: NDArray[np.uint8], pos: int) -> int:
    """Skip white space within a line, and line ends after a backslash."""
    while True:
        c = load_byte(text, pos)
        if c in (_SPACE, _TAB, _RETURN):
            pos += 1
        elif c == _BACKSLASH and load_byte(text, pos + 1) == _LINE_FEED:
            pos += 2
        elif c == _BACKSLASH and load_byte(text, pos + 1) == _RETURN and load_byte(text, pos + 2) == _LINE_FEED:
            pos += 3
        else:
            return pos


@_inlined
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
        pos = _skip_blanks(text, pos)
        if load_byte(text, pos) in (_LINE_FEED, _HASH):
            break
        start = pos
        out[count + num_read], pos, is_exact = parse_number(text, pos)
        if not is_exact:
            fallbacks[row, 0], fallbacks[row, 1], fallbacks[row, 2] = start, array, count + num_read
            row += 1
        num_read += 1
    return pos, num_read, row


@_inlined
def _resolve_index(value: int, count: int) -> int:
    """Convert an OBJ index (from 1, or negative from the last element) to one from 0; -1 if it is invalid."""
    return value - 1 if value > 0 else (count + value if value < 0 and count + value >= 0 else -1)


@_compiled
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
        pos = _skip_blanks(text, pos)
        if load_byte(text, pos) in (_LINE_FEED, _HASH):
            break
        if count + 1 >= corners.shape[1]:
            return pos, first, FULL
        point, after = parse_integer(text, pos)
        uv = NO_UV
        if after > pos and load_byte(text, after) == _SLASH:
            value, end = parse_integer(text, after + 1)
            if end > after + 1:
                uv = _resolve_index(value, num_uvs)
            if load_byte(text, end) == _SLASH:
                _, end = parse_integer(text, end + 1)
            after = end
        if after == pos or not (_ends_token(load_byte(text, after)) or load_byte(text, after) == _BACKSLASH):
            return pos, count, BAD_CORNER
        point = _resolve_index(point, num_points)
        if point < 0:
            return pos, count, BAD_INDEX
        corners[0, count], corners[1, count] = point, BAD_UV if uv == -1 else uv
        count += 1
        pos = after
    corners[0, count] = corners[1, count] = -1
    return pos, count + 1, DONE


@_compiled
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
        materials: int64 [M], bytes where a `mtllib` or `usemtl` line may start; further lines are ignored.

    Returns:
        `DONE`, `FULL`, or the problem at byte `state[0]`; the number of rows set in `fallbacks`.
    """
    pos, num_points, num_uvs, num_colors, num_corners, num_materials = state
    num_fallbacks, status = 0, DONE
    while pos < len(text) - PADDING:
        start = pos = _skip_blanks(text, pos)
        c, blank = load_byte(text, pos), load_byte(text, pos + 1) in (_SPACE, _TAB)
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
        elif c in (_M, _U) and num_materials < len(materials):
            materials[num_materials] = pos
            num_materials += 1
        if status != DONE:
            pos = start
            break
        while load_byte(text, pos) != _LINE_FEED:
            pos += 1
        pos += 1
    state[:] = pos, num_points, num_uvs, num_colors, num_corners, num_materials
    return status, num_fallbacks
