"""Augmentation of batched views: mirror, small similarity transforms, and for colour images brightness and tint.

Mirroring a face turns its left view into the right view of the mirrored face, so the views change places with it. Each
view is moved on its own: the mixed view augmentation of the AffectVLM description.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest shift (parts of half the image), zoom (as a factor's distance from 1) and turn (radians).
SHIFT, ZOOM, TURN = 0.06, 0.09, 0.09
BRIGHTNESS, TINT = 0.3, 0.1


def mirror_order(directions_v3: Tensor) -> list[int] | None:
    """For each view the number of the view from the mirrored direction; None where the rig is not symmetric."""
    mirrored = directions_v3 * torch.tensor([-1.0, 1.0, 1.0])
    distance = torch.cdist(mirrored, directions_v3)
    return distance.argmin(dim=1).tolist() if bool((distance.min(dim=1).values < 1e-3).all()) else None


def augment(views_bvchw: Tensor, channel: str, order: list[int] | None, generator: torch.Generator) -> Tensor:
    """Augment views in [0, 1]; a function of `generator`'s state alone, so that a resumed run sees the same images."""
    if order is not None:
        views_bvchw = _mirror_half(views_bvchw, channel, order, generator)
    moved = _move(views_bvchw.flatten(0, 1), generator)
    if channel == "rgb":
        moved = _recolour(moved, generator)
    return moved.unflatten(0, views_bvchw.shape[:2])


def _mirror_half(views: Tensor, channel: str, order: list[int], generator: torch.Generator) -> Tensor:
    chosen = torch.rand(len(views), generator=generator) < 0.5
    mirrored = views[:, order].flip(-1)
    if channel == "normal":
        # A mirrored surface's normals point the other way along x, which is the first channel.
        mirrored = torch.cat([1 - mirrored[:, :, :1], mirrored[:, :, 1:]], dim=2)
    return torch.where(chosen.to(views.device)[:, None, None, None, None], mirrored, views)


def _move(images_nchw: Tensor, generator: torch.Generator) -> Tensor:
    def spread(limit: float, *shape: int) -> Tensor:
        return (torch.rand(len(images_nchw), *shape, generator=generator) * 2 - 1) * limit

    zoom, turn, shift = 1 + spread(ZOOM), spread(TURN), spread(SHIFT, 2)
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta.to(images_nchw.device), list(images_nchw.shape), align_corners=False)
    return F.grid_sample(images_nchw, grid, padding_mode="border", align_corners=False)


def _recolour(images_nchw: Tensor, generator: torch.Generator) -> Tensor:
    num = len(images_nchw)
    brightness = 1 + BRIGHTNESS * (torch.rand(num, 1, 1, 1, generator=generator) * 2 - 1)
    tint = 1 + TINT * (torch.rand(num, 3, 1, 1, generator=generator) * 2 - 1)
    return (images_nchw * (brightness * tint).to(images_nchw.device)).clamp(0, 1)


def generator_for(*numbers: int) -> torch.Generator:
    """A generator whose stream is a function of `numbers` (seed, epoch, step, rank ...)."""
    state = 0
    for number in numbers:
        state = (state * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(state)


def cosine_schedule(step: int, num_steps: int, warmup: float) -> float:
    """Factor of the learning rate: linear up to 1 over the first `warmup` part of the steps, then half a cosine."""
    num_warmup = warmup * num_steps
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    return 0.5 + 0.5 * math.cos(math.pi * (step - num_warmup) / max(num_steps - num_warmup, 1))
