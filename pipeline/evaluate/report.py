"""The tables of a report, each from the manifest to HTML; all text from outside is escaped.

The report of an evaluation: one HTML page that holds everything it shows.

Goes in: the manifest, figures, and facts of the run. Comes out: HTML.

The page of an evaluation: its figures, the facts of the run, and some of the faces, put together as one report.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.data.temporal import describe_temporal
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.reports.formatting import heading_of, percent, span, title_of
from smile_pipe.pipeline.reports.html import (
    facts_table,
    picture,
    plots_section,
    share,
    supervision_note,
    table,
    whole_page,
)
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, RetrievalScore
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.formatting import describe_samples, pluralize


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


_ABOUT = {
    "zero-shot": "No classifier: a face is given the expression whose prompts lie nearest to it in the joint space.",
    "classifier": "The classifier that was trained with the embeddings, on labels: the nearest of its learned anchors.",
    "knn": "A vote of the most similar faces of other subjects, by cosine.",
    "probe": "Logistic regression on the frozen embeddings, fitted on other subjects.",
    "finetune": "A copy of the model that was trained further, end to end, on the labels of other subjects.",
}


def render_report(
    manifest: EvaluationManifest,
    figures: Mapping[str, bytes],
    contact_sheet: bytes | None,
    run_facts: Mapping[str, str],
) -> str:
    """The page.

    Args:
        manifest: the scores.
        figures: SVG, PNG or JPEG by caption, in the order that they are shown in.
        contact_sheet: an image of some of the faces (SVG, PNG or JPEG), if there is one.
        run_facts: what else is worth knowing of the run and its data, by name.
    """
    headline = _headline(manifest)
    sections = [
        f'<p class="kicker">{escape(manifest.recipe)} &middot; evaluation</p>\n<h1>{escape(headline)}</h1>',
        f"<p>{escape(_conditions(manifest))}</p>",
        f'<p class="note">{supervision_note(manifest.recipe, manifest.text_source)}</p>',
        *(f'<p class="note">{escape(note[:1].upper() + note[1:])}.</p>' for note in manifest.notes),
        f'<div class="cards">{"".join(_cards(manifest))}</div>',
        f"<h2>Scores by expression and by intensity</h2>\n{scores_table(manifest)}",
        *_parts(manifest),
    ]
    if figures:
        sections.append(plots_section(figures))
    if contact_sheet is not None:
        sections.append(f"<h2>Faces</h2>\n{picture('sheet', 'Some of the faces that were scored', contact_sheet)}")
    sections.append(f"<h2>Facts</h2>\n{_facts(manifest, run_facts)}")
    return whole_page(f"{manifest.recipe}: evaluation", sections)


def _headline(manifest: EvaluationManifest) -> str:
    faces = describe_samples(manifest.num_scans, manifest.num_sequences)
    whose = f"{faces} of {pluralize(manifest.num_subjects, 'subject')}"
    unseen = "" if manifest.split == "all" and not manifest.fitted_on else " that training never saw"
    ways = [title_of(name) for name in manifest.protocols]
    listed = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} and {ways[-1]}"
    return f"{manifest.recipe} naming {pluralize(len(manifest.classes), 'expression')} on {whose}{unseen}, by {listed}"


def _conditions(manifest: EvaluationManifest) -> str:
    if manifest.fitted_on:
        scope = (
            "These are samples of another dataset than the one that the model learned from and that classifiers were "
            "fitted on: all of them were scored."
        )
    elif manifest.split == "all":
        scope = (
            "All samples of these shards were scored, whether or not the model was trained on their subjects; "
            "classifiers were fitted in folds, each on other subjects than it was scored on."
        )
    else:
        scope = (
            f"The subjects are the test side of the split {manifest.split}: neither the model nor a classifier has "
            "seen any of them."
        )
    guessing = f"guessing would be right for about {percent(1 / len(manifest.classes))}"
    if manifest.where is not None:
        scope += f" Only samples for which this holds were fitted on and scored: {manifest.where}."
    return " ".join([scope, *_seen(manifest), f"The figures are accuracies; {guessing}.", _ends(manifest)])


def _ends(manifest: EvaluationManifest) -> str:
    if manifest.num_subjects < 2:
        return "With one subject there is no telling how much they would differ from person to person."
    return (
        "In brackets, in percent, are 95\u00a0% intervals: where a figure would lie if other subjects had been scored, "
        "by bootstrap over subjects."
    )


def _seen(manifest: EvaluationManifest) -> Iterable[str]:
    if manifest.num_sequences:
        frames = f" ({pluralize(manifest.num_frames, 'frame')} in all)" if manifest.num_frames else ""
        yield f"What was read: {describe_temporal(manifest.temporal, manifest.max_frames)}{frames}."


def _cards(manifest: EvaluationManifest) -> Iterable[str]:
    for name, score in manifest.protocols.items():
        ends = score.macro_f1_interval and f' <span class="ends">{span(score.macro_f1_interval)}</span>'
        yield (
            f'<section class="card"><h3>{escape(heading_of(name))}</h3>'
            f'<p class="figure">{percent(score.accuracy)} <small>{span(score.accuracy_interval)}</small></p>'
            f"<p>accuracy &middot; macro F1 {percent(score.macro_f1)}{ends or ''}</p>"
            f"<p>{_ABOUT.get(name, '')}</p></section>"
        )


def _parts(manifest: EvaluationManifest) -> Iterable[str]:
    """What not every evaluation has."""
    if labels := labels_table(manifest):
        yield (
            "<h2>Several expressions at once</h2>\n<p>Some samples show more than one expression. Here each expression "
            "is a question of its own: a protocol says yes to those that the class it chose is made of. Macro UF1 and "
            f"UAR are the means of F1 and recall over expressions.</p>\n{labels}"
        )
    if views := views_table(manifest):
        title = heading_of(str(manifest.view_protocol))
        yield (
            f"<h2>Accuracy by views</h2>\n<p>{escape(title)} from parts of the rig: the views that are marked were "
            f"fused as if there were no others.</p>\n{views}"
        )
    if (found := manifest.retrieval) is not None:
        num_faces = manifest.num_scans + manifest.num_sequences
        yield (
            "<h2>Faces by text, and text by faces</h2>\n<p>Each of "
            f"{pluralize(found.faces_of_text.num_prompts, 'prompt')} asks for the faces of its expression among the "
            f"{num_faces:,} that were scored, and each face asks for its expression&rsquo;s prompts among the "
            f"bank&rsquo;s {found.text_of_faces.num_prompts:,}. Recall at k is the share of those who ask that find a "
            "right answer among the first k; precision at k is the share of right ones among these.</p>\n"
            f"{retrieval_tables(found)}"
        )


def _facts(manifest: EvaluationManifest, run_facts: Mapping[str, str]) -> str:
    # What the manifest knows comes last, so that no fact of the caller's takes its place.
    facts = {
        **run_facts,
        "scored split": manifest.split,
        "text source": manifest.text_source,
        "scored": describe_samples(manifest.num_scans, manifest.num_sequences),
        "read of sequences": describe_temporal(manifest.temporal, manifest.max_frames),
        "expressions": ", ".join(word_for(c) for c in manifest.classes),
        "beside this page": "scores.csv, predictions.csv, manifest.json",
        "run fingerprint": manifest.run_fingerprint,
        "shards fingerprint": manifest.shards_fingerprint,
        "evaluation fingerprint": manifest.fingerprint,
    }
    return facts_table(facts)


def evaluation_page(
    manifest: EvaluationManifest,
    run: RunManifest,
    metrics: Sequence[Mapping[str, Any]],
    x: NDArray[np.float32],
    y: NDArray[np.int64],
    contact_sheet: bytes,
) -> str:
    """Self-contained HTML; `x` [N, D] and `y` [N] are the scored samples' embeddings and classes."""
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


def _figures(
    manifest: EvaluationManifest, metrics: Sequence[Mapping[str, Any]], x: NDArray[np.float32], y: NDArray[np.int64]
) -> dict[str, bytes]:
    scores, classes = manifest.protocols, manifest.classes
    drawn: dict[str, bytes | None] = {
        f"Confusion, {name}": plots.confusion_matrix(value, classes) for name, value in scores.items()
    }
    drawn |= {
        "Recall of each expression": plots.class_recall(scores, classes),
        "Accuracy by intensity": plots.level_accuracy(scores),
        "How sure, and how often right": plots.reliability(scores),
        "Embeddings of the scored samples": plots.embedding_map(x, y, classes),
        "Training": plots.training_curves(metrics),
    }
    return {title: figure for title, figure in drawn.items() if figure is not None}
