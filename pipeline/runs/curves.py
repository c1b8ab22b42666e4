"""Training curves: the metrics of a finished or unfinished run against the step, without values that are not finite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Curve = list[tuple[int, float]]
"""(step, value) pairs in order of the step."""

_POSITION_FIELDS = ("step", "epoch", "num_steps")
_FIRST = ("loss_total", "validation_knn")
_LAST = ("learning_rate", "learning_rate_towers", "samples_per_second", "data_wait")
_TITLES = {
    "loss_total": "total loss",
    "loss_mv": "multiview decorrelation",
    "loss_vl": "vision-language contrast",
    "loss_cm": "cross-modal redundancy",
    "validation_knn": "validation kNN",
    "skipped_steps": "skipped steps",
    "learning_rate": "learning rate",
    "learning_rate_towers": "learning rate of the towers",
    "samples_per_second": "samples a second",
    "data_wait": "waiting for data",
}


def extract_curves(rows: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Extract the curves from rows of `metrics.jsonl`.

    Returns:
        Curves by name: total loss and validation first, then the loss terms, then others, speed last.
    """
    names = {name: None for row in rows for name in row if name not in _POSITION_FIELDS}
    terms = sorted(name for name in names if name.startswith("loss_") and name not in _FIRST)
    others = [name for name in names if name not in (*_FIRST, *terms, *_LAST)]
    curves = {name: _curve(rows, name) for name in (*_FIRST, *terms, *others, *_LAST)}
    return {name: curve for name, curve in curves.items() if curve}


def curve_title(name: str) -> str:
    """Title of a curve."""
    return _TITLES.get(name, name.removeprefix("loss_").replace("_", " "))


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> Curve:
    return [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
