"""Image and text towers: any architecture that open_clip knows, and small ones that CPUs train in minutes.

The module also chooses the precision that towers compute in, and refuses weights for another activation function.
"""

import difflib
import logging
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from smile_pipe.model import patch_cnn
from smile_pipe.model.config import Precision, is_hub_model

CONFIGS = Path(__file__).parent / "configs"
OWN_ARCHS = tuple(sorted(path.stem for path in CONFIGS.iterdir()))
"""Architectures that are not part of open_clip; they start from random weights."""
QUICKGELU_SUFFIX = "-quickgelu"

Tokenizer = Callable[[list[str]], Tensor]


class Towers(nn.Module):
    """An open_clip model as two encoders that share an embedding size.

    Attributes:
        image_size: Height and width of the input images, in pixels.
        embed_dim: Size of the embeddings of both towers.
        context_length: Number of tokens of a prompt; longer ones are cut.
        mean: Mean of the colours that images are normalised by, [3, 1, 1].
        std: Standard deviation of these colours, [3, 1, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, arch: str, pretrained: str | None = None) -> None:
        """Build the towers.

        Args:
            arch: Architecture by open_clip's name, or `hf-hub:ORGANISATION/NAME`.
            pretrained: An open_clip tag or a local file; None for random weights.

        Raises:
            ValueError: open_clip has no such architecture, or no such weights for it.
        """
        super().__init__()
        config = check_arch(arch, pretrained)
        self.clip = _create(arch, pretrained)
        # The recipe owns temperature and bias of the contrast; those of open_clip are unused and have no gradient.
        for name in ("logit_scale", "logit_bias"):
            if isinstance(unused := getattr(self.clip, name, None), nn.Parameter):
                unused.requires_grad_(False)
        self.embed_dim: int = config["embed_dim"]
        self.context_length: int = config["text_cfg"].get("context_length", DEFAULT_CONTEXT_LENGTH)
        size = self.clip.visual.image_size
        self.image_size: int = size if isinstance(size, int) else size[0]
        # Buffers, because pretrained weights come with their own values, and a checkpoint is loaded without downloading
        # those weights again.
        preprocess = self.clip.visual.preprocess_cfg
        self.register_buffer("mean", torch.tensor(preprocess["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess["std"]).view(3, 1, 1))
        self._is_causal = (
            isinstance(self.clip, open_clip.CLIP)
            and self.clip.attn_mask is not None
            and self.clip.text_pool_type == "argmax"
            and isinstance(self.clip.text_projection, nn.Parameter)
        )
        self._is_identity = not any(preprocess["mean"]) and set(preprocess["std"]) == {1.0}
        # Convolutions are faster in channels-last order; for other towers it makes no difference.
        self.clip.visual.to(memory_format=torch.channels_last)

    def encode_images(self, images_nchw: Tensor) -> Tensor:
        """Images in [0, 1], [N, 3, H, W] -> embeddings [N, D]."""
        normalised = images_nchw if self._is_identity else (images_nchw - self.mean) / self.std
        return self.clip.encode_image(normalised.contiguous(memory_format=torch.channels_last))

    def encode_text(self, tokens_nt: Tensor) -> Tensor:
        """Token ids [N, T], which `shorten` may have made shorter -> embeddings [N, D]."""
        clip, length = self.clip, tokens_nt.shape[1]
        if not self._is_causal or length == clip.context_length:
            return clip.encode_text(tokens_nt)
        # open_clip adds the embeddings of all positions.
        embedded = clip.token_embedding(tokens_nt) + clip.positional_embedding[:length]
        embedded = clip.ln_final(clip.transformer(embedded, attn_mask=clip.attn_mask[:length, :length]))
        pooled: Tensor = text_global_pool(embedded, tokens_nt, clip.text_pool_type) @ clip.text_projection
        return pooled

    def shorten(self, tokens_nt: Tensor) -> Tensor:
        """Drop the positions after the end of the longest prompt, if the text tower ignores them.

        It does if its attention is causal and its output is that of the end token, which has the largest id.

        Args:
            tokens_nt: Token ids [N, T], on the CPU.
        """
        return tokens_nt[:, : int(tokens_nt.argmax(dim=1).max()) + 1] if self._is_causal else tokens_nt

    def compile_image_tower(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """Compile the image tower for batches of any size; the names of its weights do not change."""
        self.clip.visual.compile(backend=backend, dynamic=True)

    def checkpoint_activations(self) -> None:
        """Recompute the activations of each block in the backward pass instead of keeping them.

        Activation checkpointing: Chen et al., "Training deep nets with sublinear memory cost", 2016. Towers that do not
        support it (`supports_activation_checkpointing`) are not changed.
        """
        self.clip.set_grad_checkpointing(True)


# Any: open_clip returns a CLIP or a CustomTextCLIP, whose towers differ in type.
def _create(arch: str, pretrained: str | None) -> Any:
    # open_clip warns of random weights, which are intended when none are named.
    log, level = logging.getLogger(), logging.getLogger().level
    log.setLevel(level if pretrained else logging.ERROR)
    try:
        return open_clip.create_model(
            arch,
            pretrained=pretrained,
            force_preprocess_cfg=patch_cnn.PREPROCESSING if arch == patch_cnn.ARCH else None,
            weights_only=True,
        )
    finally:
        log.setLevel(level)


def native_precision(device_type: str) -> Precision:
    """Choose the fastest precision that the hardware supports and that is sufficient.

    Towers compute in it (`torch.autocast`). Weights, losses and optimiser are always in single precision. GPUs have
    bfloat16. CPUs have it with AVX512-BF16 or AMX; other CPUs emulate it, more slowly than float32.

    Args:
        device_type: "cpu" or "cuda".
    """
    if device_type == "cuda":
        return "bfloat16"
    capabilities = torch.cpu.get_capabilities()
    return "bfloat16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "float32"


def set_matmul_precision(precision: Precision, device: torch.device) -> None:
    """Set how a GPU multiplies matrices of single precision; a setting of the process. CPUs are left alone.

    `tf32` rounds inputs of products and convolutions to 10 bits. It is for towers in single precision only: with
    bfloat16 the remaining products are those of the losses, where 10 bits are too few for a temperature of 0.01.
    PyTorch's own default is TF32 for convolutions and not for products, which is neither of the two.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextmanager
def full_matmul_precision() -> Iterator[None]:
    """Compute products of single precision without TF32 within the block; for the losses."""
    before = torch.get_float32_matmul_precision()
    if before == "highest":
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_arch(arch: str, pretrained: str | None = None) -> dict[str, Any]:
    """Check an architecture and its weights without building it.

    Returns:
        open_clip's configuration of the architecture.

    Raises:
        ValueError: See `Towers`.
    """
    _register()
    if is_hub_model(arch):
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
        # open_clip would load them and compute with another activation function than they were trained with.
        exists = f"{arch}{QUICKGELU_SUFFIX}" in open_clip.list_models()
        hint = f"use the architecture {arch}{QUICKGELU_SUFFIX}" if exists else "use other weights"
        raise ValueError(f"{arch} computes with GELU, and the weights {pretrained!r} are for QuickGELU; {hint}")
    return config


def supports_activation_checkpointing(config: dict[str, Any]) -> bool:
    """Whether the image tower of a configuration supports activation checkpointing.

    open_clip's ResNets and `PatchCNN` do not.
    """
    vision = config["vision_cfg"]
    if timm_name := vision.get("timm_model_name"):
        return bool(timm_name != patch_cnn.smile_nano.__name__)
    return not isinstance(vision.get("layers"), (list, tuple))


def _hub_config(arch: str, pretrained: str | None) -> dict[str, Any]:
    if pretrained:
        raise ValueError(f"{arch} includes its own weights: it cannot use {pretrained!r}; leave these out")
    try:
        return open_clip.get_model_config(arch)
    # The hub, its client and open_clip raise a dozen kinds of errors for the same problem.
    except Exception as error:
        reason = textwrap.shorten(str(error), 160, placeholder=" ...")
        raise ValueError(
            f"{arch} cannot be loaded from the Hugging Face hub: {reason}; check its name and the network connection"
        ) from error


def build_tokenizer(arch: str) -> Tokenizer:
    """Build the tokenizer of `arch`: a list of strings -> token ids [N, T]."""
    _register()
    return open_clip.get_tokenizer(arch)


def _register() -> None:
    if patch_cnn.ARCH not in open_clip.list_models():
        open_clip.add_model_config(CONFIGS)
