"""Training curves: the metrics of a finished or unfinished run against the step, and a picture of them.

Equal rows give an equal picture. Values that are not finite are left out.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

Curve = list[tuple[int, float]]
"""(step, value) pairs in order of the step."""

_POSITION_FIELDS = ("step", "epoch", "num_steps")
_FIRST = ("loss_total", "validation_knn")
_LAST = ("learning_rate", "samples_per_second", "data_wait")
_TITLES = {
    "loss_total": "total loss",
    "validation_knn": "validation kNN",
    "learning_rate": "learning rate",
    "samples_per_second": "samples a second",
    "data_wait": "waiting for data",
}
_INK, _GRID, _LOSS, _OTHER = "#24272d", "#d9dce1", "#1f5f9f", "#3a9a86"
_COLUMNS = 2


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


def curves_png(curves: Mapping[str, Curve]) -> bytes:
    """Draw a PNG with one panel per curve, in two columns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_rows = -(-len(curves) // _COLUMNS)
    figure = Figure(figsize=(4.2 * _COLUMNS, 1.55 * num_rows + 0.3), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_rows, _COLUMNS, sharex=True, squeeze=False).ravel()
    for panel, (name, curve) in zip(panels, curves.items(), strict=False):
        color = _LOSS if name.startswith("loss_") else _OTHER
        panel.plot(*zip(*curve, strict=True), color=color, linewidth=1.3, marker="o" if len(curve) == 1 else "")
        panel.set_title(curve_title(name), loc="left", fontsize=9, color=_INK)
        panel.tick_params(labelsize=7.5, colors=_INK, length=0, labelbottom=True)
        panel.grid(color=_GRID, linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[:].set_visible(False)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    figure.supxlabel("step", fontsize=8, color=_INK)
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    return content.getvalue()


def _curve(rows: Sequence[Mapping[str, Any]], name: str) -> Curve:
    return [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
