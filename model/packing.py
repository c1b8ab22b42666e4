"""Packed frames: which images of a batch belong to which sample, and at which time.

A scan has one frame, a sequence has several. A batch concatenates the frames of its samples, so that samples of
different lengths need no padded images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from smile_pipe.model.transfer import to_device


@dataclass(frozen=True)
class PackedFrames:
    """Layout of the N frames of B samples.

    Attributes:
        counts: Frames of each sample, int64 [B], at least 1.
        times: Time of each frame, float32 [N], from 0 at the onset of a sequence to 1 at its end; 0 for a scan;
            `DYNAMIC_TIME` for a dynamic image.
        longest: Largest count; 0 to compute it, which waits for the device if `counts` is on one.
    """

    counts: Tensor
    times: Tensor
    longest: int = 0

    def __post_init__(self) -> None:
        if not self.longest and len(self.counts):
            object.__setattr__(self, "longest", int(self.counts.max()))

    @classmethod
    def of_scans(cls, num: int, device: torch.device | str = "cpu") -> "PackedFrames":
        """The layout of `num` scans: one frame each, at time 0."""
        return cls(torch.ones(num, dtype=torch.int64, device=device), torch.zeros(num, device=device), longest=1)

    @property
    def is_dynamic(self) -> Tensor:
        """Which frames are dynamic images, bool [N]."""
        return self.times < 0

    def repeat_per_sample(self, values: Tensor) -> Tensor:
        """Repeat values of samples [B, ...] for each of their frames: [N, ...]."""
        return values.repeat_interleave(self.counts, dim=0, output_size=len(self.times))

    def to_padded(self, packed: Tensor, fill: float) -> Tensor:
        """Unpack rows of frames.

        Args:
            packed: One row per frame, [N, ...].
            fill: Value after the last frame of a sample.

        Returns:
            [B, T, ...], where T is the largest number of frames of a sample.
        """
        if self.longest == 1:
            return packed.unsqueeze(1)
        padded = packed.new_full((len(self.counts), self.longest, *packed.shape[1:]), fill)
        # Not a mask: PyTorch would have to count its elements first, and wait for the device.
        samples, starts = torch.arange(len(self.counts), device=packed.device), self.counts.cumsum(0) - self.counts
        frames = torch.arange(len(packed), device=packed.device)
        padded[self.repeat_per_sample(samples), frames - self.repeat_per_sample(starts)] = packed
        return padded

    def to(self, device: torch.device | str) -> "PackedFrames":
        """Copy from the CPU to another device."""
        return PackedFrames(to_device(self.counts, device), to_device(self.times, device), self.longest)
