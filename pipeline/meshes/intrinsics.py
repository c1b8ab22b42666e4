"""Unchecked loads and bit counts for the compiled text parser, as LLVM instructions that Numba does not expose.

None of these functions checks bounds. Use them on `Source.text` only: its padding makes every load of the parser safe.

Numba builds each function from a generator whose parameters are types. Compiled code calls the result with values, so
the public names are declared with the types of those values.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray


def _load_byte(_context: Any, text: Any, _pos: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.zext(builder.load(builder.gep(data, [arguments[1]])), ir.IntType(64))

    return types.int64(text, types.int64), generate


def _load_word(_context: Any, text: Any, _pos: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.gep(data, [arguments[1]])
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(text, types.int64), generate


def _find_non_digits(_context: Any, text: Any, _pos: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        vector = ir.VectorType(ir.IntType(8), 64)
        address = builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer())
        above_zero = builder.sub(builder.load(address, align=1), ir.Constant(vector, [ord("0")] * 64))
        return builder.bitcast(builder.icmp_unsigned(">", above_zero, ir.Constant(vector, [9] * 64)), ir.IntType(64))

    return types.uint64(text, types.int64), generate


def _count_trailing_zeros(_context: Any, _value: Any) -> Any:
    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate


load_byte = cast("Callable[[NDArray[np.uint8], int], int]", intrinsic(_load_byte))
"""Byte `pos` of a uint8 array as int64. Numba's handling of negative indices would double the time."""

load_word = cast("Callable[[NDArray[np.uint8], int], np.uint64]", intrinsic(_load_word))
"""The eight bytes of a uint8 array from byte `pos` on as uint64, lowest byte first (on a little-endian machine)."""

find_non_digits = cast("Callable[[NDArray[np.uint8], int], np.uint64]", intrinsic(_find_non_digits))
"""A bit for each of the 64 bytes of a uint8 array from byte `pos` on, lowest first: 1 if it is not one of 0-9."""

count_trailing_zeros = cast("Callable[[np.uint64], np.uint64]", intrinsic(_count_trailing_zeros))
"""The number of zero bits below the lowest one bit of a uint64; 64 for zero."""
