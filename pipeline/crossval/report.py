"""The HTML page of a cross-validation: means over folds, scores of each fold, confusion matrices."""

from collections.abc import Iterable
from html import escape

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.reports.formatting import format_percent, protocol_heading
from smile_pipe.pipeline.reports.html import (
    Cell,
    facts_table,
    html_page,
    plots_section,
    share_cell,
    supervision_note,
    table,
)
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, CrossvalScore, MeanStd
from smile_pipe.shards.formatting import pluralize


def crossval_page(manifest: CrossvalManifest) -> str:
    """Return the page as self-contained HTML."""
    system = manifest.system
    num_subjects = sum(len(fold.subjects) for fold in manifest.folds)
    num_samples = sum(fold.num_samples for fold in manifest.folds)
    headline = (
        f"{system}: {pluralize(len(manifest.classes), 'expression')}, {pluralize(num_samples, 'sample')} of "
        f"{pluralize(num_subjects, 'subject')}, in {pluralize(len(manifest.folds), 'fold')}"
    )
    figures = {"Accuracy of the folds": plots.fold_accuracy(_fold_accuracies(manifest))} | {
        f"Confusion, {name}": plots.confusion_matrix(score, manifest.classes)
        for name, score in _ordered_scores(manifest).items()
    }
    return html_page(
        f"{system}: cross-validation",
        [
            f'<p class="kicker">{escape(system)} &middot; cross-validation</p>\n<h1>{escape(headline)}</h1>',
            f"<p>{escape(_conditions(manifest))}</p>",
            f'<p class="note">{supervision_note(manifest.recipe, manifest.text_source)}</p>',
            f'<div class="cards">{"".join(_cards(manifest))}</div>',
            f"<h2>Scores by expression and by intensity</h2>\n{_scores_table(manifest)}",
            f"<h2>Folds</h2>\n{_folds_table(manifest)}",
            plots_section(figures),
            f"<h2>Facts</h2>\n{_facts(manifest)}",
        ],
    )


def _conditions(manifest: CrossvalManifest) -> str:
    subset = f", subset {manifest.subset}" if manifest.subset else ""
    where = f" Only samples with this condition count: {manifest.where}." if manifest.where else ""
    chance = f"Chance level is about {format_percent(1 / len(manifest.classes))}."
    if manifest.protocol == "across":
        return (
            "Cross-dataset evaluation: the model was trained on one dataset, and classifiers were fitted on it; every "
            f"sample of another dataset was scored.{where} {chance}"
        )
    return (
        f"Split protocol {manifest.protocol}{subset}: each subject is in one fold, and the model and classifiers that "
        f"score a fold were trained without its subjects.{where} Scores are the mean and the standard deviation over "
        "folds; recall, macro UF1 and UAR of expressions are computed over the samples of all folds. "
        f"{chance}"
    )


def _cards(manifest: CrossvalManifest) -> Iterable[str]:
    for name, score in _ordered_scores(manifest).items():
        accuracy, macro_f1 = score.accuracy, score.macro_f1
        yield (
            f'<section class="card"><h3>{escape(protocol_heading(name))}</h3>'
            f'<p class="figure">{format_percent(accuracy.mean)} <small>{_deviation(accuracy)}</small></p>'
            f"<p>accuracy &middot; macro F1 {format_percent(macro_f1.mean)} {_deviation(macro_f1)}</p></section>"
        )


def _scores_table(manifest: CrossvalManifest) -> str:
    scores = _ordered_scores(manifest).values()
    levels = sorted({level for score in scores for level in score.per_level}, key=lambda level: (len(level), level))
    labels = [score.labels for score in scores]
    rows = [
        ("accuracy", [_mean_std_cell(score.accuracy) for score in scores]),
        ("macro F1", [_mean_std_cell(score.macro_f1) for score in scores]),
        ("macro UF1", [share_cell(each.macro_uf1 if each else None) for each in labels]),
        ("UAR", [share_cell(each.uar if each else None) for each in labels]),
    ]
    rows += [
        (f"{word_for(c)}, recall", [share_cell(score.per_class.get(c)) for score in scores]) for c in manifest.classes
    ]
    rows += [
        (f"level {level}, accuracy", [_mean_std_cell(score.per_level.get(level)) for score in scores])
        for level in levels
    ]
    return table(["", *map(protocol_heading, manifest.ordered_protocols)], rows)


def _folds_table(manifest: CrossvalManifest) -> str:
    rows = [
        (
            fold.split,
            [
                f"<td>{len(fold.subjects)}</td>",
                f"<td>{fold.num_samples}</td>",
                *(share_cell(fold.accuracy[name]) for name in manifest.ordered_protocols),
            ],
        )
        for fold in manifest.folds
    ]
    return table(["", "subjects", "samples", *map(protocol_heading, manifest.ordered_protocols)], rows)


def _facts(manifest: CrossvalManifest) -> str:
    return facts_table(
        {
            "recipe": manifest.system,
            "image tower": f"{manifest.config['arch']} on {manifest.channel} images, in {manifest.precision}",
            "training": f"{pluralize(manifest.config['epochs'], 'epoch')}, seed {manifest.config['seed']}",
            "text source": manifest.text_source,
            "expressions": ", ".join(word_for(c) for c in manifest.classes),
            "other files": "folds/, scores.csv, manifest.json",
            "shards fingerprint": manifest.shards_fingerprint,
            "cross-validation fingerprint": manifest.fingerprint,
        }
    )


def _mean_std_cell(score: MeanStd | None) -> Cell:
    if score is None:
        return share_cell(None)
    return share_cell(score.mean).replace("</td>", f' <span class="ends">{_deviation(score)}</span></td>')


def _deviation(score: MeanStd) -> str:
    return "" if score.deviation is None else f"± {100 * score.deviation:.1f}"


def _fold_accuracies(manifest: CrossvalManifest) -> dict[str, list[float]]:
    return {name: [fold.accuracy[name] for fold in manifest.folds] for name in manifest.ordered_protocols}


def _ordered_scores(manifest: CrossvalManifest) -> dict[str, CrossvalScore]:
    return {name: manifest.scores[name] for name in manifest.ordered_protocols}
