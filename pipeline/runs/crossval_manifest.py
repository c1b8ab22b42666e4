"""The manifest of a cross-validation: its folds, and their scores together."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator

from smile_pipe.model.config import RunTextSource
from smile_pipe.pipeline.common.statistics import macro_f1
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES, Interval, LabelScore
from smile_pipe.shards.manifest import Frozen, Manifest


class MeanStd(Frozen):
    """Mean and standard deviation of a score over the folds.

    Attributes:
        mean: the mean.
        deviation: sample standard deviation (n - 1); None for a single fold.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Compute both of at least one value."""
        return cls(mean=float(np.mean(values)), deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None)

    @property
    def in_percent(self) -> str:
        """0.904 and 0.012 -> "90.4 ± 1.2"."""
        return f"{100 * self.mean:.1f}" + ("" if self.deviation is None else f" ± {100 * self.deviation:.1f}")


class FoldScore(Frozen):
    """The scores of one fold.

    Attributes:
        folder: directory of the fold's run, relative to the cross-validation.
        split: split of the fold, as `smile-pipe train` takes it.
        subjects: test subjects.
        num_samples: number of scored samples.
        run_fingerprint: fingerprint of the fold's run.
        accuracy, macro_f1: scores by protocol.
    """

    folder: str
    split: str
    subjects: tuple[str, ...]
    num_samples: int
    run_fingerprint: str
    accuracy: Mapping[str, float]
    macro_f1: Mapping[str, float]


class PooledScore(Frozen):
    """Scores over the samples of all folds together, each predicted by the run that was trained without its subject.

    Attributes:
        accuracy: share of correct predictions.
        macro_f1: mean of the classes' F1 scores, from the confusion matrix of all folds. The mean of the macro-F1 of
            single folds is biased: F1 is no mean over samples, and a small fold may lack a class (Forman and Scholz,
            "Apples-to-apples in cross-validation studies", SIGKDD Explorations 2010).
        accuracy_interval, macro_f1_interval: 95 % intervals over subjects; None for a single subject, and in
            manifests of earlier releases.
    """

    accuracy: float
    macro_f1: float
    accuracy_interval: Interval | None = None
    macro_f1_interval: Interval | None = None

    @classmethod
    def of(cls, confusion: Sequence[Sequence[int]], intervals: tuple[Interval, Interval] | None = None) -> Self:
        """Compute the scores of a confusion matrix, and add their intervals."""
        counts = np.array(confusion)
        accuracy, of_macro_f1 = intervals or (None, None)
        return cls(
            accuracy=float(np.trace(counts) / counts.sum()),
            macro_f1=float(macro_f1(counts)),
            accuracy_interval=accuracy,
            macro_f1_interval=of_macro_f1,
        )


class CrossvalScore(Frozen):
    """The scores of all folds by one protocol.

    Attributes:
        accuracy: over folds; every fold has the same weight.
        pooled: over the samples of all folds together.
        per_class: recall over the samples of all folds.
        per_level: accuracy at each intensity level, over folds.
        confusion: counts over all folds; rows are the true classes, columns the predicted ones, both in the order of
            the manifest's `classes`.
        labels: scores of single expressions over the samples of all folds, as publications on micro-expressions count
            them: a fold of one subject is too small for an F1 of its own. None in manifests of earlier releases.
    """

    accuracy: MeanStd
    pooled: PooledScore
    per_class: Mapping[str, float]
    per_level: Mapping[str, MeanStd]
    confusion: tuple[tuple[int, ...], ...]
    labels: LabelScore | None = None

    @model_validator(mode="before")
    @classmethod
    def _pool(cls, values: Any) -> Any:
        """Replace the mean macro-F1 of the folds, which version 1 has, by scores of the confusion matrix."""
        if not isinstance(values, dict) or not {"macro_f1", "confusion"} <= values.keys():
            return values
        kept = {name: value for name, value in values.items() if name != "macro_f1"}
        try:
            return kept | {"pooled": PooledScore.of(values["confusion"])}
        except TypeError:
            raise ValueError("the confusion is no matrix of counts") from None


class QuestionFolds(Frozen):
    """The answers to some of the questions, in each fold.

    Attributes:
        group: what is asked.
        name: which of the questions these are, or what they are answered from.
        folds: share of correct answers in each fold.
        chance: expected share of correct answers of a random choice, the mean over folds.
        baseline: share of correct answers of a simpler way, the mean over folds; None where there is none.
    """

    group: str
    name: str
    folds: tuple[float, ...]
    chance: float
    baseline: float | None = None

    @property
    def accuracy(self) -> MeanStd:
        """Share of correct answers, over folds."""
        return MeanStd.of(self.folds)


class CrossvalManifest(Manifest):
    """The result of `smile-pipe crossval`.

    Attributes:
        shards_fingerprint: fingerprint of the shards that the folds are trained on.
        scored_on: fingerprint of the shards that are scored; the same, except in a cross-dataset evaluation.
        protocol: the split protocol (pipeline/crossval/protocols.py), or `across` for a cross-dataset evaluation: no
            folds, one dataset is trained on and another one is scored.
        subset, where: which samples count.
        config: training options.
        recipe, without: the recipe, and the losses that are left out of it.
        views: the views of the scored shards, which are fused; empty in manifests of earlier releases.
        rig_differences: how the cameras and images of the scored shards differ from those of training, in a
            cross-dataset evaluation.
        channel: input channel of the image tower.
        text_source: source of the training text.
        precision: numeric precision of the towers.
        classes: the candidates, as in the evaluation of each fold, in the order of the confusion matrices.
        folds: the folds, in order.
        scores: scores by evaluation protocol ("zero-shot", "knn", ...).
        questions: answers to questions that were requested, by question.
    """

    schema_version: Literal[1, 2] = 2
    stage: Literal["crossval"] = "crossval"
    shards_fingerprint: str
    scored_on: str
    protocol: str
    subset: str | None
    where: str | None
    config: Mapping[str, Any]
    recipe: str
    without: tuple[str, ...]
    views: tuple[str, ...] = ()
    rig_differences: tuple[str, ...] = ()
    channel: str
    text_source: RunTextSource
    precision: str
    classes: tuple[str, ...]
    folds: tuple[FoldScore, ...]
    scores: Mapping[str, CrossvalScore]
    questions: Mapping[str, tuple[QuestionFolds, ...]] = {}

    @property
    def system(self) -> str:
        """The recipe with the losses that are left out: "smile-vlm without mv, cm"."""
        return self.recipe + (f" without {', '.join(self.without)}" if self.without else "")

    @property
    def ordered_protocols(self) -> tuple[str, ...]:
        """The protocols of `scores`, in the order of the columns of all tables."""
        return tuple(name for name in PROTOCOL_TITLES if name in self.scores)
