"""Batches on their way to the device."""

from collections.abc import Iterator

import pytest
import torch

from helpers.samples import make_sample
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.transfer import to_device
from smile_pipe.pipeline.data.dataset import Batch, DecodeSpec, collate, decode_face
from smile_pipe.pipeline.data.prefetch import one_ahead, prefetch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make_batches(num: int) -> Iterator[Batch]:
    for n in range(num):
        views = torch.full((2, 3, 3, 64, 64), n, dtype=torch.uint8)
        yield Batch(views, PackedFrames.of_scans(2), ["a", "b"], ["a", "b"], [f"{n}a", f"{n}b"], ["x", "y"])


def test_one_item_is_taken_ahead():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for n in range(4):
            taken.append(n)
            yield n

    seen = [(item, len(taken)) for item in one_ahead(items())]
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]


@pytest.mark.parametrize("num", [0, 1, 2])
def test_few_items_are_all_yielded(num):
    assert list(one_ahead(range(num))) == list(range(num))


def test_error_of_the_source_comes_after_the_items_before_it():
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise OSError

    seen = []
    with pytest.raises(OSError):
        for item in one_ahead(items()):
            seen.append(item)
    assert seen == [0]


def test_cpu_gets_each_batch_unchanged_and_not_earlier_than_needed():
    batches = list(make_batches(3))
    source = iter(batches)
    found = prefetch(source, torch.device("cpu"))
    assert next(found) is batches[0]
    assert next(source) is batches[1]


def test_copy_to_the_cpu_is_the_tensor():
    tensor = torch.ones(3)
    assert to_device(tensor, "cpu") is tensor


def test_pinned_memory_is_requested_and_holds_the_same_views(monkeypatch):
    requested, empty = [], torch.empty

    def without_gpu(*shape, pin_memory=False, **options):
        requested.append(pin_memory)
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", without_gpu)
    faces = [decode_face(make_sample("F0001_HA04WH", "F0001", "HA"), DecodeSpec(("rgb",), 8))] * 2
    pinned, plain = collate(faces, pin_memory=True), collate(faces)
    assert requested == [True, False] and torch.equal(pinned.views, plain.views)


@needs_gpu
def test_gpu_gets_the_views_of_pinned_and_of_other_batches():
    batches = [batch.views for batch in make_batches(5)]
    found = list(prefetch(make_batches(5), torch.device("cuda")))
    assert all(torch.equal(batch.views.cpu(), views) for batch, views in zip(found, batches, strict=True))
    assert all(batch.frames.counts.device.type == "cpu" for batch in found)
