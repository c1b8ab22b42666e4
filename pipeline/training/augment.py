"""Augmentation of batched views: mirror, small similarity transforms, and for colour images brightness and tint.

Mirroring a face turns its left view into the right view of the mirrored face, so the views change places with it. Each
view is moved on its own: the mixed view augmentation of the AffectVLM description.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.moments import Moments

# Largest shift (parts of half the image), zoom (as a factor's distance from 1) and turn (radians).
SHIFT, ZOOM, TURN = 0.06, 0.09, 0.09
BRIGHTNESS, TINT = 0.3, 0.1


def mirror_order(directions_v3: Tensor) -> list[int] | None:
    """For each view the number of the view from the mirrored direction; None where the rig is not symmetric."""
    mirrored = directions_v3 * torch.tensor([-1.0, 1.0, 1.0])
    distance = torch.cdist(mirrored, directions_v3)
    return distance.argmin(dim=1).tolist() if bool((distance.min(dim=1).values < 1e-3).all()) else None


def augment(
    views_nvchw: Tensor,
    channel: str,
    order: list[int] | None,
    generator: torch.Generator,
    moments: Moments | None = None,
) -> Tensor:
    """Augment views in [0, 1]; a function of `generator`'s state alone, so that a resumed run sees the same images.

    All moments of a face are mirrored, moved and recoloured alike, each view in its own way: what moves between them is
    the face. Without `moments` each of the N is a scan.
    """
    moments = moments or Moments.of_scans(len(views_nvchw))
    if order is not None:
        views_nvchw = _mirror_half(views_nvchw, channel, order, generator, moments)
    moved = _move(views_nvchw, generator, moments)
    if channel == "rgb":
        moved = _recolour(moved, generator, moments)
    return moved


def _mirror_half(views: Tensor, channel: str, order: list[int], generator: torch.Generator, moments: Moments) -> Tensor:
    chosen = moments.spread(torch.rand(len(moments.counts), generator=generator) < 0.5)
    mirrored = views[:, order].flip(-1)
    if channel in ("normal", "flow"):
        # What points along x, which is the first channel, points the other way.
        mirrored = torch.cat([_opposite(mirrored[:, :, :1], channel, moments), mirrored[:, :, 1:]], dim=2)
    return torch.where(_each(chosen, views), mirrored, views)


def _opposite(x_nvchw: Tensor, channel: str, moments: Moments) -> Tensor:
    """The negative of signed pixels: of normals, 0 lies at 127.5; of flow and of dynamic images, at 128.

    The weights of a dynamic image sum to 0: that of 255 - c is the negative of that of c.
    """
    about_128 = (256 / 255 - x_nvchw).clamp(max=1)
    return about_128 if channel == "flow" else torch.where(_each(moments.is_dynamic, x_nvchw), about_128, 1 - x_nvchw)


def _move(views: Tensor, generator: torch.Generator, moments: Moments) -> Tensor:
    num = len(moments.counts) * views.shape[1]

    def spread(limit: float, *shape: int) -> Tensor:
        return (torch.rand(num, *shape, generator=generator) * 2 - 1) * limit

    zoom, turn, shift = 1 + spread(ZOOM), spread(TURN), spread(SHIFT, 2)
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, views.shape[1], 2, 3)
    theta, images = moments.spread(theta).flatten(0, 1), views.flatten(0, 1)
    grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.unflatten(0, views.shape[:2])


def _recolour(views: Tensor, generator: torch.Generator, moments: Moments) -> Tensor:
    num = len(moments.counts) * views.shape[1]
    brightness = 1 + BRIGHTNESS * (torch.rand(num, 1, 1, 1, generator=generator) * 2 - 1)
    tint = 1 + TINT * (torch.rand(num, 3, 1, 1, generator=generator) * 2 - 1)
    factors = moments.spread((brightness * tint).unflatten(0, (-1, views.shape[1])))
    # The 128 of a dynamic image means that nothing moved, and is no colour.
    factors = torch.where(_each(moments.is_dynamic, factors), 1.0, factors)
    return (views * factors.to(views.device)).clamp(0, 1)


def _each(flags_n: Tensor, like: Tensor) -> Tensor:
    """Flags [N] in a shape that meets [N, ...], on its device."""
    return flags_n.to(like.device).view(-1, *[1] * (like.ndim - 1))


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
