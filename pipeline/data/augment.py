"""Augmentation of batched views: mirroring, small similarity transforms, and brightness and tint of colour images.

Mirroring a face turns its left view into the right view of the mirrored face, so mirroring also permutes the views.
Normals and flow are vectors in image axes: where an image is mirrored or turned, so are they.
Each view gets its own similarity transform, which may be what the AffectVLM description calls mixed view augmentation.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.transfer import to_device
from smile_pipe.pipeline.data.warp import warp

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
    channels: Sequence[str],
    order: list[int] | None,
    generator: torch.Generator,
    frames: PackedFrames | None = None,
) -> Tensor:
    """Augment views; the result depends only on the arguments, so a resumed run sees the same images.

    All frames of a sample are mirrored, moved and recoloured alike, so that motion between them is motion of the face.
    Each view gets its own transform, the same in all channels. Random numbers are drawn on the CPU, and images are
    changed on their own device.

    Args:
        views_nvchw: Views, uint8 [N, V, 3 C, H, W]; not modified.
        channels: The C channels of the views.
        order: See `mirror_order`; None disables mirroring.
        generator: Source of random numbers, on the CPU.
        frames: Layout of the N frames, on the CPU; without it each of them is a scan.

    Returns:
        Views in [0, 1], float32 [N, V, 3 C, H, W].
    """
    frames = frames or PackedFrames.of_scans(len(views_nvchw))
    num_faces, num_views = len(frames.counts), views_nvchw.shape[1]
    is_mirrored = torch.zeros(num_faces, dtype=torch.bool)
    if order is not None:
        is_mirrored = torch.rand(num_faces, generator=generator) < 0.5
    theta = frames.repeat_per_sample(_similarities(num_faces, num_views, is_mirrored, generator))
    is_mirrored = frames.repeat_per_sample(is_mirrored)
    # The transforms of `_similarities` flip the pixels; views are permuted here.
    as_is = torch.arange(num_views)
    sources = torch.where(is_mirrored[:, None], as_is if order is None else torch.tensor(order), as_is)
    moved = []
    for channel, views in zip(channels, views_nvchw.chunk(len(channels), dim=2), strict=True):
        zeros = _zeros(channel, frames)
        factors = _colour_factors(num_faces, num_views, frames, generator) if channel == "rgb" else None
        if views.device.type == "cpu":
            factors = torch.ones(len(views), num_views, 3) if factors is None else factors
            moved.append(warp(views.contiguous(), sources, zeros, _vector_maps(theta), theta, factors))
        else:
            moved.append(_warp_on_device(views, sources, zeros, _vector_maps(theta), theta, factors))
    return moved[0] if len(moved) == 1 else torch.cat(moved, dim=2)


def _zeros(channel: str, frames: PackedFrames) -> Tensor:
    """Pixel value of the component 0 of each frame's vectors, float32 [N]; 0 for channels without vectors.

    It is 127.5 for normals, and 128 for flow and for dynamic images: the weights of a dynamic image sum to 0, so the
    dynamic image of 255 - c is the negative of that of c.
    """
    if channel not in ("normal", "flow"):
        return torch.zeros(len(frames.times))
    return torch.where(frames.is_dynamic | (channel == "flow"), 128.0, 127.5)


def _vector_maps(theta_nv23: Tensor) -> Tensor:
    """What the transforms of square images do to vectors with x right and y up: [N, V, 2, 2].

    The maps of pixels go from target to source, with y down; those of vectors from source to target, with y up. Vectors
    keep their length.
    """
    matrix = theta_nv23[..., :2]
    scale = torch.linalg.det(matrix).abs().sqrt()[..., None, None]
    return matrix.mT / scale * torch.tensor([[1.0, -1.0], [-1.0, 1.0]])


def _warp_on_device(
    views_nvchw: Tensor,
    sources_nv: Tensor,
    zeros_n: Tensor,
    vector_maps_nv22: Tensor,
    theta_nv23: Tensor,
    factors_nvc: Tensor | None,
) -> Tensor:
    """`warp` with operators of PyTorch, for other devices than the CPU; all other arguments are on the CPU."""
    device = views_nvchw.device
    views = views_nvchw[torch.arange(len(views_nvchw), device=device)[:, None], to_device(sources_nv, device)].float()
    if bool(zeros_n.any()):
        zeros, maps = to_device(zeros_n, device)[:, None, None, None, None], to_device(vector_maps_nv22, device)
        views[:, :, :2] = torch.einsum("nvij,nvjhw->nvihw", maps, views[:, :, :2] - zeros).add_(zeros).clamp_(0, 255)
    views /= 255
    if factors_nvc is not None:
        views.mul_(to_device(factors_nvc, device)[..., None, None]).clamp_(max=1)
    return _transform(views, to_device(theta_nv23, device))


def _similarities(num_faces: int, num_views: int, is_mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Random affine maps from target to source pixels in [-1, 1]^2, for each view of each face: [B, V, 2, 3]."""
    num = num_faces * num_views

    def uniform(limit: float, *shape: int) -> Tensor:
        return (torch.rand(num, *shape, generator=generator) * 2 - 1) * limit

    zoom, turn, shift = 1 + uniform(ZOOM), uniform(TURN), uniform(SHIFT, 2)
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(num_faces, num_views, 2, 3)
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
    """Random factors of the colours of each view, [N, V, 3]."""
    num = num_faces * num_views
    brightness = 1 + BRIGHTNESS * (torch.rand(num, 1, generator=generator) * 2 - 1)
    tint = 1 + TINT * (torch.rand(num, 3, generator=generator) * 2 - 1)
    factors = frames.repeat_per_sample((brightness * tint).unflatten(0, (num_faces, num_views)))
    # In a dynamic image 128 means that nothing moved; it is not a colour and must not change.
    return torch.where(frames.is_dynamic[:, None, None], 1.0, factors)


def generator_for(*numbers: int) -> torch.Generator:
    """Make a generator whose stream is a function of `numbers` (seed, epoch, step, rank ...)."""
    state = 0
    for number in numbers:
        state = (state * 1_000_003 + number + 1) % (1 << 63)
    return torch.Generator().manual_seed(state)


def seed_dropout(generator: torch.Generator) -> None:
    """Seed PyTorch's global generator, which dropout uses, from the generator of a rank and step."""
    torch.manual_seed(int(torch.randint(1 << 62, (), generator=generator)))
