"""Calls of the renderer that fail are halved, down to the meshes that cannot be drawn."""

import gc
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from helpers.shapes import sphere
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.render import process
from smile_pipe.pipeline.render.process import draw
from smile_pipe.pipeline.rendering.backend import DeviceError, OutOfDeviceMemoryError, QuantisedViews
from smile_pipe.pipeline.rendering.cameras import Rig, build_views

RIG = Rig.build(build_views("3", 30.0), 16)
MESHES = [sphere(1, 0.1 * (1 + number)) for number in range(8)]
CHANNELS = ("depth",)
PAIRS = [(mesh, RIG) for mesh in MESHES]


class FakeRenderer:
    """Returns the number of each mesh as its depth, and calls `fail` with the numbers before that."""

    name = version = "fake"

    def __init__(self, fail: Callable[[list[int]], None]) -> None:
        self.fail = fail
        self.calls: list[list[int]] = []

    def render_quantised(
        self, meshes: Sequence[Mesh], rigs: Sequence[Rig], channels: Sequence[str], samples_per_pixel: int
    ) -> list[QuantisedViews]:
        assert len(meshes) == len(rigs) and (channels, samples_per_pixel) == (CHANNELS, 4)
        called = [next(n for n, known in enumerate(MESHES) if known is mesh) for mesh in meshes]
        self.calls.append(called)
        self.fail(called)
        return [QuantisedViews({"depth": np.array(number)}, True) for number in called]


def numbers(drawn: Sequence[QuantisedViews | Exception]) -> list[int | None]:
    return [None if isinstance(images, Exception) else int(images.pixels["depth"]) for images in drawn]


def test_one_call_draws_all():
    renderer = FakeRenderer(lambda called: None)
    assert numbers(draw(renderer, PAIRS, CHANNELS, 4)) == list(range(8)) and renderer.calls == [list(range(8))]
    assert draw(renderer, [], CHANNELS, 4) == [] and len(renderer.calls) == 1


def test_a_mesh_that_cannot_be_drawn_is_found_and_the_others_are_drawn():
    def fail(called: list[int]) -> None:
        if 5 in called:
            raise MeshError("bad")

    renderer = FakeRenderer(fail)
    drawn = draw(renderer, PAIRS, CHANNELS, 4)
    assert numbers(drawn) == [0, 1, 2, 3, 4, None, 6, 7] and isinstance(drawn[5], MeshError)
    assert renderer.calls == [list(range(8)), [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]


def test_the_memory_of_a_failed_call_is_free_before_the_next(monkeypatch):
    tensors: list[weakref.ref] = []
    freed: list[list[bool]] = []
    monkeypatch.setattr(process, "free_device_memory", lambda: freed.append([ref() is None for ref in tensors]))

    def fail(called: list[int]) -> None:
        tensor = np.empty(1)
        tensors.append(weakref.ref(tensor))
        if len(called) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    gc.disable()
    try:
        assert numbers(draw(FakeRenderer(fail), PAIRS, CHANNELS, 4)) == list(range(8))
    finally:
        gc.enable()
    assert len(freed) == 3 and all(all(one) for one in freed)


def test_a_mesh_too_large_for_the_device_has_a_reason():
    def fail(called: list[int]) -> None:
        if 0 in called:
            raise RuntimeError("CUDA error: out of memory")

    drawn = draw(FakeRenderer(fail), PAIRS, CHANNELS, 4)
    assert numbers(drawn) == [None, 1, 2, 3, 4, 5, 6, 7] and isinstance(drawn[0], OutOfDeviceMemoryError)


def test_a_failure_of_the_device_is_no_failure_of_a_mesh():
    def fail(called: list[int]) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nadvice")

    renderer = FakeRenderer(fail)
    with pytest.raises(DeviceError, match=r"^the GPU failed: CUDA error: an illegal memory access was encountered$"):
        draw(renderer, PAIRS, CHANNELS, 4)
    assert len(renderer.calls) == 1
