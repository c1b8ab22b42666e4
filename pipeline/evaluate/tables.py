"""The CSV tables next to the report: every score and every prediction of an evaluation.

    scores.csv        protocol, measure, class, level, views, value, low, high
    predictions.csv   key, subject, level, truth; for each protocol the predicted class and its probability

Numbers are those of the manifest, to the last digit.
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
    """One score, of all samples, of a class or of a level, from all views or some.

    Attributes:
        protocol: name of the protocol, or the direction of retrieval.
        metric: name of the metric.
        value: its value.
        of_class, level, views: what the score is restricted to, "" without a restriction.
        interval: its 95 % interval, if it has one.
    """

    protocol: str
    metric: str
    value: float
    of_class: str = ""
    level: str = ""
    views: str = ""
    interval: Interval | None = None


def scores_csv(manifest: EvaluationManifest) -> bytes:
    """The table `scores.csv`, one score per row."""
    rows = [row for name, score in manifest.protocols.items() for row in _protocol_rows(name, score)]
    for part in manifest.view_scores:
        common = {"protocol": str(manifest.view_protocol), "views": "+".join(part.views)}
        rows.append(ScoreRow(metric="accuracy", value=part.accuracy, interval=part.accuracy_interval, **common))
        rows.append(ScoreRow(metric="macro_f1", value=part.macro_f1, interval=part.macro_f1_interval, **common))
    if manifest.retrieval is not None:
        rows += _retrieval_rows(manifest.retrieval)
    head = ("protocol", "measure", "class", "level", "views", "value", "low", "high")
    cells = (
        (row.protocol, row.metric, row.of_class, row.level, row.views, row.value, *(row.interval or ("", "")))
        for row in rows
    )
    return csv_table([head, *cells])


def predictions_csv(
    rows: Sequence[IndexRow], classes: Sequence[str], probabilities: Mapping[Protocol, Probabilities]
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


def _protocol_rows(name: str, score: ProtocolScore) -> Iterable[ScoreRow]:
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


def _retrieval_rows(score: RetrievalScore) -> Iterable[ScoreRow]:
    faces, text = score.faces_of_text, score.text_of_faces
    yield ScoreRow("faces of text", "mean_average_precision", faces.mean_average_precision)
    yield from (
        ScoreRow("faces of text", "average_precision", v, of_class=c) for c, v in faces.average_precision.items()
    )
    yield from (ScoreRow("faces of text", f"precision_at_{k}", value) for k, value in faces.precision_at.items())
    yield from (ScoreRow("faces of text", f"recall_at_{k}", value) for k, value in faces.recall_at.items())
    yield from (ScoreRow("text of faces", f"recall_at_{k}", value) for k, value in text.recall_at.items())
