"""Numbers out of text, exactly and in one pass: the compiled core of the OBJ, VRML and ASCII PLY readers.

Every number comes out as `float32(float(token))` would give it. A token that cannot be proved right here is noted
as `(where it starts, which array, which element)`, for Python's own `float` to decide.

`text` is always a `Source.text`. Its padding is why loads need no bounds check: what lies before the padding is
followed by a byte that ends every token, line and continued line, and by eight bytes more.

All compiled functions of the text formats are in this file on purpose: Numba's cache looks at the time of the file
that a function is in, not at those of the functions it calls, and would go on using an outdated `number`.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.intrinsics import byte_at, trailing_zeros, word_at
from smile_pipe.pipeline.meshes.source import PADDING

DONE, FULL, SHORT, CORNER, FEW, INDEX = range(6)
"""How a scan ended: at its end, for want of room, or at a line that is wrong."""

NO_UV = -2
"""The texture coordinate index of an OBJ corner that has none."""

_TAB, _LINE_FEED, _RETURN, _SPACE, _HASH, _PLUS, _COMMA, _MINUS, _DOT, _SLASH, _ONE = b"\t\n\r #+,-./1"
_BACKSLASH, _CLOSE, _CLOSE_BRACE, _UPPER_E, _LOWER_E = b"\\]}Ee"
_F, _M, _T, _U, _V = b"fmtuv"

_POWERS = np.array([float(f"1e{k}") for k in range(61)])  # correctly rounded; exact up to 1e22
_INTEGER_POWERS = 10 ** np.arange(9)
_MARGIN = 2.0**-49

# For `_digits`. A mere int would turn unsigned arithmetic into floating point.
_3, _8, _10, _16, _32, _63, _64 = (np.uint64(n) for n in (3, 8, 10, 16, 32, 63, 64))
_ZEROS, _SIXES, _HIGH_NIBBLES = (np.uint64(int.from_bytes(bytes([b] * 8))) for b in (0x30, 0x06, 0xF0))
_PAIRS = np.uint64(0xFF | 0xFF << 32)
_WEIGHTS_LOW, _WEIGHTS_HIGH = np.uint64(100 | 1_000_000 << 32), np.uint64(1 | 10_000 << 32)

_compiled = njit(cache=True, nogil=True)
_inlined = njit(cache=True, nogil=True, inline="always")  # twice as fast as leaving it to LLVM


@_inlined
def _ends_token(c: int) -> bool:
    return c <= _SPACE or c in (_COMMA, _CLOSE, _CLOSE_BRACE, _HASH)


@_compiled
def _rounded(mantissa: int, exponent: int, dropped: bool) -> tuple[float, bool]:
    """Value of mantissa * 10**exponent to float32, and whether it is certain.

    With a mantissa below 2**53 and a power of ten that is exact, one multiplication or division is correctly
    rounded (Clinger, "How to read floating point numbers accurately", 1990). Otherwise the result is off by less
    than four roundings of 2**-53 and a cut of 10**-17, so it is certain if both ends of a wider interval round to
    the same float32: rounding is monotonic.
    """
    if exponent < -60 or exponent > 60:
        return 0.0, False
    value = float(mantissa) / _POWERS[-exponent] if exponent < 0 else float(mantissa) * _POWERS[exponent]
    if not dropped and mantissa <= 1 << 53 and -22 <= exponent <= 22:
        return value, True
    low, high = np.float32(value * (1.0 - _MARGIN)), np.float32(value * (1.0 + _MARGIN))
    return float(low), low == high


@_inlined
def _digits(text: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The digits at byte `at`, at most eight: their value and their count; the value means nothing if that is 0.

    All eight bytes are looked at in one word, since a loop over them would mispredict its end at most numbers.
    Multiplying sums the digits up in pairs, then fours, then all (Lemire, "Quickly parsing eight digits", 2018).
    """
    word = word_at(text, at)
    count = trailing_zeros((word & _HIGH_NIBBLES) ^ _ZEROS) >> _3
    word = (word ^ _ZEROS) << ((_64 - (count << _3)) & _63)
    if (word + _SIXES) & _HIGH_NIBBLES:  # one of `:;<=>?`, which share the high half with the digits
        return 0, 0
    word = word * _10 + (word >> _8)
    pairs = (word & _PAIRS) * _WEIGHTS_LOW + ((word >> _16) & _PAIRS) * _WEIGHTS_HIGH
    return np.int64(pairs >> _32), np.int64(count)  # type: ignore[return-value]


@_inlined
def number(text: NDArray[np.uint8], at: int) -> tuple[float, int, bool]:
    """Read the number that starts at byte `at`.

    Returns:
        its value, right once rounded to float32 (integers below 2**53 are right as they are); the byte after the
        token, always beyond `at`; whether the value is certain.
    """
    start = at
    negative = byte_at(text, at) == _MINUS
    at += negative
    first = at
    mantissa = decimals = 0
    while 48 <= byte_at(text, at) <= 57 and at < first + 7:
        mantissa = mantissa * 10 + (byte_at(text, at) - 48)
        at += 1
    if byte_at(text, at) == _DOT:
        fraction, decimals = _digits(text, at + 1)
        mantissa = mantissa * _INTEGER_POWERS[decimals] + fraction
        at = at + 1 + decimals if decimals else start
    if at == first or not _ends_token(byte_at(text, at)):
        return _careful_number(text, start)
    value = mantissa / _POWERS[decimals]  # at most 15 digits by an exact power: correctly rounded
    return (-value if negative else value), at, True


@_compiled
def _careful_number(text: NDArray[np.uint8], at: int) -> tuple[float, int, bool]:
    """`number` for the less usual ones: long, with an exponent, or no number at all."""
    start = at
    negative = byte_at(text, at) == _MINUS
    if negative or byte_at(text, at) == _PLUS:
        at += 1
    mantissa = exponent = digits = 0
    dropped = point = False
    while True:
        c = byte_at(text, at)
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
        at += 1
    if digits and c in (_LOWER_E, _UPPER_E):
        shift, at = _exponent(text, at + 1)
        exponent += shift
    if not digits or not _ends_token(byte_at(text, at)):
        at = max(at, start + 1)
        while not _ends_token(byte_at(text, at)):
            at += 1
        return 0.0, at, False
    value, certain = _rounded(mantissa, exponent, dropped)
    return (-value if negative else value), at, certain


@_compiled
def _exponent(text: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The exponent whose sign or first digit is at byte `at`, and the byte after it; 10**6 where it is none."""
    negative = byte_at(text, at) == _MINUS
    if negative or byte_at(text, at) == _PLUS:
        at += 1
    value = 0 if 48 <= byte_at(text, at) <= 57 else 10**6
    while 48 <= byte_at(text, at) <= 57:
        value = min(value * 10 + (byte_at(text, at) - 48), 10**6)
        at += 1
    return (-value if negative else value), at


@_inlined
def _separators(text: NDArray[np.uint8], at: int) -> int:
    """Skip white space, commas and comments; the byte of the next token."""
    while True:
        c = byte_at(text, at)
        if c == _HASH:
            while byte_at(text, at) != _LINE_FEED:
                at += 1
        elif (c > _SPACE or c == 0) and c != _COMMA:
            return at
        at += 1


@_compiled
def scan_numbers(
    text: NDArray[np.uint8],
    at: int,
    count: int,
    out: NDArray[np.floating],
    notes: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Read numbers from byte `at` into `out[count:]` until a bracket or brace closes, the file ends or room is short.

    Returns:
        the byte where it stopped, the count of numbers in `out` now, the count of `notes` [N, 3] written.
    """
    noted = 0
    while noted < len(notes) and count < len(out):
        at = _separators(text, at)
        if byte_at(text, at) in (0, _CLOSE, _CLOSE_BRACE):
            break
        start = at
        out[count], at, certain = number(text, at)
        if not certain:
            notes[noted, 0], notes[noted, 1], notes[noted, 2] = start, 0, count
            noted += 1
        count += 1
    return at, count, noted


@_inlined
def integer(text: NDArray[np.uint8], at: int) -> tuple[int, int]:
    """The integer at byte `at` and the byte after its last digit; the same byte where there is none up to 2**31."""
    negative = byte_at(text, at) == _MINUS
    if not negative:
        value, count = _digits(text, at)
        if 0 < count < 8:
            return value, at + count
    start = at
    at += negative
    first = at
    value = 0
    while 48 <= byte_at(text, at) <= 57:
        value = value * 10 + (byte_at(text, at) - 48)
        at += 1
        if value > 2**31 - 1:
            return 0, start
    return (-value if negative else value), (at if at > first else start)


@_compiled
def scan_integers(text: NDArray[np.uint8], at: int, count: int, out: NDArray[np.int32]) -> tuple[int, int]:
    """Read integers from byte `at` into `out[count:]` until something else comes or it is full.

    Returns:
        the byte where it stopped, the count of integers in `out` now.
    """
    while count < len(out):
        c = byte_at(text, at)
        while c == _COMMA or 0 < c <= _SPACE:
            at += 1
            c = byte_at(text, at)
        if c == _HASH:
            at = _separators(text, at)
            continue
        if c == _MINUS and byte_at(text, at + 1) == _ONE and _ends_token(byte_at(text, at + 2)):
            value, after = -1, at + 2  # the end of a polygon
        else:
            value, after = integer(text, at)
            if after == at:
                break
        out[count] = value
        count += 1
        at = after
    return at, count


@_inlined
def _blanks(text: NDArray[np.uint8], at: int) -> int:
    """Skip the white space inside a line, and line ends that a backslash continues."""
    while True:
        c = byte_at(text, at)
        if c in (_SPACE, _TAB, _RETURN):
            at += 1
        elif c == _BACKSLASH and byte_at(text, at + 1) == _LINE_FEED:
            at += 2
        elif c == _BACKSLASH and byte_at(text, at + 1) == _RETURN and byte_at(text, at + 2) == _LINE_FEED:
            at += 3
        else:
            return at


@_inlined
def _line_numbers(
    text: NDArray[np.uint8],
    at: int,
    limit: int,
    array: int,
    out: NDArray[np.float32],
    count: int,
    notes: NDArray[np.int64],
    noted: int,
) -> tuple[int, int, int]:
    """Read up to `limit` numbers of a line into `out[count:]`, which is `array` in the notes.

    Returns:
        the byte after them, how many there were, the count of notes.
    """
    found = 0
    while found < limit:
        at = _blanks(text, at)
        if byte_at(text, at) in (_LINE_FEED, _HASH):
            break
        start = at
        out[count + found], at, certain = number(text, at)
        if not certain:
            notes[noted, 0], notes[noted, 1], notes[noted, 2] = start, array, count + found
            noted += 1
        found += 1
    return at, found, noted


@_inlined
def _resolve(value: int, count: int) -> int:
    """An OBJ index, from 1 or backwards from the last element, as an index from 0; -1 where there is none."""
    return value - 1 if value > 0 else (count + value if value < 0 and count + value >= 0 else -1)


@_compiled
def _polygon(
    text: NDArray[np.uint8],
    at: int,
    num_points: int,
    num_uvs: int,
    corners: NDArray[np.int32],
    count: int,
) -> tuple[int, int, int]:
    """Append the corners of an OBJ face line to `corners` [2, N]: point and uv (or NO_UV), then -1 for its end.

    Returns:
        the byte after the line's last corner, the count of columns in `corners` now, `DONE` or what is wrong there.
    """
    first = count
    while True:
        at = _blanks(text, at)
        if byte_at(text, at) in (_LINE_FEED, _HASH):
            break
        if count + 1 >= corners.shape[1]:
            return at, first, FULL
        point, after = integer(text, at)
        uv = NO_UV
        if after > at and byte_at(text, after) == _SLASH:
            value, end = integer(text, after + 1)
            if end > after + 1:
                uv = _resolve(value, num_uvs)
            if byte_at(text, end) == _SLASH:
                _, end = integer(text, end + 1)
            after = end
        if after == at or not (_ends_token(byte_at(text, after)) or byte_at(text, after) == _BACKSLASH):
            return at, count, CORNER
        point = _resolve(point, num_points)
        if point < 0 or uv == -1:
            return at, count, INDEX
        corners[0, count], corners[1, count] = point, uv
        count += 1
        at = after
    corners[0, count] = corners[1, count] = -1
    return at, count + 1, DONE if count - first >= 3 else FEW


@_compiled
def scan_obj(
    text: NDArray[np.uint8],
    state: NDArray[np.int64],
    points: NDArray[np.float32],
    uvs: NDArray[np.float32],
    colors: NDArray[np.float32],
    corners: NDArray[np.int32],
    notes: NDArray[np.int64],
    materials: NDArray[np.int64],
) -> tuple[int, int]:
    """Read OBJ lines from byte `state[0]` on.

    Args:
        text: see above.
        state: int64 [6], updated: next byte, then how much is in points, uvs, colors (numbers), corners (columns)
            and materials (bytes where a `mtllib` or `usemtl` line may start; what does not fit is left out).
        points: array 0 of the notes, flat x y z.
        uvs: array 1, flat u v.
        colors: array 2, flat r g b, as long as `points`; b is NaN where a line has only one or two of them.
        corners: [2, N] as `_polygon` writes them.
        notes: int64 [N, 3], the undecided tokens.
        materials: int64 [M].

    Returns:
        `DONE`, `FULL` if an array or the notes ran out of room, or what is wrong at byte `state[0]`; the count of
        notes.
    """
    at, num_points, num_uvs, num_colors, num_corners, num_materials = state
    noted, status = 0, DONE
    while at < len(text) - PADDING:
        start = at = _blanks(text, at)
        c, blank = byte_at(text, at), byte_at(text, at + 1) in (_SPACE, _TAB)
        if c == _V and min(len(notes) - noted, len(points) - num_points, len(uvs) - num_uvs) < 6:
            status = FULL
        elif c == _V and blank:
            at, found, noted = _line_numbers(text, at + 2, 3, 0, points, num_points, notes, noted)
            status = DONE if found == 3 else SHORT
            num_points += 3
            at, found, noted = _line_numbers(text, at, 3, 2, colors, num_colors, notes, noted)
            if 0 < found < 3:
                colors[num_colors + 2] = np.nan
            num_colors += 3 if found else 0
        elif c == _V and byte_at(text, at + 1) == _T:
            uvs[num_uvs + 1] = 0.0
            at, found, noted = _line_numbers(text, at + 2, 2, 1, uvs, num_uvs, notes, noted)
            status = DONE if found >= 1 else SHORT
            num_uvs += 2
        elif c == _F and blank:
            at, num_corners, status = _polygon(text, at + 2, num_points // 3, num_uvs // 2, corners, num_corners)
            start = at if status in (CORNER, INDEX) else start
        elif c in (_M, _U) and num_materials < len(materials):
            materials[num_materials] = at
            num_materials += 1
        if status != DONE:
            at = start
            break
        while byte_at(text, at) != _LINE_FEED:
            at += 1
        at += 1
    state[:] = at, num_points, num_uvs, num_colors, num_corners, num_materials
    return status, noted
