"""The HTML report of an evaluation: scores, tables, figures and facts on one self-contained page."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.data.temporal import describe_temporal
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.reports.html import render_page
from smile_pipe.pipeline.runs.curves import extract_curves
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.formatting import describe_samples

_REFERENCES = {
    "label": "the scan that is labelled neutral",
    "estimate": "the subject's scan of least activity; no label chose it",
    "none": "a population",
}


def evaluation_page(
    manifest: EvaluationManifest,
    run: RunManifest,
    figures: Mapping[str, bytes],
    contact_sheet: bytes | None,
    pictures: Mapping[str, bytes] | None = None,
) -> str:
    """Return the report of an evaluation.

    Args:
        manifest: the scores.
        run: manifest of the evaluated run.
        figures: SVG or PNG by caption, in order; see `evaluation_figures`.
        contact_sheet: image of some of the scored faces, if there is one.
        pictures: picture of answers, by question or protocol.
    """
    facts = {
        "recipe": manifest.recipe,
        "image tower": f"{run.recipe['arch']} on {' and '.join(run.channels)} images",
        "views": ", ".join(manifest.views),
        "views in training": ", ".join(run.views),
        "trained on": run.training_data_summary(),
        "steps": f"{run.num_steps}, workers: {run.world_size}",
        "split": run.split,
        "prompts": f"from {run.text_source}",
        "checkpoint": run.checkpoint,
        "run fingerprint": manifest.run_fingerprint,
        "shards fingerprint": manifest.shards_fingerprint,
        "scored split": manifest.split,
        "text source": manifest.text_source,
        "captions are relative to": _REFERENCES[run.settings.get("neutral", "label")]
        if run.text_source in ("geometry", "knowledge")
        else "-",
        "scored": describe_samples(manifest.num_scans, manifest.num_sequences),
        "read of sequences": describe_temporal(manifest.temporal, manifest.max_frames),
        "expressions": ", ".join(word_for(c) for c in manifest.classes),
        "other files": "scores.csv, predictions.csv, manifest.json",
        "evaluation fingerprint": manifest.fingerprint,
    }
    return render_page("evaluation.html", manifest, manifest.protocols, figures, facts, contact_sheet, pictures)


def evaluation_figures(
    manifest: EvaluationManifest, metrics: Sequence[Mapping[str, Any]], x: NDArray[np.float32], y: NDArray[np.int64]
) -> dict[str, bytes]:
    """Draw the figures of the report.

    Args:
        manifest: the scores.
        metrics: rows of the training metrics.
        x: fused embeddings of the scored samples, [N, D].
        y: their class indices, [N].

    Returns:
        SVG by caption, in order.
    """
    scores, classes = manifest.protocols, manifest.classes
    losses = {name: curve for name, curve in extract_curves(metrics).items() if name.startswith("loss_")}
    figures: dict[str, bytes | None] = {
        f"Confusion, {name}": plots.confusion_matrix(score, classes) for name, score in scores.items()
    }
    figures |= {
        "Recall of each expression": plots.class_recall(scores, classes) if scores else None,
        "Accuracy by intensity": plots.level_accuracy(scores),
        "Calibration": plots.reliability(scores) if scores else None,
        "Embeddings of the scored samples": plots.embedding_map(x, y, classes),
        "Training": plots.training_curves(losses),
    }
    return {title: figure for title, figure in figures.items() if figure is not None}
