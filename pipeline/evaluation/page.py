"""The page of an evaluation: its figures, the facts of the run, and some of the faces, put together as one report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import plots
from pipeline.evaluation.manifest import EvaluationManifest
from pipeline.evaluation.report import render_report
from pipeline.training.manifest import RunManifest


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
        "trained on": run.learned_from(),
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
