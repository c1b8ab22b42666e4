"""The tables of a report, each from the manifest to HTML; all text from outside is escaped."""

from collections.abc import Mapping

from pipeline.evaluation.manifest import EvaluationManifest, RetrievalScore
from pipeline.evaluation.markup import share, table
from pipeline.evaluation.words import heading_of, percent
from pipeline.expressions import word_for


def scores_table(manifest: EvaluationManifest) -> str:
    """Accuracy, macro-F1 and calibration error of each protocol, recall by expression, accuracy by level."""
    scores = manifest.protocols.values()
    levels = sorted({level for score in scores for level in score.per_level}, key=lambda level: (len(level), level))
    rows = [
        ("accuracy", [share(score.accuracy, score.accuracy_interval) for score in scores]),
        ("macro F1", [share(score.macro_f1, score.macro_f1_interval) for score in scores]),
        # Not tinted: here less is better.
        ("calibration error", [f"<td>{percent(score.calibration_error)}</td>" for score in scores]),
    ]
    rows += [(f"{word_for(c)}, recall", [share(score.per_class.get(c)) for score in scores]) for c in manifest.classes]
    rows += [(f"level {level}, accuracy", [share(score.per_level.get(level)) for score in scores]) for level in levels]
    return table(["", *map(heading_of, manifest.protocols)], rows)


def labels_table(manifest: EvaluationManifest) -> str:
    """Macro-UF1, UAR and F1 of single expressions; "" where no sample shows several."""
    found = {name: score.labels for name, score in manifest.protocols.items() if score.labels is not None}
    if not found:
        return ""
    names = dict.fromkeys(name for labels in found.values() for name in labels.f1)
    rows = [
        ("macro UF1", [share(labels.macro_uf1) for labels in found.values()]),
        ("UAR", [share(labels.uar) for labels in found.values()]),
        *((f"{word_for(name)}, F1", [share(labels.f1.get(name)) for labels in found.values()]) for name in names),
    ]
    return table(["", *map(heading_of, found)], rows)


def views_table(manifest: EvaluationManifest) -> str:
    """Scores on parts of the rig, with a mark for each view that is in one; "" where there is one view."""
    if len(manifest.view_scores) < 2:
        return ""
    views = dict.fromkeys(view for part in manifest.view_scores for view in part.views)
    rows = [
        (
            " + ".join(part.views) if len(part.views) < len(views) else "all views",
            [
                *(f'<td class="mark">{"&#9679;" if view in part.views else "&middot;"}</td>' for view in views),
                share(part.accuracy, part.accuracy_interval),
                share(part.macro_f1, part.macro_f1_interval),
            ],
        )
        for part in manifest.view_scores
    ]
    return table(["", *views, "accuracy", "macro F1"], rows)


def retrieval_tables(score: RetrievalScore) -> str:
    """Precision and recall both ways, and the average precision of each expression."""
    faces, text = score.faces_of_text, score.text_of_faces
    at = sorted({*faces.recall_at, *text.recall_at}, key=int)
    kinds: Mapping[str, Mapping[str, float]] = {
        "faces of a text, precision": faces.precision_at,
        "faces of a text, recall": faces.recall_at,
        "text of a face, recall": text.recall_at,
    }
    first = table(
        ["", *(f"at {k}" for k in at)],
        [(name, [share(values.get(k)) for k in at]) for name, values in kinds.items()],
    )
    averages = [*faces.average_precision.values(), faces.mean_average_precision]
    second = table(
        ["", *map(word_for, faces.average_precision), "mean"], [("average precision", [share(a) for a in averages])]
    )
    return f"{first}\n{second}"
