"""The HTML report of an evaluation: scores, tables, figures and facts on one self-contained page.

Text from outside, such as names of expressions and conditions, is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.data.temporal import describe_temporal
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.reports.formatting import (
    format_interval,
    format_percent,
    protocol_heading,
    protocol_title,
)
from smile_pipe.pipeline.reports.html import (
    facts_table,
    figure_html,
    html_page,
    plots_section,
    share_cell,
    supervision_note,
    table,
)
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, RetrievalScore
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.formatting import describe_samples, pluralize

_PROTOCOL_NOTES = {
    "zero-shot": "No classifier: a face gets the expression whose prompts are nearest to it in the joint space.",
    "classifier": "The classifier that was trained with the model on labels: the nearest of its learned anchors.",
    "knn": "A vote of the most similar faces of other subjects, by cosine.",
    "probe": "Logistic regression on the frozen embeddings, fitted on other subjects.",
    "finetune": "A copy of the model, trained further end to end on the labels of other subjects.",
}


def evaluation_page(
    manifest: EvaluationManifest,
    run: RunManifest,
    metrics: Sequence[Mapping[str, Any]],
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    contact_sheet: bytes,
) -> str:
    """Return the report of an evaluation.

    Args:
        manifest: the scores.
        run: manifest of the evaluated run.
        metrics: rows of the training metrics.
        x: fused embeddings of the scored samples, [N, D].
        y: their class indices, [N].
        contact_sheet: PNG of some of the scored faces.
    """
    facts = {
        "recipe": manifest.recipe,
        "image tower": f"{run.recipe['arch']} on {run.channel} images",
        "views": ", ".join(run.views),
        "trained on": run.training_data_summary(),
        "steps": f"{run.num_steps}, workers: {run.world_size}",
        "split": run.split,
        "prompts": f"from {run.text_source}",
        "checkpoint": run.checkpoint,
        "run fingerprint": manifest.run_fingerprint,
        "shards fingerprint": manifest.shards_fingerprint,
    }
    return render_report(manifest, _figures(manifest, metrics, x, y), contact_sheet, facts)


def render_report(
    manifest: EvaluationManifest,
    figures: Mapping[str, bytes],
    contact_sheet: bytes | None,
    run_facts: Mapping[str, str],
) -> str:
    """Return the page with given figures and facts.

    Args:
        manifest: the scores.
        figures: SVG, PNG or JPEG by caption, in order.
        contact_sheet: image of some of the scored faces (SVG, PNG or JPEG), if there is one.
        run_facts: facts on the run and its data, by name.
    """
    headline = _headline(manifest)
    sections = [
        f'<p class="kicker">{escape(manifest.recipe)} &middot; evaluation</p>\n<h1>{escape(headline)}</h1>',
        f"<p>{escape(_conditions(manifest))}</p>",
        f'<p class="note">{supervision_note(manifest.recipe, manifest.text_source)}</p>',
        *(f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>' for note in manifest.notes),
        f'<div class="cards">{"".join(_cards(manifest))}</div>',
        f"<h2>Scores by expression and by intensity</h2>\n{_scores_table(manifest)}",
        *_optional_sections(manifest),
    ]
    if figures:
        sections.append(plots_section(figures))
    if contact_sheet is not None:
        sections.append(f"<h2>Faces</h2>\n{figure_html('sheet', 'Some of the scored faces', contact_sheet)}")
    sections.append(f"<h2>Facts</h2>\n{_facts(manifest, run_facts)}")
    return html_page(f"{manifest.recipe}: evaluation", sections)


def _headline(manifest: EvaluationManifest) -> str:
    samples = describe_samples(manifest.num_scans, manifest.num_sequences)
    scored = f"{samples} of {pluralize(manifest.num_subjects, 'subject')}"
    unseen = "" if manifest.split == "all" and not manifest.fitted_on else " that training never saw"
    titles = [protocol_title(name) for name in manifest.protocols]
    listed = titles[0] if len(titles) == 1 else f"{', '.join(titles[:-1])} and {titles[-1]}"
    classes = pluralize(len(manifest.classes), "expression")
    return f"{manifest.recipe}: {classes}, {scored}{unseen}, by {listed}"


def _conditions(manifest: EvaluationManifest) -> str:
    if manifest.fitted_on:
        scope = (
            "Cross-dataset evaluation: the model was trained, and classifiers were fitted, on another dataset; all "
            "samples of this one were scored."
        )
    elif manifest.split == "all":
        scope = (
            "All samples of these shards were scored, whether or not the model was trained on their subjects; "
            "classifiers were fitted in folds, each on other subjects than it was scored on."
        )
    else:
        scope = (
            f"The scored subjects are the test subjects of the split {manifest.split}: neither the model nor a "
            "classifier has seen any of them."
        )
    if manifest.where is not None:
        scope += f" Only samples with this condition were fitted on and scored: {manifest.where}."
    chance = f"chance level is about {format_percent(1 / len(manifest.classes))}"
    sentences = [scope, *_temporal_read(manifest), f"Scores are accuracies; {chance}.", _intervals(manifest)]
    return " ".join(sentences)


def _temporal_read(manifest: EvaluationManifest) -> Iterable[str]:
    if manifest.num_sequences:
        frames = f" ({pluralize(manifest.num_frames, 'frame')} in all)" if manifest.num_frames else ""
        yield f"Input: {describe_temporal(manifest.temporal, manifest.max_frames)}{frames}."


def _intervals(manifest: EvaluationManifest) -> str:
    if manifest.num_subjects < 2:
        return "With one subject, the variation between subjects cannot be estimated."
    return "In brackets: 95\u00a0% intervals over subjects in percent, by bootstrap."


def _cards(manifest: EvaluationManifest) -> Iterable[str]:
    for name, score in manifest.protocols.items():
        ends = score.macro_f1_interval and f' <span class="ends">{format_interval(score.macro_f1_interval)}</span>'
        accuracy, interval = format_percent(score.accuracy), format_interval(score.accuracy_interval)
        yield (
            f'<section class="card"><h3>{escape(protocol_heading(name))}</h3>'
            f'<p class="figure">{accuracy} <small>{interval}</small></p>'
            f"<p>accuracy &middot; macro F1 {format_percent(score.macro_f1)}{ends or ''}</p>"
            f"<p>{_PROTOCOL_NOTES.get(name, '')}</p></section>"
        )


def _scores_table(manifest: EvaluationManifest) -> str:
    scores = manifest.protocols.values()
    levels = sorted({level for score in scores for level in score.per_level}, key=lambda level: (len(level), level))
    rows = [
        ("accuracy", [share_cell(score.accuracy, score.accuracy_interval) for score in scores]),
        ("macro F1", [share_cell(score.macro_f1, score.macro_f1_interval) for score in scores]),
        # Without a tint, since lower is better.
        ("calibration error", [f"<td>{format_percent(score.calibration_error)}</td>" for score in scores]),
    ]
    rows += [
        (f"{word_for(c)}, recall", [share_cell(score.per_class.get(c)) for score in scores]) for c in manifest.classes
    ]
    rows += [
        (f"level {level}, accuracy", [share_cell(score.per_level.get(level)) for score in scores]) for level in levels
    ]
    return table(["", *map(protocol_heading, manifest.protocols)], rows)


def _optional_sections(manifest: EvaluationManifest) -> Iterable[str]:
    if labels := _labels_table(manifest):
        yield (
            "<h2>Several expressions at once</h2>\n<p>Some samples show more than one expression. Here each expression "
            "is a binary label: a protocol predicts the expressions that its predicted class consists of. Macro UF1 "
            f"and UAR are the means of F1 and recall over expressions.</p>\n{labels}"
        )
    if views := _views_table(manifest):
        title = protocol_heading(str(manifest.view_protocol))
        yield (
            f"<h2>Accuracy by views</h2>\n<p>{escape(title)} from subsets of the views: only the marked views were "
            f"fused.</p>\n{views}"
        )
    if (retrieval := manifest.retrieval) is not None:
        num_faces = manifest.num_scans + manifest.num_sequences
        num_prompts = pluralize(retrieval.faces_of_text.num_prompts, "prompt")
        yield (
            f"<h2>Retrieval</h2>\n<p>Text to face: each of {num_prompts} is a query for the faces of its expression "
            f"among the {num_faces:,} scored ones. Face to text: each face is a query for the prompts of its "
            f"expression among all {retrieval.text_of_faces.num_prompts:,} prompts. Recall at k is the share of "
            "queries with a correct answer among the first k; precision at k is the share of correct answers among "
            f"the first k.</p>\n{_retrieval_tables(retrieval)}"
        )


def _labels_table(manifest: EvaluationManifest) -> str:
    """Macro-UF1, UAR and F1 of single expressions; "" where no sample shows several."""
    by_protocol = {name: score.labels for name, score in manifest.protocols.items() if score.labels is not None}
    if not by_protocol:
        return ""
    scores = by_protocol.values()
    names = dict.fromkeys(name for labels in scores for name in labels.f1)
    rows = [
        ("macro UF1", [share_cell(labels.macro_uf1) for labels in scores]),
        ("UAR", [share_cell(labels.uar) for labels in scores]),
        *((f"{word_for(name)}, F1", [share_cell(labels.f1.get(name)) for labels in scores]) for name in names),
    ]
    return table(["", *map(protocol_heading, by_protocol)], rows)


def _views_table(manifest: EvaluationManifest) -> str:
    """Scores from subsets of the views, with a mark for each view in a subset; "" where there is one view."""
    if len(manifest.view_scores) < 2:
        return ""
    views = dict.fromkeys(view for part in manifest.view_scores for view in part.views)
    rows = [
        (
            " + ".join(part.views) if len(part.views) < len(views) else "all views",
            [
                *(f'<td class="mark">{"&#9679;" if view in part.views else "&middot;"}</td>' for view in views),
                share_cell(part.accuracy, part.accuracy_interval),
                share_cell(part.macro_f1, part.macro_f1_interval),
            ],
        )
        for part in manifest.view_scores
    ]
    return table(["", *views, "accuracy", "macro F1"], rows)


def _retrieval_tables(score: RetrievalScore) -> str:
    """Precision and recall in both directions, and the average precision of each expression."""
    faces, text = score.faces_of_text, score.text_of_faces
    ks = sorted({*faces.recall_at, *text.recall_at}, key=int)
    metrics: Mapping[str, Mapping[str, float]] = {
        "text to face, precision": faces.precision_at,
        "text to face, recall": faces.recall_at,
        "face to text, recall": text.recall_at,
    }
    at_k = table(
        ["", *(f"at {k}" for k in ks)],
        [(name, [share_cell(values.get(k)) for k in ks]) for name, values in metrics.items()],
    )
    averages = [*faces.average_precision.values(), faces.mean_average_precision]
    average_precision = table(
        ["", *map(word_for, faces.average_precision), "mean"],
        [("average precision", [share_cell(average) for average in averages])],
    )
    return f"{at_k}\n{average_precision}"


def _facts(manifest: EvaluationManifest, run_facts: Mapping[str, str]) -> str:
    # Facts of the manifest come last, so that no fact of the caller replaces them.
    facts = {
        **run_facts,
        "scored split": manifest.split,
        "text source": manifest.text_source,
        "scored": describe_samples(manifest.num_scans, manifest.num_sequences),
        "read of sequences": describe_temporal(manifest.temporal, manifest.max_frames),
        "expressions": ", ".join(word_for(c) for c in manifest.classes),
        "other files": "scores.csv, predictions.csv, manifest.json",
        "run fingerprint": manifest.run_fingerprint,
        "shards fingerprint": manifest.shards_fingerprint,
        "evaluation fingerprint": manifest.fingerprint,
    }
    return facts_table(facts)


def _figures(
    manifest: EvaluationManifest, metrics: Sequence[Mapping[str, Any]], x: NDArray[np.float32], y: NDArray[np.int64]
) -> dict[str, bytes]:
    scores, classes = manifest.protocols, manifest.classes
    figures: dict[str, bytes | None] = {
        f"Confusion, {name}": plots.confusion_matrix(score, classes) for name, score in scores.items()
    }
    figures |= {
        "Recall of each expression": plots.class_recall(scores, classes),
        "Accuracy by intensity": plots.level_accuracy(scores),
        "Calibration": plots.reliability(scores),
        "Embeddings of the scored samples": plots.embedding_map(x, y, classes),
        "Training": plots.training_curves(metrics),
    }
    return {title: figure for title, figure in figures.items() if figure is not None}
