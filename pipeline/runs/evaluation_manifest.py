"""The manifest of an evaluation: which run was scored, on which shards, by which protocols, and the scores."""

from collections.abc import Mapping, Sequence
from typing import Literal

from smile_pipe.model.config import RunTextSource
from smile_pipe.pipeline.data.temporal import TemporalRead
from smile_pipe.pipeline.runs.question_scores import QuestionScore
from smile_pipe.shards.manifest import Frozen, Manifest

Protocol = Literal["zero-shot", "knn", "probe", "classifier", "finetune", "caption-vote"]

PROTOCOL_TITLES = {
    "zero-shot": "zero-shot",
    "classifier": "classifier",
    "knn": "nearest neighbours",
    "probe": "linear probe",
    "finetune": "fine-tuning",
    "caption-vote": "caption vote",
}

Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval (pipeline/classifiers/metrics.py)."""


class ReliabilityBin(Frozen):
    """A group of samples that were predicted with similar confidence.

    Attributes:
        num_samples: number of samples.
        confidence: mean probability of the predicted classes.
        accuracy: share of correct predictions.
    """

    num_samples: int
    confidence: float
    accuracy: float


class LabelScore(Frozen):
    """Scores of single expressions as binary labels, for samples that may show several; over expressions in the truth.

    Attributes:
        macro_uf1: mean of the expressions' F1 scores.
        uar: mean of the expressions' recalls.
        f1, recall: scores of each expression.
    """

    macro_uf1: float
    uar: float
    f1: Mapping[str, float]
    recall: Mapping[str, float]


def single_view(views: Sequence[str]) -> str:
    """Return the view that figures are of, where there is only one, as "view front"; "" for several views."""
    return f"view {views[0]}" if len(views) == 1 else ""


class ProtocolScore(Frozen):
    """The scores of one protocol; every score is a share between 0 and 1.

    Attributes:
        accuracy: share of correct predictions.
        macro_f1: mean of the classes' F1 scores, over the classes that occur in the truth.
        accuracy_interval, macro_f1_interval: 95 % intervals over subjects; None for a single subject.
        per_class: recall of each class that occurs in the truth.
        per_level: accuracy at each intensity level ("1".."4"); samples without a level are in none.
        confusion: counts; rows are the true classes, columns the predicted ones, both in the order of the manifest's
            `classes`.
        num_samples: number of scored samples.
        calibration_error: expected calibration error.
        reliability: the bins that `calibration_error` is computed from, least confident first, without empty ones.
        labels: scores of the same predictions as binary labels of each expression; None where no sample shows several.
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
    """The scores from a subset of the views."""

    views: tuple[str, ...]
    accuracy: float
    macro_f1: float
    accuracy_interval: Interval | None = None
    macro_f1_interval: Interval | None = None


class TextToFaceRetrieval(Frozen):
    """Scores of retrieval with prompts as queries and faces as candidates.

    Attributes:
        num_prompts: number of queries: prompts of classes that have a face.
        precision_at: share of correct faces among the first k, mean over prompts, by k.
        recall_at: share of prompts with a correct face among the first k, by k.
        average_precision: of each class that has a face, mean over its prompts.
        mean_average_precision: mean over classes.
    """

    num_prompts: int
    precision_at: Mapping[str, float]
    recall_at: Mapping[str, float]
    average_precision: Mapping[str, float]
    mean_average_precision: float


class FaceToTextRetrieval(Frozen):
    """Scores of retrieval with faces as queries and prompts as candidates.

    Attributes:
        num_prompts: number of candidates.
        recall_at: share of faces with a correct prompt among the first k, by k.
    """

    num_prompts: int
    recall_at: Mapping[str, float]


class RetrievalScore(Frozen):
    """Scores of retrieval in both directions (pipeline/evaluate/retrieval.py)."""

    faces_of_text: TextToFaceRetrieval
    text_of_faces: FaceToTextRetrieval


class EvaluationManifest(Manifest):
    """The result of `smile-pipe evaluate`.

    Attributes:
        run_fingerprint: fingerprint of the evaluated run.
        shards_fingerprint: fingerprint of the scored shards.
        joined_fingerprints: if several sets were scored as one, the fingerprint of each; empty in manifests of earlier
            releases.
        split: the split by subject whose test part was scored, or "all" for every sample.
        fitted_on: fingerprint of the other shards that protocols were fitted on; None where they were fitted on these.
        where: condition that selected the samples to fit on and to score, if there was one.
        text_source: source of the prompts that the run was trained with.
        temporal, max_frames: what was read of a scored sequence, and the maximum number of its frames.
        recipe: recipe of the run.
        views: the views of the scored shards, which are fused for every score except `view_scores`; empty in manifests
            of earlier releases.
        rig_differences: how the cameras and images of the scored shards, and of those that protocols were fitted on,
            differ from those that the run was trained on.
        classes: the candidates, of which each protocol chose one: the expression codes of all samples for which `where`
            holds, in the order of the confusion matrices.
        num_subjects: number of subjects among the scored samples.
        num_scans, num_sequences, num_frames: kinds of the scored samples, and the frames that were read of sequences.
        num_skipped: number of damaged samples that were left out, of those to fit on and of those to score.
        finetune_epochs: training length of the `finetune` protocol; None where it was not requested.
        notes: what was requested and left out, and why.
        protocols: scores by protocol, one of `PROTOCOL_TITLES`.
        view_protocol, view_scores: the protocol that was scored on subsets of the views, and its scores.
        retrieval: retrieval scores, where zero-shot was scored.
        questions: answers to questions that were requested, by question.
    """

    schema_version: Literal[4] = 4
    stage: Literal["evaluate"] = "evaluate"
    run_fingerprint: str
    shards_fingerprint: str
    joined_fingerprints: tuple[str, ...] = ()
    split: str
    fitted_on: str | None = None
    where: str | None
    text_source: RunTextSource
    temporal: TemporalRead
    max_frames: int
    recipe: str
    views: tuple[str, ...] = ()
    rig_differences: tuple[str, ...] = ()
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
    questions: Mapping[str, QuestionScore] = {}
