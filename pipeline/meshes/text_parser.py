"""The compiled text parser of the OBJ, VRML and ASCII PLY readers: exact numbers in one pass over the bytes.

Every number equals `float32(float(token))`. A token whose value is not certain here is listed in `fallbacks` as (first
byte, array, element); `resolve_fallbacks` parses it with Python's `float`.

`text` is always a `Source.text`. Its padding makes bounds checks unnecessary: after the file's own bytes come a byte
that ends every token, line and continued line, and more bytes than any load reads.

Numba's cache compares the time stamp of a function's own file but not those of the functions it calls. After a change
in this file, delete the `__pycache__` of this folder: it has the parser of OBJ files with the earlier functions.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.intrinsics import count_trailing_zeros, load_byte, load_word

TAB, LINE_FEED, RETURN, SPACE, HASH, _PLUS, _COMMA, MINUS, DOT, SLASH, _DIGIT_ONE = b"\t\n\r #+,-./1"
BACKSLASH, _CLOSE, _CLOSE_BRACE, _UPPER_E, _LOWER_E = b"\\]}Ee"

POWERS = np.array([float(f"1e{k}") for k in range(61)])  # correctly rounded; exact up to 1e22
INTEGER_POWERS = 10 ** np.arange(16)
_MARGIN = 2.0**-49

# For `parse_digits`. A plain int would turn unsigned arithmetic into floating point.
_3, _8, _10, _16, _32, _63, _64 = (np.uint64(n) for n in (3, 8, 10, 16, 32, 63, 64))
_ZEROS, _SIXES, _HIGH_NIBBLES = (np.uint64(int.from_bytes(bytes([b] * 8))) for b in (0x30, 0x06, 0xF0))
_PAIRS = np.uint64(0xFF | 0xFF << 32)
_WEIGHTS_LOW, _WEIGHTS_HIGH = np.uint64(100 | 1_000_000 << 32), np.uint64(1 | 10_000 << 32)

signed = cast("Callable[[np.uint64], int]", np.int64)  # int64 is the int of compiled code
compiled = njit(cache=True, nogil=True)
inlined = njit(cache=True, nogil=True, inline="always")  # twice as fast as inlining by LLVM


@inlined
def ends_token(c: int) -> bool:
    """Whether no token contains the byte `c`."""
    return c <= SPACE or c in (_COMMA, _CLOSE, _CLOSE_BRACE, HASH)


@compiled
def _scale(mantissa: int, exponent: int, dropped: bool) -> tuple[float, bool]:
    """Return mantissa * 10**exponent, and whether it is certain after rounding to float32.

    With a mantissa below 2**53 and an exact power of ten, one multiplication or division is correctly rounded (Clinger,
    "How to read floating point numbers accurately", 1990). Otherwise the result is off by less than four roundings of
    2**-53 and a cut of 10**-17. It is certain if both ends of a wider interval round to the same float32, since
    rounding is monotonic.
    """
    if exponent < -60 or exponent > 60:
        return 0.0, False
    value = float(mantissa) / POWERS[-exponent] if exponent < 0 else float(mantissa) * POWERS[exponent]
    if not dropped and mantissa <= 1 << 53 and -22 <= exponent <= 22:
        return value, True
    low, high = np.float32(value * (1.0 - _MARGIN)), np.float32(value * (1.0 + _MARGIN))
    return value, low == high


@inlined
def parse_digits(text: NDArray[np.uint8], pos: int, count: int) -> int:
    """Return the value of the `count` digits at byte `pos`, 1 to 8; for other counts the value is undefined.

    Multiplications sum the digits in pairs, then fours, then all (Lemire, "Quickly parsing eight digits", 2018).
    """
    word = (load_word(text, pos) ^ _ZEROS) << ((_64 - (np.uint64(count) << _3)) & _63)
    word = word * _10 + (word >> _8)
    pairs = (word & _PAIRS) * _WEIGHTS_LOW + ((word >> _16) & _PAIRS) * _WEIGHTS_HIGH
    return signed(pairs >> _32)


@inlined
def _find_digits(text: NDArray[np.uint8], pos: int) -> tuple[int, int]:
    """Parse at most eight digits at byte `pos`; return their value and count. The value is undefined for count 0.

    All eight bytes are tested in one word, since a loop would mispredict its end at most numbers.
    """
    word = load_word(text, pos)
    count = count_trailing_zeros((word & _HIGH_NIBBLES) ^ _ZEROS) >> _3
    digits = (word ^ _ZEROS) << ((_64 - (count << _3)) & _63)
    if (digits + _SIXES) & _HIGH_NIBBLES:  # one of `:;<=>?`, which share the high half with the digits
        return 0, 0
    return parse_digits(text, pos, signed(count)), signed(count)


@inlined
def parse_number(text: NDArray[np.uint8], pos: int) -> tuple[float, int, bool]:
    """Parse the number that starts at byte `pos`.

    Returns:
        The value, correct after rounding to float32 (integers below 2**53 are exact); the byte after the token, always
        greater than `pos`; whether the value is certain.
    """
    start = pos
    negative = load_byte(text, pos) == MINUS
    pos += negative
    first = pos
    mantissa = decimals = 0
    while 48 <= load_byte(text, pos) <= 57 and pos < first + 7:
        mantissa = mantissa * 10 + (load_byte(text, pos) - 48)
        pos += 1
    if load_byte(text, pos) == DOT:
        fraction, decimals = _find_digits(text, pos + 1)
        mantissa = mantissa * INTEGER_POWERS[decimals] + fraction
        pos = pos + 1 + decimals if decimals else start
    if pos == first or not ends_token(load_byte(text, pos)):
        return _parse_long_number(text, start)
    value = mantissa / POWERS[decimals]  # at most 15 digits by an exact power: correctly rounded
    return (-value if negative else value), pos, True


@compiled
def _parse_long_number(text: NDArray[np.uint8], pos: int) -> tuple[float, int, bool]:
    """Parse as `parse_number` does, for tokens that are long, have an exponent, or are not numbers."""
    start = pos
    negative = load_byte(text, pos) == MINUS
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
        elif c == DOT and not point:
            point = True
        else:
            break
        pos += 1
    if digits and c in (_LOWER_E, _UPPER_E):
        shift, pos = _parse_exponent(text, pos + 1)
        exponent += shift
    if not digits or not ends_token(load_byte(text, pos)):
        pos = max(pos, start + 1)
        while not ends_token(load_byte(text, pos)):
            pos += 1
        return 0.0, pos, False
    value, is_exact = _scale(mantissa, exponent, dropped)
    return (-value if negative else value), pos, is_exact


@compiled
def _parse_exponent(text: NDArray[np.uint8], pos: int) -> tuple[int, int]:
    """Parse the exponent that starts at byte `pos`; return it (10**6 if malformed) and the byte after it."""
    negative = load_byte(text, pos) == MINUS
    if negative or load_byte(text, pos) == _PLUS:
        pos += 1
    value = 0 if 48 <= load_byte(text, pos) <= 57 else 10**6
    while 48 <= load_byte(text, pos) <= 57:
        value = min(value * 10 + (load_byte(text, pos) - 48), 10**6)
        pos += 1
    return (-value if negative else value), pos


@inlined
def _skip_separators(text: NDArray[np.uint8], pos: int) -> int:
    """Skip white space, commas and comments; return the first byte of the next token."""
    while True:
        c = load_byte(text, pos)
        if c == HASH:
            while load_byte(text, pos) != LINE_FEED:
                pos += 1
        elif (c > SPACE or c == 0) and c != _COMMA:
            return pos
        pos += 1


@compiled
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


@inlined
def parse_integer(text: NDArray[np.uint8], pos: int) -> tuple[int, int]:
    """Parse the integer at byte `pos`; return it and the byte after it, or `pos` if there is none below 2**31."""
    negative = load_byte(text, pos) == MINUS
    if not negative:
        value, count = _find_digits(text, pos)
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


@compiled
def scan_integers(text: NDArray[np.uint8], pos: int, count: int, out: NDArray[np.int32]) -> tuple[int, int]:
    """Parse integers from byte `pos` into `out[count:]` until something else follows or `out` is full.

    Returns:
        The byte where it stopped, the number of elements in `out`.
    """
    while count < len(out):
        c = load_byte(text, pos)
        while c == _COMMA or 0 < c <= SPACE:
            pos += 1
            c = load_byte(text, pos)
        if c == HASH:
            pos = _skip_separators(text, pos)
            continue
        if c == MINUS and load_byte(text, pos + 1) == _DIGIT_ONE and ends_token(load_byte(text, pos + 2)):
            value, after = -1, pos + 2  # marks the end of a polygon
        else:
            value, after = parse_integer(text, pos)
            if after == pos:
                break
        out[count] = value
        count += 1
        pos = after
    return pos, count


@inlined
def skip_blanks(text: NDArray[np.uint8], pos: int) -> int:
    """Skip white space within a line, and line ends after a backslash."""
    while True:
        c = load_byte(text, pos)
        if c in (SPACE, TAB, RETURN):
            pos += 1
        elif c == BACKSLASH and load_byte(text, pos + 1) == LINE_FEED:
            pos += 2
        elif c == BACKSLASH and load_byte(text, pos + 1) == RETURN and load_byte(text, pos + 2) == LINE_FEED:
            pos += 3
        else:
            return pos
