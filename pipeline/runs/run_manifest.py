"""The manifest of a run: its inputs, options and result."""

from collections.abc import Mapping
from typing import Any, Literal

from smile_pipe.model.config import Precision, RunTextSource
from smile_pipe.pipeline.data.temporal import TemporalRead, describe_temporal
from smile_pipe.shards.formatting import describe_samples, pluralize
from smile_pipe.shards.manifest import Manifest


class RunManifest(Manifest):
    """Manifest of a finished training, written last.

    Attributes:
        shards_fingerprint: Fingerprint of the shards.
        joined_fingerprints: If several sets were read as one, the fingerprint of each.
        config: Options of the run; see `TrainConfig.recorded`.
        recipe: Configuration of the model.
        channel: Channel of the input images, or several, separated by commas.
        settings: How the shards were rendered, from their manifest: new scans are rendered in the same way.
        prompts: Prompts of each expression, from the manifest of the shards: new scans are classified with the same.
        temporal: What was read of sequences; `none` if all samples were scans.
        max_frames: Largest number of frames that were read of a sequence.
        input_version: How stored images became the input of the image tower; see `INPUT_VERSION`.
        views: Names of the views.
        text_source: Source of the prompts, `auto` resolved.
        classes: Expressions of the shards, in the order in which a classifier numbers them.
        split: The split; subjects of its sides follow.
        where: Condition that selected the training samples, if there was one.
        validation_subjects: Training subjects that were held out and scored after every epoch.
        num_train_samples: Number of samples to learn from, scans and sequences.
        num_train_sequences: Number of sequences among them.
        num_skipped: Number of damaged samples that were left out; `skipped.json` has their keys.
        num_steps: Number of steps.
        num_skipped_steps: Number of steps among them that were skipped, because loss or gradient were not finite.
        world_size: Number of workers at the end.
        world_sizes: (step, workers) for each change of this number, from the first step on.
        precision: Precision of the towers, `auto` resolved.
        learning_rates: Peak learning rates of the `towers` and of the `heads`, `auto` resolved.
        metadata: Whether half of the prompts also described the person.
        final_losses: Loss terms of the last logged step that was finite.
        checkpoint: Name of the checkpoint that is the result.
    """

    schema_version: Literal[5] = 5
    stage: Literal["train"] = "train"
    shards_fingerprint: str
    joined_fingerprints: tuple[str, ...] = ()
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    channel: str
    settings: Mapping[str, Any]
    prompts: Mapping[str, tuple[str, ...]]
    temporal: TemporalRead
    max_frames: int
    input_version: int = 1
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
    num_skipped_steps: int = 0
    world_size: int
    world_sizes: tuple[tuple[int, int], ...] = ()
    precision: Precision
    learning_rates: Mapping[str, float] = {}
    metadata: bool = False
    final_losses: Mapping[str, float]
    checkpoint: str

    @property
    def channels(self) -> tuple[str, ...]:
        """Channels of the input images."""
        return tuple(self.channel.split(","))

    @property
    def training_sets(self) -> frozenset[str]:
        """Fingerprints of the shard sets that the run was trained on."""
        return frozenset(self.joined_fingerprints or (self.shards_fingerprint,))

    def training_data_summary(self) -> str:
        """Describe the samples, subjects and sequences that the run learned from, for cards and reports."""
        samples = describe_samples(self.num_train_samples - self.num_train_sequences, self.num_train_sequences)
        summary = f"{samples} of {pluralize(len(self.train_subjects), 'subject')}"
        return summary if self.temporal == "none" else f"{summary}; {describe_temporal(self.temporal, self.max_frames)}"
