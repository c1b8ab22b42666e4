"""The tables beside the report, as CSV: every score in a row of its own, and every prediction.

    scores.csv        protocol, measure, class, level, views, value, low, high
    predictions.csv   key, subject, level, truth; for each protocol what it named the sample, and how sure it was

Promised: the figures are those of the manifest, to the last digit; no cell is a formula to a spreadsheet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from smile_pipe.pipeline.classifiers.knn import Probabilities
from smile_pipe.pipeline.reports.csv_table import csv_table
from smile_pipe.pipeline.runs.evaluation_manifest import (
    EvaluationManifest,
    Interval,
    Protocol,
    ProtocolScore,
    RetrievalScore,
)
from smile_pipe.shards.index import IndexRow


@dataclass(frozen=True)
class ScoreRow:
    """One figure, with its interval if it has one: of all samples, of a class, of a level, or from some views."""

    protocol: str
    measure: str
    value: float
    of_class: str = ""
    level: str = ""
    views: str = ""
    interval: Interval | None = None


def scores_csv(manifest: EvaluationManifest) -> bytes:
    """`scores.csv`: a row a figure."""
    rows = [row for name, score in manifest.protocols.items() for row in _of_protocol(name, score)]
    for part in manifest.view_scores:
        about = {"protocol": str(manifest.view_protocol), "views": "+".join(part.views)}
        rows.append(ScoreRow(measure="accuracy", value=part.accuracy, interval=part.accuracy_interval, **about))
        rows.append(ScoreRow(measure="macro_f1", value=part.macro_f1, interval=part.macro_f1_interval, **about))
    if manifest.retrieval is not None:
        rows += _of_retrieval(manifest.retrieval)
    head = ("protocol", "measure", "class", "level", "views", "value", "low", "high")
    cells = (
        (row.protocol, row.measure, row.of_class, row.level, row.views, row.value, *(row.interval or ("", "")))
        for row in rows
    )
    return csv_table([head, *cells])


def predictions_csv(
    rows: Sequence[IndexRow], classes: Sequence[str], probabilities: Mapping[Protocol, Probabilities]
) -> bytes:
    """`predictions.csv`: a row a scored sample; `probabilities` [N, K] by protocol, in the order of `classes`."""
    head = ["key", "subject", "level", "truth", *(c for name in probabilities for c in (name, f"{name} probability"))]
    named = {name: (found.argmax(axis=1), found.max(axis=1)) for name, found in probabilities.items()}
    body = (
        [
            row.key,
            row.subject,
            "" if row.level is None else row.level,
            row.expression,
            *(cell for predicted, sure in named.values() for cell in (classes[predicted[n]], float(sure[n]))),
        ]
        for n, row in enumerate(rows)
    )
    return csv_table([head, *body])


def _of_protocol(name: str, score: ProtocolScore) -> Iterable[ScoreRow]:
    yield ScoreRow(name, "accuracy", score.accuracy, interval=score.accuracy_interval)
    yield ScoreRow(name, "macro_f1", score.macro_f1, interval=score.macro_f1_interval)
    yield ScoreRow(name, "calibration_error", score.calibration_error)
    yield from (ScoreRow(name, "recall", value, of_class=c) for c, value in score.per_class.items())
    yield from (ScoreRow(name, "accuracy", value, level=level) for level, value in score.per_level.items())
    if score.labels is not None:
        yield ScoreRow(name, "macro_uf1", score.labels.macro_uf1)
        yield ScoreRow(name, "uar", score.labels.uar)
        yield from (ScoreRow(name, "label_f1", value, of_class=c) for c, value in score.labels.f1.items())
        yield from (ScoreRow(name, "label_recall", value, of_class=c) for c, value in score.labels.recall.items())


def _of_retrieval(score: RetrievalScore) -> Iterable[ScoreRow]:
    faces, text = score.faces_of_text, score.text_of_faces
    yield ScoreRow("faces of text", "mean_average_precision", faces.mean_average_precision)
    yield from (
        ScoreRow("faces of text", "average_precision", v, of_class=c) for c, v in faces.average_precision.items()
    )
    yield from (ScoreRow("faces of text", f"precision_at_{k}", value) for k, value in faces.precision_at.items())
    yield from (ScoreRow("faces of text", f"recall_at_{k}", value) for k, value in faces.recall_at.items())
    yield from (ScoreRow("text of faces", f"recall_at_{k}", value) for k, value in text.recall_at.items())
