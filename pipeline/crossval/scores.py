"""What folds tell together: means and deviations over folds, and counts over the samples of all of them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from smile_pipe.pipeline.classifiers.metrics import label_score
from smile_pipe.pipeline.reports.csv_table import csv_table
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, CrossvalScore, FoldScore, MeanStd, spread
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, ProtocolScore
from smile_pipe.pipeline.runs.run_manifest import RunManifest


def fold_score(folder: str, run: RunManifest, found: EvaluationManifest, subjects: Sequence[str]) -> FoldScore:
    """What the table has of one fold, which was scored on `subjects`."""
    return FoldScore(
        folder=f"folds/{folder}",
        split=run.split,
        subjects=tuple(subjects),
        num_samples=found.num_scans + found.num_sequences,
        run_fingerprint=run.fingerprint,
        accuracy={name: score.accuracy for name, score in found.protocols.items()},
        macro_f1={name: score.macro_f1 for name, score in found.protocols.items()},
    )


def gather_scores(evaluations: Sequence[EvaluationManifest]) -> dict[str, CrossvalScore]:
    """The scores of all folds by protocol, of those protocols that every fold was scored by."""
    names = [name for name in evaluations[0].protocols if all(name in each.protocols for each in evaluations)]
    classes = evaluations[0].classes
    return {name: _together([each.protocols[name] for each in evaluations], classes) for name in names}


def _together(scores: Sequence[ProtocolScore], classes: Sequence[str]) -> CrossvalScore:
    confusion = np.sum([score.confusion for score in scores], axis=0)
    actual = confusion.sum(axis=1)
    levels = sorted({level for score in scores for level in score.per_level})
    return CrossvalScore(
        accuracy=spread([score.accuracy for score in scores]),
        macro_f1=spread([score.macro_f1 for score in scores]),
        per_class={classes[c]: float(confusion[c, c] / actual[c]) for c in np.flatnonzero(actual).tolist()},
        per_level={
            level: spread([score.per_level[level] for score in scores if level in score.per_level]) for level in levels
        },
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        labels=label_score(confusion, classes),
    )


def scores_csv(manifest: CrossvalManifest) -> bytes:
    """The figures, one a line: protocol, measure, of what (all, a fold, level or expression), value, deviation."""
    return csv_table([("protocol", "measure", "of", "value", "deviation"), *_rows(manifest)])


def _rows(manifest: CrossvalManifest) -> Iterator[tuple[object, ...]]:
    for name, score in manifest.scores.items():
        for measure in ("accuracy", "macro_f1"):
            over: MeanStd = getattr(score, measure)
            yield name, measure, "all", over.mean, over.deviation
            for fold in manifest.folds:
                figures: Mapping[str, float] = getattr(fold, measure)
                yield name, measure, fold.split, figures[name], ""
        if score.labels is not None:
            yield name, "macro_uf1", "all", score.labels.macro_uf1, ""
            yield name, "uar", "all", score.labels.uar, ""
            for expression, f1 in score.labels.f1.items():
                yield name, "label_f1", expression, f1, ""
        for level, over in score.per_level.items():
            yield name, "accuracy", f"level {level}", over.mean, over.deviation
        for expression, recall in score.per_class.items():
            yield name, "recall", expression, recall, ""
