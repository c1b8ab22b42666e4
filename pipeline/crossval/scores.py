"""Scores of all folds together: means and deviations over folds, and counts over the samples of all folds."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from smile_pipe.pipeline.classifiers.metrics import label_score
from smile_pipe.pipeline.reports.csv_table import csv_table
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, CrossvalScore, FoldScore, MeanStd
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, ProtocolScore
from smile_pipe.pipeline.runs.run_manifest import RunManifest


def fold_score(folder: str, run: RunManifest, evaluation: EvaluationManifest, subjects: Sequence[str]) -> FoldScore:
    """The scores of one fold, which was tested on `subjects`."""
    return FoldScore(
        folder=f"folds/{folder}",
        split=run.split,
        subjects=tuple(subjects),
        num_samples=evaluation.num_scans + evaluation.num_sequences,
        run_fingerprint=run.fingerprint,
        accuracy={name: score.accuracy for name, score in evaluation.protocols.items()},
        macro_f1={name: score.macro_f1 for name, score in evaluation.protocols.items()},
    )


def aggregate_folds(evaluations: Sequence[EvaluationManifest]) -> dict[str, CrossvalScore]:
    """Aggregate the scores of all folds, by protocol; protocols that a fold lacks are left out."""
    names = [name for name in evaluations[0].protocols if all(name in each.protocols for each in evaluations)]
    classes = evaluations[0].classes
    return {name: _aggregate([each.protocols[name] for each in evaluations], classes) for name in names}


def scores_csv(manifest: CrossvalManifest) -> bytes:
    """The table `scores.csv`, one score per row.

    Columns: protocol, measure, of (all, a fold, a level or an expression), value, deviation.
    """
    return csv_table([("protocol", "measure", "of", "value", "deviation"), *_csv_rows(manifest)])


def _aggregate(scores: Sequence[ProtocolScore], classes: Sequence[str]) -> CrossvalScore:
    confusion = np.sum([score.confusion for score in scores], axis=0)
    num_actual = confusion.sum(axis=1)
    levels = sorted({level for score in scores for level in score.per_level})
    return CrossvalScore(
        accuracy=MeanStd.of([score.accuracy for score in scores]),
        macro_f1=MeanStd.of([score.macro_f1 for score in scores]),
        per_class={classes[c]: float(confusion[c, c] / num_actual[c]) for c in np.flatnonzero(num_actual).tolist()},
        per_level={
            level: MeanStd.of([score.per_level[level] for score in scores if level in score.per_level])
            for level in levels
        },
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        labels=label_score(confusion, classes),
    )


def _csv_rows(manifest: CrossvalManifest) -> Iterator[tuple[object, ...]]:
    for name, score in manifest.scores.items():
        for metric in ("accuracy", "macro_f1"):
            over_folds: MeanStd = getattr(score, metric)
            yield name, metric, "all", over_folds.mean, over_folds.deviation
            for fold in manifest.folds:
                by_protocol: Mapping[str, float] = getattr(fold, metric)
                yield name, metric, fold.split, by_protocol[name], ""
        if score.labels is not None:
            yield name, "macro_uf1", "all", score.labels.macro_uf1, ""
            yield name, "uar", "all", score.labels.uar, ""
            for expression, f1 in score.labels.f1.items():
                yield name, "label_f1", expression, f1, ""
        for level, over_folds in score.per_level.items():
            yield name, "accuracy", f"level {level}", over_folds.mean, over_folds.deviation
        for expression, recall in score.per_class.items():
            yield name, "recall", expression, recall, ""
