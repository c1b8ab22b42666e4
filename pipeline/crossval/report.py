"""The page of a cross-validation: means over folds, what each fold says, and what was confused with what."""

from collections.abc import Iterable
from html import escape

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.reports.formatting import heading_of, percent
from smile_pipe.pipeline.reports.html import (
    Cell,
    facts_table,
    plots_section,
    share,
    supervision_note,
    table,
    whole_page,
)
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, CrossvalScore, MeanStd
from smile_pipe.shards.formatting import pluralize


def crossval_page(manifest: CrossvalManifest) -> str:
    """Self-contained HTML."""
    system = manifest.system
    people = sum(len(fold.subjects) for fold in manifest.folds)
    samples = sum(fold.num_samples for fold in manifest.folds)
    headline = (
        f"{system} naming {pluralize(len(manifest.classes), 'expression')} on {pluralize(samples, 'sample')} of "
        f"{pluralize(people, 'subject')}, in {pluralize(len(manifest.folds), 'fold')}"
    )
    figures = {"Accuracy of the folds": plots.fold_accuracy(_accuracies(manifest))} | {
        f"Confusion, {name}": plots.confusion_matrix(score, manifest.classes)
        for name, score in _scores(manifest).items()
    }
    return whole_page(
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
    where = f" Only samples for which this holds count: {manifest.where}." if manifest.where else ""
    if manifest.protocol == "across":
        return (
            "One dataset was learned from, and classifiers were fitted on it; every sample of another one was "
            f"scored.{where} Guessing would be right for about {percent(1 / len(manifest.classes))}."
        )
    return (
        f"Protocol {manifest.protocol}{subset}: each subject is in one fold, and each fold was scored by a model and "
        f"classifiers that saw none of its subjects.{where} A figure is the mean of the folds, followed by their "
        "deviation; recall, macro UF1 and UAR are those of all samples together, of single expressions. "
        f"Guessing would be right for about {percent(1 / len(manifest.classes))}."
    )


def _cards(manifest: CrossvalManifest) -> Iterable[str]:
    for name, score in _scores(manifest).items():
        yield (
            f'<section class="card"><h3>{escape(heading_of(name))}</h3>'
            f'<p class="figure">{percent(score.accuracy.mean)} <small>{_deviation(score.accuracy)}</small></p>'
            f"<p>accuracy &middot; macro F1 {percent(score.macro_f1.mean)} {_deviation(score.macro_f1)}</p></section>"
        )


def _scores_table(manifest: CrossvalManifest) -> str:
    scores = _scores(manifest).values()
    levels = sorted({level for score in scores for level in score.per_level}, key=lambda level: (len(level), level))
    labels = [score.labels for score in scores]
    rows = [
        ("accuracy", [_spread(score.accuracy) for score in scores]),
        ("macro F1", [_spread(score.macro_f1) for score in scores]),
        ("macro UF1", [share(each.macro_uf1 if each else None) for each in labels]),
        ("UAR", [share(each.uar if each else None) for each in labels]),
    ]
    rows += [(f"{word_for(c)}, recall", [share(score.per_class.get(c)) for score in scores]) for c in manifest.classes]
    rows += [
        (f"level {level}, accuracy", [_spread(score.per_level.get(level)) for score in scores]) for level in levels
    ]
    return table(["", *map(heading_of, manifest.ways)], rows)


def _folds_table(manifest: CrossvalManifest) -> str:
    rows = [
        (
            fold.split,
            [
                f"<td>{len(fold.subjects)}</td>",
                f"<td>{fold.num_samples}</td>",
                *(share(fold.accuracy[name]) for name in manifest.ways),
            ],
        )
        for fold in manifest.folds
    ]
    return table(["", "subjects", "samples", *map(heading_of, manifest.ways)], rows)


def _facts(manifest: CrossvalManifest) -> str:
    return facts_table(
        {
            "recipe": manifest.system,
            "image tower": f"{manifest.config['arch']} on {manifest.channel} images, in {manifest.precision}",
            "training": f"{pluralize(manifest.config['epochs'], 'epoch')}, seed {manifest.config['seed']}",
            "text source": manifest.text_source,
            "expressions": ", ".join(word_for(c) for c in manifest.classes),
            "beside this page": "folds/, scores.csv, manifest.json",
            "shards fingerprint": manifest.shards_fingerprint,
            "cross-validation fingerprint": manifest.fingerprint,
        }
    )


def _spread(over: MeanStd | None) -> Cell:
    cell = share(over.mean if over else None)
    return cell.replace("</td>", f' <span class="ends">{_deviation(over)}</span></td>') if over else cell


def _deviation(over: MeanStd) -> str:
    return "" if over.deviation is None else f"± {100 * over.deviation:.1f}"


def _accuracies(manifest: CrossvalManifest) -> dict[str, list[float]]:
    return {name: [fold.accuracy[name] for fold in manifest.folds] for name in manifest.ways}


def _scores(manifest: CrossvalManifest) -> dict[str, CrossvalScore]:
    return {name: manifest.scores[name] for name in manifest.ways}
