"""What a run says of itself."""

from collections.abc import Mapping
from typing import Any, Literal

from smile_pipe.model.config import Precision, RunTextSource
from smile_pipe.pipeline.data.temporal import TemporalRead, describe_temporal
from smile_pipe.shards.formatting import describe_samples, pluralize
from smile_pipe.shards.manifest import Manifest


class RunManifest(Manifest):
    """The truth about a training: from what, how, on whom, and which checkpoint is the result.

    Attributes:
        settings, prompts: how the shards were rendered, and each expression's wordings, from their manifest: with
            these scans of which there are no shards are seen and named as those were.
        temporal, max_frames: what was read of a sequence, and how many frames of it at most; `none`: all were scans.
        where: the condition that the samples to learn from were chosen by, if there was one.
        text_source: where the prompts that were learned from came from, `auto` resolved.
        classes: the expressions of the shards, in the order that a classifier numbers them.
        num_train_samples, num_train_sequences: what was learned from.
        validation_subjects: those that were held back from learning, and scored meanwhile.
        num_skipped: samples that were left out, as they are damaged; `skipped.json` has their keys.
        world_size: how many workers ended it.
        world_sizes: (step, workers) wherever that changed, from the first step on.
        precision: what the towers computed in, `auto` resolved.
        metadata: whether half of the prompts also said who is shown.
    """

    schema_version: Literal[5] = 5
    stage: Literal["train"] = "train"
    shards_fingerprint: str
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    channel: str
    settings: Mapping[str, Any]
    prompts: Mapping[str, tuple[str, ...]]
    temporal: TemporalRead
    max_frames: int
    views: tuple[str, ...]
    text_source: RunTextSource
    classes: tuple[str, ...]
    split: str
    where: str | None
    train_subjects: tuple[str, ...]
    test_subjects: tuple[str, ...]
    validation_subjects: tuple[str, ...] = ()
    num_train_samples: int
    num_train_sequences: int
    num_skipped: int = 0
    num_steps: int
    world_size: int
    world_sizes: tuple[tuple[int, int], ...] = ()
    precision: Precision
    metadata: bool = False
    final_losses: Mapping[str, float]
    checkpoint: str

    def learned_from(self) -> str:
        """The samples and subjects, and what was read of sequences if there were any, for a person."""
        samples = describe_samples(self.num_train_samples - self.num_train_sequences, self.num_train_sequences)
        told = f"{samples} of {pluralize(len(self.train_subjects), 'subject')}"
        return told if self.temporal == "none" else f"{told}; {describe_temporal(self.temporal, self.max_frames)}"
