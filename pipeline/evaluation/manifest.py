"""What an evaluation says of itself: which run, on which shards, how it was scored, and the scores."""

from collections.abc import Mapping
from typing import Literal

from model.config import RunTextSource
from pipeline.training.sequences import TemporalRead
from shards.manifest import Frozen, Manifest

PROTOCOL_TITLES = {
    "zero-shot": "zero-shot",
    "classifier": "classifier",
    "knn": "nearest neighbours",
    "probe": "linear probe",
}


class ProtocolScore(Frozen):
    """How well one protocol named the expressions; every figure is a share between 0 and 1.

    Attributes:
        accuracy: samples named rightly.
        macro_f1: mean of the classes' F1 scores, over the classes that occur in the truth.
        per_class: recall of each class that occurs in the truth.
        per_level: accuracy at each intensity level ("1".."4"); samples without a level are in none.
        confusion: counts; rows are the truth, columns the prediction, both in the order of the manifest's `classes`.
    """

    accuracy: float
    macro_f1: float
    per_class: Mapping[str, float]
    per_level: Mapping[str, float]
    confusion: tuple[tuple[int, ...], ...]
    num_samples: int


class EvaluationManifest(Manifest):
    """The result of `smile-pipe evaluate`: its scores by protocol ("zero-shot", "classifier", "knn", "probe").

    Attributes:
        run_fingerprint: the training run that was evaluated.
        shards_fingerprint: the shards that it was evaluated on.
        split: whom it was scored on: the test side of a split by subject, or "all" for every sample.
        where: the condition that the samples to fit on and to score were chosen by, if there was one.
        text_source: where the prompts that the run was trained with came from.
        temporal, max_frames: what was read of a scored sequence, and how many frames of it at most.
        classes: expression codes, in the order of the confusion matrices.
        num_subjects: subjects among the scored samples.
        num_scans, num_sequences, num_frames: what the scored samples are, and the frames that were read of sequences.
        num_skipped: samples to fit on or to score that were left out, as they are damaged.
        notes: what was asked for and left out, and why.
    """

    schema_version: Literal[2] = 2
    stage: Literal["evaluate"] = "evaluate"
    run_fingerprint: str
    shards_fingerprint: str
    split: str
    where: str | None
    text_source: RunTextSource
    temporal: TemporalRead
    max_frames: int
    recipe: str
    classes: tuple[str, ...]
    num_subjects: int
    num_scans: int
    num_sequences: int
    num_frames: int
    num_skipped: int = 0
    notes: tuple[str, ...] = ()
    protocols: Mapping[str, ProtocolScore]
