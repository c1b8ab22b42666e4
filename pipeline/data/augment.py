"""Augmentation of batched views: mirror, small similarity transforms, and for colour images brightness and tint.

Mirroring a face turns its left view into the right view of the mirrored face, so the views change places with it. Each
view is moved on its own, which may be what the AffectVLM description calls mixed view augmentation.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_pipe.model.packing import PackedFrames

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
    moments: PackedFrames | None = None,
) -> Tensor:
    """Augment views in [0, 1]; a function of `generator`'s state alone, so that a resumed run sees the same images.

    All moments of a face are mirrored, moved and recoloured alike, each view in its own way: what moves between them is
    the face. Without `moments` each of the N is a scan.
    """
    moments = moments or PackedFrames.of_scans(len(views_nvchw))
    num_faces, num_views = len(moments.counts), views_nvchw.shape[1]
    is_mirrored = None
    if order is not None:
        is_mirrored = torch.rand(num_faces, generator=generator) < 0.5
        views_nvchw = _mirror_x(views_nvchw, channel, order, moments.spread(is_mirrored), moments)
    theta = moments.spread(_similarities(num_faces, num_views, is_mirrored, generator))
    moved = _move(views_nvchw, theta.to(views_nvchw.device))
    if channel == "rgb":
        factors = _colours(num_faces, num_views, moments, generator)
        moved.mul_(factors.to(moved.device)).clamp_(0, 1)
    return moved


def _mirror_x(views: Tensor, channel: str, order: list[int], is_mirrored: Tensor, moments: PackedFrames) -> Tensor:
    """A copy in which mirrored moments have their views in `order`, and what points along x points the other way.

    Their pixels stay where they are: `_similarities` turns left and right about.
    """
    places = torch.where(is_mirrored[:, None], torch.tensor(order), torch.arange(len(order)))
    views = views[torch.arange(len(views))[:, None], places]
    if channel in ("normal", "flow"):
        about_128 = moments.is_dynamic[is_mirrored] | (channel == "flow")
        views[is_mirrored, :, 0] = _opposite(views[is_mirrored, :, 0], about_128)
    return views


def _opposite(x_nvhw: Tensor, about_128: Tensor) -> Tensor:
    """The negative of signed pixels: of normals, 0 lies at 127.5; of flow and of dynamic images, at 128.

    The weights of a dynamic image sum to 0: that of 255 - c is the negative of that of c.
    """
    return torch.where(_each(about_128, x_nvhw), (256 / 255 - x_nvhw).clamp(max=1), 1 - x_nvhw)


def _similarities(num_faces: int, num_views: int, is_mirrored: Tensor | None, generator: torch.Generator) -> Tensor:
    """For each view of each face, where each pixel comes from, as affine maps of [-1, 1]^2: [B, V, 2, 3]."""
    num = num_faces * num_views

    def spread(limit: float, *shape: int) -> Tensor:
        return (torch.rand(num, *shape, generator=generator) * 2 - 1) * limit

    zoom, turn, shift = 1 + spread(ZOOM), spread(TURN), spread(SHIFT, 2)
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(num_faces, num_views, 2, 3)
    if is_mirrored is not None:
        # Mirrored first and then moved: a pixel comes from where it would, and from there to the other side.
        theta[is_mirrored, :, 0] *= -1
    return theta


def _move(views_nvchw: Tensor, theta_nv23: Tensor) -> Tensor:
    images, theta = views_nvchw.flatten(0, 1), theta_nv23.flatten(0, 1)
    height, width = images.shape[-2:]
    x, y = ((2 * torch.arange(num, device=images.device) + 1) / num - 1 for num in (width, height))
    # Where a pixel comes from is a sum of what its column and its row say: less work than F.affine_grid's products.
    by_column = theta[:, :, 0, None] * x
    by_row = theta[:, :, 1, None] * y + theta[:, :, 2, None]
    grid_k2hw = by_column[:, :, None, :] + by_row[:, :, :, None]
    moved = F.grid_sample(images, grid_k2hw.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)
    return moved.unflatten(0, views_nvchw.shape[:2])


def _colours(num_faces: int, num_views: int, moments: PackedFrames, generator: torch.Generator) -> Tensor:
    """What each colour of each view is multiplied by, [N, V, 3, 1, 1]."""
    num = num_faces * num_views
    brightness = 1 + BRIGHTNESS * (torch.rand(num, 1, 1, 1, generator=generator) * 2 - 1)
    tint = 1 + TINT * (torch.rand(num, 3, 1, 1, generator=generator) * 2 - 1)
    factors = moments.spread((brightness * tint).unflatten(0, (num_faces, num_views)))
    # The 128 of a dynamic image means that nothing moved, and is no colour.
    return torch.where(_each(moments.is_dynamic, factors), 1.0, factors)


def _each(flags_n: Tensor, like: Tensor) -> Tensor:
    """Flags [N] in a shape that meets [N, ...], on its device."""
    return flags_n.to(like.device).view(-1, *[1] * (like.ndim - 1))


def generator_for(*numbers: int) -> torch.Generator:
    """A generator whose stream is a function of `numbers` (seed, epoch, step, rank ...)."""
    state = 0
    for number in numbers:
        state = (state * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(state)


def seed_dropout(generator: torch.Generator) -> None:
    """Let what towers drop from now on follow from `generator` alone, which each rank has for each step."""
    torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
