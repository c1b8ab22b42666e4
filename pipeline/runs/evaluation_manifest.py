"""What an evaluation says of itself: which run, on which shards, how it was scored, and the scores."""

from collections.abc import Mapping
from typing import Literal

from smile_pipe.model.config import RunTextSource
from smile_pipe.pipeline.data.temporal import TemporalRead
from smile_pipe.shards.manifest import Frozen, Manifest

PROTOCOL_TITLES = {
    "zero-shot": "zero-shot",
    "classifier": "classifier",
    "knn": "nearest neighbours",
    "probe": "linear probe",
    "finetune": "fine-tuning",
}

Interval = tuple[float, float]
"""Low and high end of a 95 % interval (pipeline/classifiers/metrics.py)."""


class ReliabilityBin(Frozen):
    """Samples whose predictions were about equally sure.

    Attributes:
        confidence: mean probability of what was predicted.
        accuracy: samples of these that were named rightly.
    """

    num_samples: int
    confidence: float
    accuracy: float


class LabelScore(Frozen):
    """Single expressions as yes and no, where a sample may show several; over those that occur in the truth.

    Attributes:
        macro_uf1: mean of the expressions' F1 scores.
        uar: mean of their recalls.
        f1, recall: of each.
    """

    macro_uf1: float
    uar: float
    f1: Mapping[str, float]
    recall: Mapping[str, float]


class ProtocolScore(Frozen):
    """How well one protocol named the expressions; every figure is a share between 0 and 1.

    Attributes:
        accuracy: samples named rightly.
        macro_f1: mean of the classes' F1 scores, over the classes that occur in the truth.
        accuracy_interval, macro_f1_interval: where they would lie with other subjects; None with a single one.
        per_class: recall of each class that occurs in the truth.
        per_level: accuracy at each intensity level ("1".."4"); samples without a level are in none.
        confusion: counts; rows are the truth, columns the prediction, both in the order of the manifest's `classes`.
        calibration_error: how far its probabilities are from how often it is right.
        reliability: what that is the mean of, the least sure first; bins without samples are left out.
        labels: the same predictions as yes and no for each expression; None where no sample shows several.
    """

    accuracy: float
    macro_f1: float
    accuracy_interval: Interval | None = None
    macro_f1_interval: Interval | None = None
    per_class: Mapping[str, float]
    per_level: Mapping[str, float]
    confusion: tuple[tuple[int, ...], ...]
    num_samples: int
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    labels: LabelScore | None = None


class ViewScore(Frozen):
    """How well the expressions are named from some of the views."""

    views: tuple[str, ...]
    accuracy: float
    macro_f1: float
    accuracy_interval: Interval | None = None
    macro_f1_interval: Interval | None = None


class FacesOfText(Frozen):
    """Each prompt asks for the faces of its class.

    Attributes:
        num_prompts: how many ask, those of classes that have a face.
        precision_at: share of right faces among the first k, the mean over prompts, by k.
        recall_at: share of prompts that have a right face among the first k, by k.
        average_precision: of each class that has a face, the mean over its prompts.
        mean_average_precision: the mean over classes.
    """

    num_prompts: int
    precision_at: Mapping[str, float]
    recall_at: Mapping[str, float]
    average_precision: Mapping[str, float]
    mean_average_precision: float


class TextOfFaces(Frozen):
    """Each face asks for its prompts.

    Attributes:
        num_prompts: among how many.
        recall_at: share of faces that have a right prompt among the first k, by k.
    """

    num_prompts: int
    recall_at: Mapping[str, float]


class RetrievalScore(Frozen):
    """How well faces are found by text, and text by faces (pipeline/evaluate/retrieval.py)."""

    faces_of_text: FacesOfText
    text_of_faces: TextOfFaces


class EvaluationManifest(Manifest):
    """The result of `smile-pipe evaluate`: its scores by protocol (`PROTOCOL_TITLES`).

    Attributes:
        run_fingerprint: the training run that was evaluated.
        shards_fingerprint: the shards that it was evaluated on.
        split: whom it was scored on: the test side of a split by subject, or "all" for every sample.
        fitted_on: fingerprint of other shards that protocols were fitted on; None where they were fitted on these.
        where: the condition that the samples to fit on and to score were chosen by, if there was one.
        text_source: where the prompts that the run was trained with came from.
        temporal, max_frames: what was read of a scored sequence, and how many frames of it at most.
        classes: expression codes, in the order of the confusion matrices.
        num_subjects: subjects among the scored samples.
        num_scans, num_sequences, num_frames: what the scored samples are, and the frames that were read of sequences.
        num_skipped: samples to fit on or to score that were left out, as they are damaged.
        finetune_epochs: how long the copy was trained that `finetune` scores; None where it was not asked for.
        notes: what was asked for and left out, and why.
        view_protocol, view_scores: what was scored on parts of the rig, and how well.
        retrieval: with zero-shot, how well text finds faces and faces text.
    """

    schema_version: Literal[4] = 4
    stage: Literal["evaluate"] = "evaluate"
    run_fingerprint: str
    shards_fingerprint: str
    split: str
    fitted_on: str | None = None
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
    finetune_epochs: int | None = None
    notes: tuple[str, ...] = ()
    protocols: Mapping[str, ProtocolScore]
    view_protocol: str | None = None
    view_scores: tuple[ViewScore, ...] = ()
    retrieval: RetrievalScore | None = None


Protocol = Literal["zero-shot", "knn", "probe", "classifier", "finetune"]
