"""What towers compute in: single precision, or bfloat16 where the hardware multiplies it.

Weights, losses and the optimiser are in single precision either way (`torch.autocast`).

Image and text encoders: any architecture that open_clip knows, and the small one that CPUs train in minutes.

Goes in: an architecture's name and the tag or file of its pretrained weights, or the name of a model on the Hugging
Face hub, which brings its own. Comes out: one module with both towers, and the tokenizer that belongs to it. Promised:
weights never meet an activation that they were not trained with, as far as open_clip knows it.
"""

import difflib
import logging
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from torch import Tensor, nn

from smile_pipe.model.config import Precision


def native_precision(device_type: str) -> Precision:
    """The fastest precision that this machine's `device_type` ("cpu", "cuda") has in hardware and that is enough.

    GPUs have bfloat16. Of CPUs those have it that know AVX512-BF16 or AMX; others emulate it, more slowly than float32.
    """
    if device_type == "cuda":
        return "bfloat16"
    known = torch.cpu.get_capabilities()
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


CONFIGS = Path(__file__).parent / "configs"
HUB = "hf-hub:"
"""How the name of an architecture begins that is a model on the hub, `hf-hub:ORGANISATION/NAME`."""
QUICK = "-quickgelu"

Tokenizer = Callable[[list[str]], Tensor]


class Towers(nn.Module):
    """An open_clip model as two encoders that share an embedding size.

    Attributes:
        image_size: height and width in pixels of the images that it takes.
        embed_dim: size of both embeddings.
    """

    def __init__(self, arch: str, pretrained: str | None = None) -> None:
        """Build `arch`, with the weights of `pretrained` (an open_clip tag or a local file), or random ones.

        Raises:
            ValueError: open_clip knows no such architecture, or has no such weights for it.
        """
        super().__init__()
        config = check_arch(arch, pretrained)
        self.clip = _create(arch, pretrained)
        # Temperature and bias of the contrast are the recipe's: others, that nothing uses, would have no gradient.
        for name in ("logit_scale", "logit_bias"):
            if isinstance(unused := getattr(self.clip, name, None), nn.Parameter):
                unused.requires_grad_(False)
        self.embed_dim: int = config["embed_dim"]
        size = self.clip.visual.image_size
        self.image_size: int = size if isinstance(size, int) else size[0]
        # Part of the state: pretrained weights bring their own, and a checkpoint is loaded without asking for those.
        preprocess = self.clip.visual.preprocess_cfg
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(3, 1, 1))
        # Convolutions prefer channels last; other towers do not care.
        self.clip.visual.to(memory_format=torch.channels_last)

    def encode_images(self, images_nchw: Tensor) -> Tensor:
        """Images in [0, 1], [N, 3, H, W] -> embeddings [N, D]."""
        normalised = (images_nchw - self.mean) / self.std
        return self.clip.encode_image(normalised.contiguous(memory_format=torch.channels_last))

    def encode_text(self, tokens_nt: Tensor) -> Tensor:
        """Token ids [N, T] -> embeddings [N, D]."""
        return self.clip.encode_text(tokens_nt)

    def compile_images(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the image tower, for batches of any size; the names of its weights stay what they are."""
        self.clip.visual.compile(backend=backend, dynamic=True)

    def checkpoint_activations(self) -> None:
        """Keep the activations of no block of the towers, and compute them again for the gradients.

        Activation checkpointing: Chen et al., "Training deep nets with sublinear memory cost", 2016. Where a tower
        cannot (`can_checkpoint`) it stays as it is.
        """
        self.clip.set_grad_checkpointing(True)


def _create(arch: str, pretrained: str | None) -> nn.Module:
    # open_clip warns of random weights, which are what is meant where none were asked for.
    log, level = logging.getLogger(), logging.getLogger().level
    log.setLevel(level if pretrained else logging.ERROR)
    try:
        return open_clip.create_model(arch, pretrained=pretrained, weights_only=True)
    finally:
        log.setLevel(level)


def check_arch(arch: str, pretrained: str | None = None) -> dict:
    """The configuration of `arch`; see `Towers` for the errors."""
    _register()
    if brings_weights(arch):
        return _hub_config(arch, pretrained)
    config = open_clip.get_model_config(arch)
    if config is None:
        near = difflib.get_close_matches(arch, open_clip.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "`open_clip.list_models()` lists them"
        raise ValueError(f"unknown architecture {arch!r}; {hint}")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if pretrained and pretrained not in tags and not Path(pretrained).is_file():
        raise ValueError(
            f"{arch} has no pretrained weights {pretrained!r}; give a file or one of: {', '.join(tags) or 'none'}"
        )
    if pretrained in tags and get_pretrained_cfg(arch, pretrained).get("quick_gelu") and not config.get("quick_gelu"):
        # open_clip would take them, and compute with another activation than they were trained with.
        known = f"{arch}{QUICK}" in open_clip.list_models()
        hint = f"use the architecture {arch}{QUICK}" if known else "use other weights"
        raise ValueError(f"{arch} computes with GELU, and the weights {pretrained!r} are for QuickGELU; {hint}")
    return config


def brings_weights(arch: str) -> bool:
    """Whether `arch` names a model with its weights."""
    return arch.startswith(HUB)


def can_checkpoint(config: dict) -> bool:
    """Whether the image tower of a configuration can do without keeping its activations: open_clip's ResNets cannot."""
    vision = config["vision_cfg"]
    return "timm_model_name" in vision or not isinstance(vision.get("layers"), (list, tuple))


def _hub_config(arch: str, pretrained: str | None) -> dict:
    if pretrained:
        raise ValueError(f"{arch} brings its own weights, not {pretrained!r}; leave these out")
    try:
        return open_clip.get_model_config(arch)
    # The hub, its client and open_clip have a dozen kinds of errors for what is one thing here.
    except Exception as error:
        reason = textwrap.shorten(str(error), 160, placeholder=" ...")
        raise ValueError(
            f"{arch} cannot be had from the Hugging Face hub; check its name, and that the hub is in reach ({reason})"
        ) from error


def build_tokenizer(arch: str) -> Tokenizer:
    """The tokenizer of `arch`: a list of strings -> token ids [N, T]."""
    _register()
    return open_clip.get_tokenizer(arch)


def _register() -> None:
    if "smile-tiny" not in open_clip.list_models():
        open_clip.add_model_config(CONFIGS)
