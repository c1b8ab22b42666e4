"""Packed arrays round trip exactly and without a copy, from bytes and from Arrow's memory."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smile_pipe.pipeline.render.arrow import pack_arrays, unpack_arrays

DTYPES = [np.dtype(name) for name in ("<f4", "<f8", "<i4", "u1", "<u2", "?", ">i2")]
arrays = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), arrays, max_size=5))
def test_arrays_round_trip_with_names_dtypes_and_shapes(named):
    unpacked = unpack_arrays(pack_arrays(named))
    assert list(unpacked) == list(named)
    for name, array in named.items():
        assert (unpacked[name].dtype, unpacked[name].shape) == (array.dtype, array.shape)
        assert unpacked[name].tobytes() == array.tobytes()


def test_non_contiguous_arrays_are_packed_in_index_order():
    array = np.arange(24).reshape(4, 6)[::-1, ::2].T
    assert (unpack_arrays(pack_arrays({"a": array}))["a"] == array).all()


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), arrays, min_size=1, max_size=5))
def test_arrays_are_aligned_to_eight_bytes(named):
    block = np.frombuffer(pack_arrays(named), np.uint8)
    starts = [a.__array_interface__["data"][0] for a in unpack_arrays(block.data).values() if a.size]
    assert all((start - block.ctypes.data) % 8 == 0 for start in starts)


def test_unpacked_arrays_are_read_only_views_of_the_block():
    block = pa.py_buffer(pack_arrays({"a": np.arange(1000), "b": np.ones(3, np.uint8)}))
    for array in unpack_arrays(block).values():
        assert block.address < array.ctypes.data < block.address + block.size
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_equal_arrays_give_equal_bytes():
    assert pack_arrays({"a": np.arange(5)}) == pack_arrays({"a": np.arange(10)[:5]})
