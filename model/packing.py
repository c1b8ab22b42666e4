"""Which images belong to which face, and when they were seen: a scan has one moment, a sequence has several.

A batch packs the moments of its faces one after another, so that faces of different lengths need no padded images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PackedFrames:
    """The moments of a batch of B faces, N in all.

    Attributes:
        counts: int64 [B], how many moments each face has; at least 1.
        times: float32 [N], from 0 at a sequence's onset to 1 at its end, 0 for a scan; a dynamic image has
            `DYNAMIC_TIME`.
    """

    counts: Tensor
    times: Tensor

    @classmethod
    def of_scans(cls, num: int, device: torch.device | str = "cpu") -> "PackedFrames":
        """One moment, at time 0, for each of `num` faces."""
        return cls(torch.ones(num, dtype=torch.int64, device=device), torch.zeros(num, device=device))

    @property
    def is_dynamic(self) -> Tensor:
        """Which of the moments are dynamic images, bool [N]."""
        return self.times < 0

    def spread(self, per_face: Tensor) -> Tensor:
        """What is given for each face [B, ...], for each of its moments [N, ...]."""
        return per_face.repeat_interleave(self.counts, dim=0, output_size=len(self.times))

    def pad(self, packed: Tensor, fill: float) -> Tensor:
        """Packed rows [N, ...] -> [B, T, ...], T the most moments of a face; the places that are left hold `fill`."""
        longest = int(self.counts.max())
        if longest == 1:
            return packed.unsqueeze(1)
        inside = torch.arange(longest, device=packed.device) < self.counts[:, None]
        padded = packed.new_full((len(self.counts), longest, *packed.shape[1:]), fill)
        padded[inside] = packed
        return padded

    def to(self, device: torch.device | str) -> "PackedFrames":
        """The same on another device."""
        return PackedFrames(self.counts.to(device), self.times.to(device))
