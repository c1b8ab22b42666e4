"""Small models of every recipe, and random faces as their input."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers import tiny_arch
from smile_pipe.model.config import DYNAMIC_TIME, RECIPES, RecipeConfig
from smile_pipe.model.multichannel import MultiChannelModel
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import RecipeModel, build_model

NUM_CLASSES = 4


TWO_CHANNELS = "facet-vlm of two channels"
WITH_CRIT = "smile-vlm with crit"
# Recipes that only preset the terms of another recipe's system are left out.
SYSTEMS = [name for name in RECIPES if name not in ("barlow", "clip")]
NAMES = [*SYSTEMS, TWO_CHANNELS, WITH_CRIT]


def make_model(folder: Path, name: str, with_text: bool = True, coca: bool = False, **options: Any) -> RecipeModel:
    torch.manual_seed(0)
    if name == TWO_CHANNELS:
        name, options = name.split()[0], {**options, "num_channels": 2}
    if name == WITH_CRIT:
        name, options = name.split()[0], {**options, "crit": 0.7}
    arch = tiny_arch.register(folder, "tiny-test-coca", **tiny_arch.COCA) if coca else tiny_arch.register(folder)
    config = RecipeConfig(name=name, arch=arch, joint_dim=4, temperature=0.5, num_classes=NUM_CLASSES, **options)
    # Double precision, so that rounding in the random tower does not hide differences.
    model = build_model(config).double()
    # These start at zero, where other gradients would be zero as well.
    for system in model if isinstance(model, MultiChannelModel) else [model]:
        for weight in (system.temporal.score.weight, system.temporal.gain.weight):
            torch.nn.init.normal_(weight)
        if name == "mpa-vlm":
            torch.nn.init.normal_(system.class_texts)
        if name == "facet-vlm":
            torch.nn.init.normal_(system.aggregation.attention.out_proj.weight)
    model.freeze_unreached(with_text=with_text, with_sequences=True)
    return model


def texts_for(model: RecipeModel, tokens: Tensor) -> Tensor:
    """Tokens [N, T] of prompts, or those with false ones [N, 2, T] if the model learns from such."""
    return torch.stack([tokens, tokens.flip(-1)], dim=1) if model.config.crit else tokens


def faces(total: int, samples: slice, num_channels: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor, PackedFrames]:
    """Views, directions, tokens, concepts and frames of `samples` out of `total`; each channel has other images.

    The first two samples are sequences, which rank 0 reads; rank 1 has scans only.
    """
    _, directions, tokens, concepts = tiny_arch.faces(total)
    counts = torch.tensor([3, 2] + [1] * (total - 2))
    owners = torch.arange(total).repeat_interleave(counts)
    times = torch.tensor([0.0, 0.4, 1.0, 0.0, DYNAMIC_TIME] + [0.0] * (total - 2))
    own = torch.isin(owners, torch.arange(total)[samples])
    views = tiny_arch.faces(len(owners))[0][own].double()
    views = torch.cat([views.roll(number, dims=-1) for number in range(num_channels)], dim=2)
    return views, directions.double(), tokens[samples], concepts[samples], PackedFrames(counts[samples], times[own])
