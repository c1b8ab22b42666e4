"""Augmentation of batched views: mirroring, small similarity transforms, and brightness and tint of colour images.

Mirroring a face turns its left view into the right view of the mirrored face, so mirroring also permutes the views.
Each view gets its own similarity transform, which may be what the AffectVLM description calls mixed view augmentation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.transfer import to_device

# Limits of shift (fraction of half the image), zoom (distance of the factor from 1) and rotation (radians).
SHIFT, ZOOM, TURN = 0.06, 0.09, 0.09
BRIGHTNESS, TINT = 0.3, 0.1


def mirror_order(directions_v3: Tensor) -> list[int] | None:
    """For each view the index of the view from the mirrored direction; None if the rig is not symmetric."""
    mirrored = directions_v3 * torch.tensor([-1.0, 1.0, 1.0])
    distance = torch.cdist(mirrored, directions_v3)
    return distance.argmin(dim=1).tolist() if bool((distance.min(dim=1).values < 1e-3).all()) else None


def augment(
    views_nvchw: Tensor,
    channel: str,
    order: list[int] | None,
    generator: torch.Generator,
    frames: PackedFrames | None = None,
) -> Tensor:
    """Augment views; the result depends only on the arguments, so a resumed run sees the same images.

    All frames of a sample are mirrored, moved and recoloured alike, so that motion between them is motion of the face.
    Each view gets its own transform. Random numbers are drawn on the CPU, and images are changed on their own device.

    Args:
        views_nvchw: Views in [0, 1], [N, V, 3, H, W]; not modified.
        channel: Channel of the views.
        order: See `mirror_order`; None disables mirroring.
        generator: Source of random numbers, on the CPU.
        frames: Layout of the N frames, on the CPU; without it each of them is a scan.

    Returns:
        Views in [0, 1], [N, V, 3, H, W].
    """
    frames = frames or PackedFrames.of_scans(len(views_nvchw))
    num_faces, num_views = len(frames.counts), views_nvchw.shape[1]
    is_mirrored = None
    if order is not None:
        is_mirrored = torch.rand(num_faces, generator=generator) < 0.5
        views_nvchw = _mirror_x(views_nvchw, channel, order, frames.repeat_per_sample(is_mirrored), frames)
    theta = frames.repeat_per_sample(_similarities(num_faces, num_views, is_mirrored, generator))
    moved = _transform(views_nvchw, to_device(theta, views_nvchw.device))
    if channel == "rgb":
        factors = _colour_factors(num_faces, num_views, frames, generator)
        moved.mul_(to_device(factors, moved.device)).clamp_(0, 1)
    return moved


def _mirror_x(views: Tensor, channel: str, order: list[int], is_mirrored: Tensor, frames: PackedFrames) -> Tensor:
    """Copy the views; in mirrored frames permute the views by `order` and negate the x component of vectors.

    Pixels are not flipped here: the transforms of `_similarities` do it.
    """
    sources = torch.where(is_mirrored[:, None], torch.tensor(order), torch.arange(len(order)))
    device = views.device
    views = views[torch.arange(len(views), device=device)[:, None], to_device(sources, device)]
    if channel in ("normal", "flow"):
        zero_is_128 = frames.is_dynamic[is_mirrored] | (channel == "flow")
        mirrored = to_device(is_mirrored.nonzero().squeeze(1), device)
        views[mirrored, :, 0] = _negate(views[mirrored, :, 0], zero_is_128)
    return views


def _negate(x_nvhw: Tensor, zero_is_128: Tensor) -> Tensor:
    """Negate signed pixels: zero is at 127.5 for normals, and at 128 for flow and for dynamic images.

    The weights of a dynamic image sum to 0, so the dynamic image of 255 - c is the negative of that of c.
    """
    return torch.where(_expand_as(zero_is_128, x_nvhw), (256 / 255 - x_nvhw).clamp(max=1), 1 - x_nvhw)


def _similarities(num_faces: int, num_views: int, is_mirrored: Tensor | None, generator: torch.Generator) -> Tensor:
    """Random affine maps from target to source pixels in [-1, 1]^2, for each view of each face: [B, V, 2, 3]."""
    num = num_faces * num_views

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(num, *shape, generator=generator) * 2 - 1) * limit

    zoom, turn, shift = 1 + uniform(ZOOM), uniform(TURN), uniform(SHIFT, 2)
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(num_faces, num_views, 2, 3)
    if is_mirrored is not None:
        # Mirror first, then move: the maps go from target to source, so the flip applies to the target's x.
        theta[is_mirrored, :, 0] *= -1
    return theta


def _transform(views_nvchw: Tensor, theta_nv23: Tensor) -> Tensor:
    images, theta = views_nvchw.flatten(0, 1), theta_nv23.flatten(0, 1)
    height, width = images.shape[-2:]
    x, y = ((2 * torch.arange(num, device=images.device) + 1) / num - 1 for num in (width, height))
    # The source position is a sum of a term per column and a term per row: less work than F.affine_grid's products.
    by_column = theta[:, :, 0, None] * x
    by_row = theta[:, :, 1, None] * y + theta[:, :, 2, None]
    grid_k2hw = by_column[:, :, None, :] + by_row[:, :, :, None]
    moved = F.grid_sample(images, grid_k2hw.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    return moved.unflatten(0, views_nvchw.shape[:2])


def _colour_factors(num_faces: int, num_views: int, frames: PackedFrames, generator: torch.Generator) -> Tensor:
    """Random factors of the colours of each view, [N, V, 3, 1, 1]."""
    num = num_faces * num_views
    brightness = 1 + BRIGHTNESS * (torch.rand(num, 1, 1, 1, generator=generator) * 2 - 1)
    tint = 1 + TINT * (torch.rand(num, 3, 1, 1, generator=generator) * 2 - 1)
    factors = frames.repeat_per_sample((brightness * tint).unflatten(0, (num_faces, num_views)))
    # In a dynamic image 128 means that nothing moved; it is not a colour and must not change.
    return torch.where(_expand_as(frames.is_dynamic, factors), 1.0, factors)


def _expand_as(flags_n: Tensor, other: Tensor) -> Tensor:
    """Reshape flags [N] so that they broadcast with `other` [N, ...], on its device."""
    return to_device(flags_n, other.device).view(-1, *[1] * (other.ndim - 1))


def generator_for(*numbers: int) -> torch.Generator:
    """Make a generator whose stream is a function of `numbers` (seed, epoch, step, rank ...)."""
    state = 0
    for number in numbers:
        state = (state * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(state)


def seed_dropout(generator: torch.Generator) -> None:
    """Seed PyTorch's global generator, which dropout uses, from the generator of a rank and step."""
    torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
