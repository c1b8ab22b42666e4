"""A transformer of a few hundred weights, registered with open_clip, for tests that need fast towers.

Unlike `smile-tiny` it has no BatchNorm, so an embedding does not depend on the other samples of the batch.
"""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

NAME = "tiny-test-vit"
IMAGE_SIZE, NUM_WORDS, CONTEXT = 8, 16, 6

CONFIG: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 4, "layers": 1, "width": 8, "head_width": 4},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": NUM_WORDS, "width": 8, "heads": 2, "layers": 1},
}


# Towers with a decoder, which encodes neither images nor prompts.
COCA: dict[str, Any] = {
    "custom_text": True,
    "vision_cfg": CONFIG["vision_cfg"] | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": CONFIG["text_cfg"] | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": CONFIG["text_cfg"] | {"attn_pooler_heads": 2},
}


def register(folder: Path, name: str = NAME, **changes: Any) -> str:
    """Register the architecture in this process, with top-level `changes` to its config; returns its name."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(CONFIG | changes))
    open_clip.add_model_config(file)
    return name


def faces(num: int, num_views: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random views in [0, 1], directions, tokens and concepts; equal concepts have equal tokens."""
    generator = torch.Generator().manual_seed(seed)
    views = torch.rand(num, num_views, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(num_views, 3, generator=generator), dim=-1)
    concepts = torch.arange(num) % 4
    prompts = torch.randint(1, NUM_WORDS, (4, CONTEXT), generator=generator)
    return views, directions, prompts[concepts], concepts
