"""The samples of one rank in the order of training, as a dataset of PyTorch that can resume at any sample."""

from collections.abc import Callable, Container, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from smile_pipe.shards.cache import request_ahead
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample_table import shard_codes
from smile_pipe.shards.sampler import Sampler

if TYPE_CHECKING:
    from smile_pipe.pipeline.data.streams import StreamableShardSet

# Samples per step; the order of a rank does not depend on it.
_STEP = 1024
# Rows that are taken from the index at a time.
_GROUP = 32


class SampleStream(IterableDataset[Any]):
    """Decoded samples of one rank; iterating gives those of one epoch.

    Each worker of a loader reads a part of them. `state_dict` is of the process that iterates: of this one without
    workers, else of a worker, as loaders with a state of their own collect it.

    Attributes:
        shards: The shard set; all of its rows are read.
    """

    def __init__(
        self,
        shards: "StreamableShardSet",
        channels: Container[str],
        *,
        epoch: int,
        rank: int,
        world_size: int,
        start: int,
        seed: int,
        batch_size: int,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        """See `smile_pipe.pipeline.data.streams.StreamableShardSet.torch`."""
        self.shards = shards
        self._channels, self._batch_size, self._transform = channels, batch_size, transform
        self._seed, self._rank, self._world_size = seed, rank, world_size
        # Shared, so that `set_epoch` reaches workers that a loader keeps.
        self._epoch = torch.tensor(epoch).share_memory_()
        self._first_epoch, self._start = epoch, start
        self._state = self._new_state()
        self._is_loaded = False

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch that the next iteration gives; another one than the first is read from its start."""
        self._epoch.fill_(epoch)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to continue after the last sample that was yielded."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration continue where that of `state_dict` was.

        Raises:
            UsageError: The state is of other shards, or of an iteration with another order.
        """
        if state["shards"] != self._state["shards"]:
            raise UsageError("the state is of other shards; start again", field="shards", value=self.shards.spec)
        for name, value in self._options().items():
            # With one worker, samples are not divided by batches.
            if state[name] != value and (name != "batch_size" or state["num_workers"] > 1):
                raise UsageError(
                    f"the state is of an iteration with {state[name]}; start again", field=name, value=value
                )
        self._state, self._is_loaded = dict(state), True
        self.set_epoch(state["epoch"])

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        number, count = (0, 1) if worker is None else (worker.id, worker.num_workers)
        state = self._state if self._is_loaded and self._state["epoch"] == int(self._epoch) else self._new_state()
        self._is_loaded = False
        if state["num_workers"] == 1:
            # It has yielded the first samples, so any number of workers can continue.
            start = state["start"] + state["num_yielded"]
            state |= {"start": start, "num_yielded": 0, "num_workers": count} | self._options()
        if state["num_workers"] != count:
            raise UsageError(f"the state is of a loader with {state['num_workers']} workers", field="num_workers")
        self._state = state
        numbers = self._order(state["epoch"])[state["start"] :]
        own = numbers[np.arange(len(numbers)) // self._batch_size % count == number]
        return self._read(own[state["num_yielded"] :])

    def _new_state(self) -> dict[str, Any]:
        epoch = int(self._epoch)
        start = self._start if epoch == self._first_epoch else 0
        shards = self.shards.manifest.fingerprint
        state = {"epoch": epoch, "start": start, "num_yielded": 0, "num_workers": 1, "shards": shards}
        return state | self._options()

    def _options(self) -> dict[str, int]:
        """What decides which samples come in which order to which worker."""
        options = {"seed": self._seed, "rank": self._rank, "world_size": self._world_size}
        return options | {"batch_size": self._batch_size, "num_samples": len(self.shards.rows)}

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The row numbers of this rank in their order."""
        # Each rank reads the same shards in every epoch, which its cache then has.
        shards = shard_codes(self.shards.rows)
        sampler = Sampler(shards, _STEP, self._seed, self._world_size, self._rank, partitions=self._world_size)
        return np.concatenate(list(sampler.batches(epoch)))

    def _read(self, numbers: NDArray[np.int64]) -> Iterator[Any]:
        shards = self.shards.for_this_process()
        groups = (shards.rows.at(numbers[start : start + _GROUP]) for start in range(0, len(numbers), _GROUP))
        for row in chain.from_iterable(request_ahead(shards.cache, groups)):
            sample = shards.read_decoded(row, self._channels)
            self._state["num_yielded"] += 1
            yield self._transform(sample) if self._transform else sample
