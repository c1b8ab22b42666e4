"""The report of an evaluation: one HTML page that holds everything it shows.

Goes in: the manifest, figures, and facts of the run. Comes out: HTML.
"""

from collections.abc import Iterable, Mapping
from html import escape

from pipeline.evaluation.manifest import EvaluationManifest
from pipeline.evaluation.markup import facts_table, picture, plots_section, supervision_note, whole_page
from pipeline.evaluation.report_tables import labels_table, retrieval_tables, scores_table, views_table
from pipeline.evaluation.words import heading_of, percent, span, title_of
from pipeline.expressions import word_for
from pipeline.training.sequences import in_words
from shards.words import counted, samples_in_words

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
    faces = samples_in_words(manifest.num_scans, manifest.num_sequences)
    whose = f"{faces} of {counted(manifest.num_subjects, 'subject')}"
    unseen = "" if manifest.split == "all" and not manifest.fitted_on else " that training never saw"
    ways = [title_of(name) for name in manifest.protocols]
    listed = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])} and {ways[-1]}"
    return f"{manifest.recipe} naming {counted(len(manifest.classes), 'expression')} on {whose}{unseen}, by {listed}"


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
        frames = f" ({counted(manifest.num_frames, 'frame')} in all)" if manifest.num_frames else ""
        yield f"What was read: {in_words(manifest.temporal, manifest.max_frames)}{frames}."


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
            f"{counted(found.faces_of_text.num_prompts, 'prompt')} asks for the faces of its expression among the "
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
        "scored": samples_in_words(manifest.num_scans, manifest.num_sequences),
        "read of sequences": in_words(manifest.temporal, manifest.max_frames),
        "expressions": ", ".join(word_for(c) for c in manifest.classes),
        "beside this page": "scores.csv, predictions.csv, manifest.json",
        "run fingerprint": manifest.run_fingerprint,
        "shards fingerprint": manifest.shards_fingerprint,
        "evaluation fingerprint": manifest.fingerprint,
    }
    return facts_table(facts)
