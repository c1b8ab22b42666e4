"""Copies of batches to a GPU, which run while it computes with the batches before them."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import torch

from smile_pipe.model.transfer import to_device
from smile_pipe.pipeline.data.dataset import Batch

T = TypeVar("T")


def prefetch(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches whose views are on the device; a CPU gets the batches as they are.

    The views of the next batch are copied on a stream of their own. All other fields stay on the CPU.
    """
    if device.type != "cuda":
        yield from batches
        return
    stream = torch.cuda.Stream(device)

    def copy(batch: Batch) -> tuple[Batch, torch.Event]:
        with torch.cuda.stream(stream):
            return replace(batch, views=to_device(batch.views, device)), stream.record_event()

    for batch, copied in one_ahead(map(copy, batches)):
        current = torch.cuda.current_stream(device)
        current.wait_event(copied)
        # Otherwise the allocator could give the memory to the next copy while the current stream still reads it.
        batch.views.record_stream(current)
        yield batch


def one_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield items in order; each one is yielded when the next one has been taken."""
    previous: list[T] = []
    for item in items:
        previous.append(item)
        if len(previous) > 1:
            yield previous.pop(0)
    yield from previous
