"""The CSV tables next to the report: every score and every prediction of an evaluation.

    scores.csv        protocol, measure, class, level, views (empty: all of several), value, low, high
    predictions.csv   key, subject, level, truth; for each protocol the predicted class and its probability

Numbers are those of the manifest, to the last digit.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from smile_pipe.pipeline.classifiers.knn import Probabilities
from smile_pipe.pipeline.reports.csv_table import csv_table
from smile_pipe.pipeline.runs.evaluation_manifest import (
    EvaluationManifest,
    Interval,
    Protocol,
    ProtocolScore,
    RetrievalScore,
)
from smile_pipe.pipeline.runs.question_scores import QuestionScore
from smile_pipe.shards.index import SampleRow

Row = tuple[object, ...]


def scores_csv(manifest: EvaluationManifest) -> bytes:
    """The table `scores.csv`, one score per row."""
    view = manifest.views[0] if len(manifest.views) == 1 else ""
    rows = [row for name, score in manifest.protocols.items() for row in _protocol_rows(name, score, view)]
    # Of a single view, there is no other subset.
    for part in () if view else manifest.view_scores:
        name, views = str(manifest.view_protocol), "+".join(part.views)
        rows.append(_row(name, "accuracy", part.accuracy, part.accuracy_interval, views=views))
        rows.append(_row(name, "macro_f1", part.macro_f1, part.macro_f1_interval, views=views))
    if manifest.retrieval is not None:
        rows += _retrieval_rows(manifest.retrieval)
    for name, answered in manifest.questions.items():
        rows += _question_rows(name, answered)
    return csv_table([("protocol", "measure", "class", "level", "views", "value", "low", "high"), *rows])


def predictions_csv(
    rows: Sequence[SampleRow], classes: Sequence[str], probabilities: Mapping[Protocol, Probabilities]
) -> bytes:
    """The table `predictions.csv`, one scored sample per row.

    Args:
        rows: the scored samples, [N].
        classes: expression codes, [K].
        probabilities: class probabilities by protocol, each [N, K].
    """
    head = ["key", "subject", "level", "truth", *(c for name in probabilities for c in (name, f"{name} probability"))]
    best = {name: (values.argmax(axis=1), values.max(axis=1)) for name, values in probabilities.items()}
    body = (
        [
            row.key,
            row.subject,
            "" if row.level is None else row.level,
            row.expression,
            *(cell for predicted, highest in best.values() for cell in (classes[predicted[n]], float(highest[n]))),
        ]
        for n, row in enumerate(rows)
    )
    return csv_table([head, *body])


def _row(
    protocol: str,
    measure: str,
    value: float,
    interval: Interval | None = None,
    *,
    of_class: str = "",
    level: str = "",
    views: str = "",
) -> Row:
    """One score, of all samples, of a class or of a level, from all views or some."""
    return (protocol, measure, of_class, level, views, value, *(interval or ("", "")))


def _protocol_rows(name: str, score: ProtocolScore, views: str) -> Iterator[Row]:
    row = partial(_row, name, views=views)
    yield row("accuracy", score.accuracy, score.accuracy_interval)
    yield row("macro_f1", score.macro_f1, score.macro_f1_interval)
    yield _row(name, "calibration_error", score.calibration_error)
    yield from (row("recall", value, of_class=c) for c, value in score.per_class.items())
    yield from (row("accuracy", value, level=level) for level, value in score.per_level.items())
    if score.labels is not None:
        yield row("macro_uf1", score.labels.macro_uf1)
        yield row("uar", score.labels.uar)
        yield from (row("label_f1", value, of_class=c) for c, value in score.labels.f1.items())
        yield from (row("label_recall", value, of_class=c) for c, value in score.labels.recall.items())


def _question_rows(name: str, score: QuestionScore) -> Iterator[Row]:
    """The measure of a row names the group and the part of the questions: "class: change"."""
    for part in score.parts:
        measure = f"{part.group}: {part.name}"
        yield _row(name, measure, part.accuracy, part.interval)
        yield _row(name, f"{measure}, chance", part.chance)
        if part.baseline is not None:
            yield _row(name, f"{measure}, {score.baseline}", part.baseline)


def _retrieval_rows(score: RetrievalScore) -> Iterator[Row]:
    faces, text = score.faces_of_text, score.text_of_faces
    yield _row("faces of text", "mean_average_precision", faces.mean_average_precision)
    yield from (_row("faces of text", "average_precision", v, of_class=c) for c, v in faces.average_precision.items())
    yield from (_row("faces of text", f"precision_at_{k}", value) for k, value in faces.precision_at.items())
    yield from (_row("faces of text", f"recall_at_{k}", value) for k, value in faces.recall_at.items())
    yield from (_row("text of faces", f"recall_at_{k}", value) for k, value in text.recall_at.items())
