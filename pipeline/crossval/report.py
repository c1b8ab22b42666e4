"""The HTML page of a cross-validation: means over folds, scores of each fold, confusion matrices."""

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.reports.html import render_page
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.shards.formatting import pluralize


def crossval_page(manifest: CrossvalManifest) -> str:
    """Return the page as self-contained HTML."""
    scores = {name: manifest.scores[name] for name in manifest.ordered_protocols}
    accuracies = {name: [fold.accuracy[name] for fold in manifest.folds] for name in scores}
    figures = {"Accuracy of the folds": plots.fold_accuracy(accuracies)} | {
        f"Confusion, {name}": plots.confusion_matrix(score, manifest.classes) for name, score in scores.items()
    }
    facts = {
        "recipe": manifest.system,
        "image tower": f"{manifest.config['arch']} on {manifest.channel} images, in {manifest.precision}",
        "training": f"{pluralize(manifest.config['epochs'], 'epoch')}, seed {manifest.config['seed']}",
        "text source": manifest.text_source,
        "expressions": ", ".join(word_for(c) for c in manifest.classes),
        "other files": "folds/, scores.csv, manifest.json",
        "shards fingerprint": manifest.shards_fingerprint,
        "cross-validation fingerprint": manifest.fingerprint,
    }
    return render_page("crossval.html", manifest, scores, figures, facts)
