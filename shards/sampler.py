"""The sampler: (seed, epoch, world size, rank, position) -> what to read next.

Promised: in an epoch every sample is read once, by one rank; all ranks take the same number of steps; the order is a
function of seed and epoch alone, so that a run can stop at any step and go on, and one rank sees in a step what two
ranks see in it together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# Samples are shuffled within windows of so many shards: a reader of remote shards need not hold more open at a time.
WINDOW = 16


@dataclass(frozen=True)
class Sampler:
    """Batches of one rank.

    Attributes:
        shards: for each sample, by its number, the shard it lies in.
        batch_size: samples of one rank in a step.
    """

    shards: Sequence[str]
    batch_size: int
    seed: int
    world_size: int = 1
    rank: int = 0
    window: int = WINDOW

    @property
    def num_steps(self) -> int:
        """Steps an epoch, the same on all ranks."""
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
        """This rank's batches of sample numbers from step `start_step` on.

        The samples are dealt to the steps as evenly as they go, and those of a step to the ranks.
        """
        parts = np.array_split(np.array(self.order(epoch)), self.num_steps)
        for part in parts[start_step:]:
            yield np.array_split(part, self.world_size)[self.rank].tolist()
