"""What a cross-validation says of itself: its folds, and what they tell together."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from smile_pipe.model.config import RunTextSource
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES, LabelScore
from smile_pipe.shards.manifest import Frozen, Manifest


class MeanStd(Frozen):
    """A figure over folds: its mean, and the deviation of the folds from it (of a sample, n - 1); None for one fold."""

    mean: float
    deviation: float | None

    @property
    def in_percent(self) -> str:
        """0.904 and 0.012 -> "90.4 ± 1.2"."""
        return f"{100 * self.mean:.1f}" + ("" if self.deviation is None else f" ± {100 * self.deviation:.1f}")


class FoldScore(Frozen):
    """One fold.

    Attributes:
        folder: its run, relative to the cross-validation.
        split: as `smile-pipe train` takes it.
        subjects: whom it was tested on.
        accuracy, macro_f1: by protocol.
    """

    folder: str
    split: str
    subjects: tuple[str, ...]
    num_samples: int
    run_fingerprint: str
    accuracy: Mapping[str, float]
    macro_f1: Mapping[str, float]


class CrossvalScore(Frozen):
    """What the folds tell together by one protocol.

    Attributes:
        accuracy, macro_f1: over folds, each of which counts the same.
        per_class: recall over the samples of all folds.
        per_level: accuracy at each intensity level, over folds.
        confusion: counts over all folds; rows are the truth, in the order of the manifest's `classes`.
        labels: single expressions as yes and no over the samples of all folds, as publications on micro-expressions
            count: a fold of one person is too small for an F1 of its own. None in what earlier releases wrote.
    """

    accuracy: MeanStd
    macro_f1: MeanStd
    per_class: Mapping[str, float]
    per_level: Mapping[str, MeanStd]
    confusion: tuple[tuple[int, ...], ...]
    labels: LabelScore | None = None


class CrossvalManifest(Manifest):
    """The result of `smile-pipe crossval`.

    Attributes:
        shards_fingerprint: of what was learned from.
        scored_on: of the shards that were scored; the same, but across datasets.
        protocol, subset, where: which samples count, and how their subjects are divided; `across`: they are not, one
            dataset was learned from and another one scored.
        config: the options of training.
        text_source: where the text that was learned from came from.
        precision: what the towers computed in.
        scores: by protocol ("zero-shot", "knn", ...).
    """

    schema_version: Literal[1] = 1
    stage: Literal["crossval"] = "crossval"
    shards_fingerprint: str
    scored_on: str
    protocol: str
    subset: str | None
    where: str | None
    config: Mapping[str, Any]
    recipe: str
    without: tuple[str, ...]
    channel: str
    text_source: RunTextSource
    precision: str
    classes: tuple[str, ...]
    folds: tuple[FoldScore, ...]
    scores: Mapping[str, CrossvalScore]

    @property
    def system(self) -> str:
        """The recipe and what was left out of it: "smile-vlm without mv, cm"."""
        return self.recipe + (f" without {', '.join(self.without)}" if self.without else "")

    @property
    def ways(self) -> tuple[str, ...]:
        """The protocols of `scores`, in the order that tables show them in."""
        return tuple(name for name in PROTOCOL_TITLES if name in self.scores)


def spread(values: Sequence[float]) -> MeanStd:
    """Mean, and deviation of a sample (n - 1), which a single value has not."""
    return MeanStd(mean=float(np.mean(values)), deviation=float(np.std(values, ddof=1)) if len(values) > 1 else None)
