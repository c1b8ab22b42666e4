"""Pooled memory is reused, but never while an array or a view of it is alive."""

import threading

import numpy as np
import pytest

from smile_pipe.pipeline.meshes.buffers import MAX_POOL_BYTES, reusable_array

_COUNT = 100_000


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_free_memory_is_reused() -> None:
    first = reusable_array(_COUNT, np.float32)
    address = _address(first)
    del first
    again = reusable_array(_COUNT - 1000, np.int32)
    assert _address(again) == address
    assert again.dtype == np.int32 and again.shape == (_COUNT - 1000,)


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array,
        lambda array: array[5:10],
        lambda array: array.reshape(2, -1)[1],
        lambda array: array[10:].view(np.uint8).data,
        lambda array: np.frombuffer(array.view(np.uint8), np.uint8)[3:],
        lambda array: np.asarray(memoryview(array)[7:]),
    ],
)
def test_memory_of_a_live_view_is_not_reused(view) -> None:
    array = reusable_array(_COUNT, np.float32)
    array[:] = 7.0
    kept = view(array)
    before = bytes(kept)
    del array
    for _ in range(3):
        reusable_array(_COUNT, np.float32)[:] = 1.0
    assert bytes(kept) == before


def test_threads_do_not_share_memory() -> None:
    reusable_array(_COUNT, np.float32)
    addresses: list[int] = []
    threads = [
        threading.Thread(target=lambda: addresses.append(_address(reusable_array(_COUNT, np.float32)))) for _ in "ab"
    ]
    own = reusable_array(_COUNT, np.float32)
    for thread in threads:
        thread.start()
        thread.join()
    assert _address(own) not in addresses


def test_small_and_huge_arrays_are_not_pooled() -> None:
    assert reusable_array(10, np.int64).shape == (10,)
    assert reusable_array(MAX_POOL_BYTES, np.uint8).base is None
