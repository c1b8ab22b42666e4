"""The order in which each rank reads samples, as a function of seed, epoch, and the number of partitions.

In an epoch every sample is read once, by one rank, and all ranks take the same number of steps. The order does not
depend on the number of ranks, so a run can resume from any step with any number of them, and one rank reads in a step
what two ranks read together.

Shards are read one after the other in a random order, and each sample waits for a random time in a buffer of `window`
shards. So a reader of remote shards needs few of them at a time, and fetches the next ones steadily. Partitions divide
the samples once and for all epochs: a rank that reads one partition finds in its cache what it read in the epoch
before. Each partition is shuffled with a buffer of its own, and each step takes an equal share of each.

With weights, samples are drawn in proportion to them: a sample may be read several times in an epoch, or not at all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Number of shards in the buffer of a partition.
WINDOW = 16


def steps_per_epoch(num_samples: int, joined_batch_size: int) -> int:
    """Number of steps in which all samples are read once; `joined_batch_size` is that of all ranks together."""
    return -(-num_samples // joined_batch_size)


@dataclass(frozen=True, eq=False)
class Sampler:
    """Batches of one rank.

    Attributes:
        shards: Number of the shard of each sample, int64 [N].
        batch_size: Samples per step and rank.
        partitions: Number of parts that the samples are divided into.
        window: Number of shards within which samples of a partition are shuffled.
        weights: How often each sample is read, relative to the others, float64 [N]; None for once in an epoch.
    """

    shards: NDArray[np.int64]
    batch_size: int
    seed: int
    world_size: int = 1
    rank: int = 0
    partitions: int = 1
    window: int = WINDOW
    weights: NDArray[np.float64] | None = None

    @property
    def num_steps(self) -> int:
        """Steps per epoch, the same on all ranks."""
        return steps_per_epoch(len(self.shards), self.batch_size * self.world_size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """All sample numbers in the order of the steps of `epoch`, int64 [N]."""
        orders = {partition: self._shuffled(partition, epoch) for partition in range(self.partitions)}
        return np.concatenate([self._joined(orders, step) for step in range(self.num_steps)])

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[NDArray[np.int64]]:
        """The batches of this rank, as arrays of sample numbers, from step `start_step` on.

        Samples of a partition are distributed over the steps as evenly as possible, and those of a step over its ranks.
        """
        own, (share, num_shares) = self._own_partitions()
        orders = {partition: self._shuffled(partition, epoch) for partition in own}
        for step in range(start_step, self.num_steps):
            yield np.array_split(self._joined(orders, step), num_shares)[share]

    def _own_partitions(self) -> tuple[range, tuple[int, int]]:
        """The partitions that this rank reads, and which share of their samples: (2, 4) is the third of four."""
        if self.partitions % self.world_size == 0:
            count = self.partitions // self.world_size
            return range(self.rank * count, (self.rank + 1) * count), (0, 1)
        if self.world_size % self.partitions == 0:
            partition, share = divmod(self.rank, self.world_size // self.partitions)
            return range(partition, partition + 1), (share, self.world_size // self.partitions)
        return range(self.partitions), (self.rank, self.world_size)

    @cached_property
    def _members(self) -> list[NDArray[np.int64]]:
        """The sample numbers of each partition: whole shards but for those at its ends."""
        if self.partitions == 1:
            return [np.arange(len(self.shards))]
        names, codes = np.unique(self.shards, return_inverse=True)
        place = np.random.default_rng(self.seed).permutation(len(names))
        return np.array_split(np.argsort(place[codes], kind="stable"), self.partitions)

    def _shuffled(self, partition: int, epoch: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, epoch, *([partition] if partition else [])])
        members = self._draw(self._members[partition], rng)
        names, codes = np.unique(self.shards[members], return_inverse=True)
        place, window = rng.permutation(len(names)), min(self.window, len(names))
        # A buffer that is half full at both ends: otherwise the first and the last batches would be of one shard.
        start = np.clip(place - window // 2, 0, len(names) - window)
        return members[np.argsort(start[codes] + window * rng.random(len(members)), kind="stable")]

    def _draw(self, members: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """As many samples as there are members, in proportion to their weights (systematic sampling)."""
        if self.weights is None or len(members) == 0:
            return members
        members = rng.permutation(members)
        reached = np.cumsum(self.weights[members])
        reached *= len(members) / reached[-1]
        # The last sum may be off by rounding.
        reached[-1] = len(members)
        return np.repeat(members, np.diff(np.floor(reached + rng.random()), prepend=0).astype(np.int64))

    def _joined(self, orders: Mapping[int, NDArray[np.int64]], step: int) -> NDArray[np.int64]:
        """The samples of a step from some partitions."""
        parts = []
        for partition, order in orders.items():
            # Partition p of P is p / P samples ahead: rounded alike, all would have their larger steps together.
            ahead, divisor = partition * self.num_steps, self.num_steps * self.partitions
            start, end = ((at * len(order) * self.partitions + ahead) // divisor for at in (step, step + 1))
            parts.append(order[start:end])
        return np.concatenate(parts)


def balancing_weights(classes: NDArray[np.int64], within: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Weights with which each class is read equally often.

    Args:
        classes: Class of each sample, int64 [N].
        within: How often each sample is read relative to others of its class, float64 [N]; None for equally often.
    """
    codes = np.unique(classes, return_inverse=True)[1]
    weights = np.ones(len(classes)) if within is None else within
    return weights / np.bincount(codes, weights)[codes]
