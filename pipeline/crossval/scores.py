"""Scores of all folds together: means and deviations over folds, and scores over the samples of all folds."""

from collections.abc import Iterator, Sequence

import numpy as np

from smile_pipe.pipeline.classifiers.metrics import label_score, subject_intervals
from smile_pipe.pipeline.reports.csv_table import csv_table
from smile_pipe.pipeline.runs.crossval_manifest import (
    CrossvalManifest,
    CrossvalScore,
    FoldScore,
    MeanStd,
    PooledScore,
    QuestionFolds,
)
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, Interval, ProtocolScore
from smile_pipe.pipeline.runs.predictions import PredictionTable
from smile_pipe.pipeline.runs.question_scores import QuestionPart
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


def aggregate_folds(
    evaluations: Sequence[EvaluationManifest], predictions: PredictionTable, seed: int
) -> dict[str, CrossvalScore]:
    """Aggregate the scores of all folds.

    Args:
        evaluations: evaluation of each fold.
        predictions: predictions of all folds.
        seed: random seed of the intervals.

    Returns:
        Scores by protocol; protocols that a fold lacks are left out.
    """
    names = [name for name in evaluations[0].protocols if all(name in each.protocols for each in evaluations)]
    classes = evaluations[0].classes
    return {
        name: _aggregate(
            [each.protocols[name] for each in evaluations], classes, _pooled_intervals(predictions, name, seed)
        )
        for name in names
    }


def aggregate_questions(evaluations: Sequence[EvaluationManifest]) -> dict[str, tuple[QuestionFolds, ...]]:
    """Collect the answers of all folds to each question; parts and questions that a fold lacks are left out."""
    found = {}
    for question in evaluations[0].questions:
        if all(question in each.questions for each in evaluations):
            folds = [
                {(part.group, _name_in_all_folds(part)): part for part in each.questions[question].parts}
                for each in evaluations
            ]
            found[question] = tuple(
                _question_folds(group, name, [parts[group, name] for parts in folds])
                for group, name in folds[0]
                if all((group, name) in parts for parts in folds)
            )
    return found


def _name_in_all_folds(part: QuestionPart) -> str:
    """Return the name without numbers that differ between folds: "5 % of the subjects (4 of 80)"."""
    return part.name.partition(" (")[0]


def _question_folds(group: str, name: str, parts: Sequence[QuestionPart]) -> QuestionFolds:
    baselines = [part.baseline for part in parts if part.baseline is not None]
    return QuestionFolds(
        group=group,
        name=name,
        folds=tuple(part.accuracy for part in parts),
        chance=float(np.mean([part.chance for part in parts])),
        baseline=float(np.mean(baselines)) if len(baselines) == len(parts) else None,
    )


def scores_csv(manifest: CrossvalManifest) -> bytes:
    """The table `scores.csv`, one score per row.

    Columns: protocol, measure, of (all, a fold, a level, an expression or a kind of question), value, deviation (over
    folds), low, high (the interval over subjects), views (the view, where there is only one).
    """
    view = manifest.views[0] if len(manifest.views) == 1 else ""
    rows = ((*row, *("" for _ in range(7 - len(row))), view) for row in _csv_rows(manifest))
    return csv_table([("protocol", "measure", "of", "value", "deviation", "low", "high", "views"), *rows])


def _pooled_intervals(predictions: PredictionTable, protocol: str, seed: int) -> tuple[Interval, Interval] | None:
    """Return the intervals of accuracy and macro-F1 over the subjects of all folds."""
    named = np.concatenate([predictions.truth, predictions.predicted[protocol]])
    classes, numbers = np.unique(named, return_inverse=True)
    truth, predicted = np.split(numbers, 2)
    return subject_intervals(truth, predicted, predictions.subjects.tolist(), len(classes), seed)


def _aggregate(
    scores: Sequence[ProtocolScore], classes: Sequence[str], intervals: tuple[Interval, Interval] | None
) -> CrossvalScore:
    confusion = np.sum([score.confusion for score in scores], axis=0)
    num_actual = confusion.sum(axis=1)
    levels = sorted({level for score in scores for level in score.per_level})
    return CrossvalScore(
        accuracy=MeanStd.of([score.accuracy for score in scores]),
        pooled=PooledScore.of(confusion.tolist(), intervals),
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
        pooled = score.pooled
        yield name, "accuracy", "all", score.accuracy.mean, score.accuracy.deviation
        yield name, "pooled_accuracy", "all", pooled.accuracy, "", *(pooled.accuracy_interval or ())
        yield name, "macro_f1", "all", pooled.macro_f1, "", *(pooled.macro_f1_interval or ())
        for fold in manifest.folds:
            yield name, "accuracy", fold.split, fold.accuracy[name]
            yield name, "macro_f1", fold.split, fold.macro_f1[name]
        if score.labels is not None:
            yield name, "macro_uf1", "all", score.labels.macro_uf1
            yield name, "uar", "all", score.labels.uar
            for expression, f1 in score.labels.f1.items():
                yield name, "label_f1", expression, f1
        for level, over_folds in score.per_level.items():
            yield name, "accuracy", f"level {level}", over_folds.mean, over_folds.deviation
        for expression, recall in score.per_class.items():
            yield name, "recall", expression, recall
    for question, parts in manifest.questions.items():
        for part in parts:
            of, accuracy = f"{part.group}: {part.name}", part.accuracy
            yield question, "accuracy", of, accuracy.mean, accuracy.deviation
            yield question, "chance", of, part.chance
            if part.baseline is not None:
                yield question, "baseline", of, part.baseline
