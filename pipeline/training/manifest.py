"""What a run says of itself."""

from collections.abc import Mapping
from typing import Any, Literal

from shards.manifest import Manifest, TextSource


class RunManifest(Manifest):
    """The truth about a training: from what, how, on whom, and which checkpoint is the result."""

    stage: Literal["train"] = "train"
    shards_fingerprint: str
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    channel: str
    views: tuple[str, ...]
    text_source: TextSource
    split: str
    train_subjects: tuple[str, ...]
    test_subjects: tuple[str, ...]
    num_train_samples: int
    num_steps: int
    world_size: int
    final_losses: Mapping[str, float]
    checkpoint: str
