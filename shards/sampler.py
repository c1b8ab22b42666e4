"""The order in which each rank reads samples, as a function of seed, epoch, world size and rank.

In an epoch every sample is read once, by one rank, and all ranks take the same number of steps. The order depends only
on seed and epoch, so a run can resume from any step, and one rank reads in a step what two ranks read together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Samples are shuffled within windows of this many shards, so a reader of remote shards needs no more at a time.
WINDOW = 16


@dataclass(frozen=True)
class Sampler:
    """Batches of one rank.

    Attributes:
        shards: For each sample, by its number, the name of its shard.
        batch_size: Samples per step and rank.
        window: Number of shards within which samples are shuffled.
    """

    shards: Sequence[str]
    batch_size: int
    seed: int
    world_size: int = 1
    rank: int = 0
    window: int = WINDOW

    @property
    def num_steps(self) -> int:
        """Steps per epoch, the same on all ranks."""
        return -(-len(self.shards) // (self.batch_size * self.world_size))

    def order(self, epoch: int) -> list[int]:
        """All sample numbers in the order of `epoch`: shards shuffled, then samples within windows of shards."""
        rng = np.random.default_rng([self.seed, epoch])
        members: dict[str, list[int]] = {}
        for number, shard in enumerate(self.shards):
            members.setdefault(shard, []).append(number)
        names = sorted(members)
        rng.shuffle(names)
        order: list[int] = []
        for start in range(0, len(names), self.window):
            window = [number for name in names[start : start + self.window] for number in members[name]]
            rng.shuffle(window)
            order += window
        return order

    def batches(self, epoch: int, start_step: int = 0) -> Iterator[list[int]]:
        """The batches of this rank, as lists of sample numbers, from step `start_step` on.

        Samples are distributed over the steps as evenly as possible, and those of a step over the ranks.
        """
        parts = np.array_split(np.array(self.order(epoch)), self.num_steps)
        for part in parts[start_step:]:
            yield np.array_split(part, self.world_size)[self.rank].tolist()
