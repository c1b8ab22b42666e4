"""Loads and bit counts that Numba has no words for: the machine instructions beneath the text scanner.

None of them checks bounds. They are for a `Source.text`, whose padding says when that is safe.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic


@intrinsic
def byte_at(_context: Any, text: Any, _at: Any) -> Any:
    """Byte `at` of `text` as int64, without Numba's care for negative indices, which would double the time."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.zext(builder.load(builder.gep(data, [arguments[1]])), ir.IntType(64))

    return types.int64(text, types.int64), generate


@intrinsic
def word_at(_context: Any, text: Any, _at: Any) -> Any:
    """The eight bytes of `text` from byte `at` on as uint64, the first one lowest (on a little-endian machine)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.gep(data, [arguments[1]])
        return builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()), align=1)

    return types.uint64(text, types.int64), generate


@intrinsic
def trailing_zeros(_context: Any, _value: Any) -> Any:
    """Count the zero bits below the lowest one bit of a uint64; 64 if there is none."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), generate
