"""The figures of a report: functions from scores, embeddings or training metrics to SVG.

The background is transparent, and text is drawn as outlines, so that it looks the same everywhere. Equal input gives
equal bytes. The global state of matplotlib is not changed.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.reports.formatting import protocol_title
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalScore
from smile_pipe.pipeline.runs.curves import Curve, curve_title
from smile_pipe.pipeline.runs.evaluation_manifest import ProtocolScore
from smile_pipe.pipeline.runs.question_scores import QuestionPart

_INK, _FAINT, _GRID, _CELL = "#24272d", "#6b7078", "#d9dce1", "#1f5f9f"
# Distinct in hue, and in lightness for colour-blind readers: after Okabe and Ito, "Color universal design", 2008.
_PALETTE = (
    "#d55e00",
    "#6a9a2d",
    "#7b5fb2",
    "#e0a100",
    "#2f7fc1",
    "#cc6fa3",
    "#8a9099",
    "#00907a",
    "#5a3b1c",
    "#b5b000",
)
# One for each protocol; the palette above is for expressions.
_PROTOCOL_COLORS = ("#2f6fb0", "#e08a2e", "#3a9a86", "#8a4f9e", "#b5484d")
_MAX_TSNE = 3000
_MIN_TSNE = 10


def confusion_matrix(score: ProtocolScore | CrossvalScore, classes: Sequence[str]) -> bytes:
    """Plot a confusion matrix: shares of each true class (row), with the counts below.

    Args:
        score: a score of K classes.
        classes: expression codes, [K].
    """
    counts = np.array(score.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(3.6, 0.58 * len(classes) + 1.0)
    figure, axes = _canvas(side + 0.3, side)
    for (row, column), share in np.ndenumerate(shares):
        axes.add_patch(Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, color=_CELL, alpha=0.04 + 0.96 * share, lw=0))
        if counts[row, column]:
            ink: dict[str, Any] = {"ha": "center", "va": "center", "color": "white" if share > 0.6 else _INK}
            axes.text(column, row - 0.1, f"{share:.0%}", fontsize=9, **ink)
            axes.text(column, row + 0.25, f"{counts[row, column]}", fontsize=6.5, **ink)
    axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5), xlabel="predicted", ylabel="truth")
    names = [word_for(c) for c in classes]
    axes.set_xticks(range(len(classes)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), names)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return _render(figure)


def level_accuracy(protocols: Mapping[str, ProtocolScore]) -> bytes | None:
    """Plot accuracy by intensity level, one line per protocol; None where no sample has a level."""
    levels = sorted({level for score in protocols.values() for level in score.per_level}, key=int)
    if not levels:
        return None
    figure, axes = _canvas(5.4, 3.4)
    for color, (name, score) in zip(_PROTOCOL_COLORS, protocols.items(), strict=False):
        known = [level for level in levels if level in score.per_level]
        heights = [score.per_level[level] for level in known]
        axes.plot(known, heights, color=color, marker="o", markersize=5, label=protocol_title(name))
    axes.set_xlabel("intensity level")
    _share_axis(axes, "accuracy")
    axes.margins(x=0.08)
    _legend(figure, axes)
    return _render(figure)


def class_recall(protocols: Mapping[str, ProtocolScore], classes: Sequence[str]) -> bytes:
    """Plot the recall of each class, one bar per protocol."""
    figure, axes = _canvas(max(5.4, 0.84 * len(classes)), 3.4)
    width = 0.8 / max(len(protocols), 1)
    positions = np.arange(len(classes))
    for index, (color, (name, score)) in enumerate(zip(_PROTOCOL_COLORS, protocols.items(), strict=False)):
        shift = (index - (len(protocols) - 1) / 2) * width
        heights = [score.per_class.get(c, 0.0) for c in classes]
        axes.bar(positions + shift, heights, 0.88 * width, color=color, label=protocol_title(name), zorder=2)
    axes.set_xticks(positions, [word_for(c) for c in classes])
    axes.tick_params(axis="x", length=0)
    _share_axis(axes, "recall")
    _legend(figure, axes)
    return _render(figure)


def accuracy_lines(parts: Sequence[QuestionPart], label: str, *, is_log: bool = False) -> bytes:
    """Plot the accuracy of answers with their intervals, one line per group.

    Args:
        parts: groups of questions; those without a position are left out.
        label: label of the axis of positions.
        is_log: whether this axis is logarithmic.
    """
    figure, axes = _canvas(5.4, 3.4)
    for color, group in zip(_PROTOCOL_COLORS, dict.fromkeys(part.group for part in parts), strict=False):
        shown = [part for part in parts if part.group == group and part.position is not None]
        positions = np.array([part.position for part in shown], np.float64)
        accuracies = np.array([part.accuracy for part in shown])
        low, high = np.array([part.interval or (part.accuracy, part.accuracy) for part in shown]).T
        axes.plot(positions, accuracies, color=color, marker="o", markersize=5, label=protocol_title(group))
        axes.fill_between(positions, low, high, color=color, alpha=0.15, linewidth=0)
    marks = sorted({part.position for part in parts if part.position is not None})
    if is_log:
        axes.set_xscale("log")
    axes.set_xticks(marks, [f"{mark:g}" for mark in marks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)
    _share_axis(axes, "accuracy")
    _legend(figure, axes)
    return _render(figure)


def fold_accuracy(accuracies: Mapping[str, Sequence[float]]) -> bytes:
    """Plot the accuracies of the folds, one column of points per protocol.

    A line shows their mean, a bar one standard deviation to both sides.

    Args:
        accuracies: accuracy of each fold, by protocol.
    """
    figure, axes = _canvas(max(3.6, 1.3 * len(accuracies)), 3.4)
    for x, (color, values) in enumerate(zip(_PROTOCOL_COLORS, accuracies.values(), strict=False)):
        mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        axes.add_patch(Rectangle((x - 0.3, mean - deviation), 0.6, 2 * deviation, color=color, alpha=0.15, lw=0))
        axes.hlines(mean, x - 0.3, x + 0.3, color=color, linewidth=1.6)
        # Side by side in the order of the folds: equal values would hide each other.
        xs = x + np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else [x]
        axes.scatter(xs, values, color=color, s=18, alpha=0.85, linewidths=0, zorder=3, clip_on=False)
    axes.set_xticks(range(len(accuracies)), [protocol_title(name) for name in accuracies])
    axes.set_xlim(-0.5, len(accuracies) - 0.5)
    axes.tick_params(axis="x", length=0)
    _share_axis(axes, "accuracy")
    lowest = min(min(values) for values in accuracies.values())
    axes.set_ylim(max(0.0, np.floor(10 * lowest - 0.5) / 10), 1.005)
    return _render(figure)


def reliability(protocols: Mapping[str, ProtocolScore]) -> bytes:
    """Plot accuracy against confidence, one line per protocol; larger points are bins with more samples."""
    figure, axes = _canvas(5.4, 4.4)
    axes.plot([0, 1], [0, 1], color=_GRID, linewidth=1.2, linestyle="--", zorder=1)
    for color, (name, score) in zip(_PROTOCOL_COLORS, protocols.items(), strict=False):
        confidence = [part.confidence for part in score.reliability]
        accuracy = [part.accuracy for part in score.reliability]
        sizes = [8 + 240 * part.num_samples / score.num_samples for part in score.reliability]
        axes.plot(confidence, accuracy, color=color, linewidth=1.2, label=protocol_title(name), zorder=2)
        axes.scatter(confidence, accuracy, s=sizes, color=color, alpha=0.75, linewidths=0, zorder=3, clip_on=False)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_xlabel("confidence (probability of the predicted class);\ndashed line: perfect calibration")
    _share_axis(axes, "accuracy")
    _legend(figure, axes)
    return _render(figure)


def project_2d(embeddings: NDArray[np.floating], seed: int) -> tuple[NDArray[np.floating], str]:
    """Project embeddings to two dimensions, by t-SNE for 10 to 3,000 points, else by PCA.

    t-SNE keeps neighbours together, at a cost that grows fast; with fewer than ten points there are no neighbourhoods.
    Vectors are scaled to length one, since the protocols use cosines.

    Args:
        embeddings: [N, D].
        seed: random seed of t-SNE.

    Returns:
        Points [N, 2], and the name of the method.
    """
    x = np.asarray(embeddings, np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    num_components = min(50, *x.shape)
    # PCA needs at least two points.
    reduced = PCA(num_components, svd_solver="full").fit_transform(x) if len(x) > 1 else np.zeros((1, 1))
    if num_components > 1 and _MIN_TSNE <= len(x) <= _MAX_TSNE:
        perplexity = min(30.0, (len(x) - 1) / 3)
        # On a busy machine, synchronisation made several threads seven times slower than one.
        with threadpool_limits(1):
            return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced), "t-SNE"
    return np.pad(reduced, ((0, 0), (0, 1)))[:, :2], "PCA"


def embedding_map(
    embeddings: NDArray[np.floating], labels: NDArray[np.int64], classes: Sequence[str], seed: int = 0
) -> bytes:
    """Plot embeddings in two dimensions, see `project_2d`, with a colour for each class.

    Args:
        embeddings: [N, D].
        labels: class indices, [N].
        classes: expression codes.
        seed: random seed of the projection and of the drawing order.
    """
    points, method = project_2d(embeddings, seed)
    figure, axes = _canvas(5.4, 4.9)
    # In shuffled order: class by class, the last class would cover the others.
    order = np.random.default_rng(seed).permutation(len(points))
    colors = np.array([_PALETTE[label % len(_PALETTE)] for label in labels])
    size = float(np.clip(12000 / len(points), 4, 28))
    # As pixels: thousands of vector outlines would make the report large.
    axes.scatter(points[order, 0], points[order, 1], c=colors[order], s=size, alpha=0.85, linewidths=0, rasterized=True)
    for label in np.unique(labels):
        axes.scatter([], [], c=_PALETTE[label % len(_PALETTE)], s=28, label=word_for(classes[label]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"{method} of the fused embeddings; only neighbourhoods are meaningful, not the axes")
    axes.spines[:].set_visible(False)
    _legend(figure, axes)
    return _render(figure)


def training_curves(curves: Mapping[str, Curve], num_columns: int = 1, image_format: str = "svg") -> bytes | None:
    """Plot curves by step, one panel per curve since their scales differ; None where there are none.

    Args:
        curves: curves by name, see `extract_curves`.
        num_columns: number of panels side by side.
        image_format: "svg" or "png".
    """
    if not curves:
        return None
    num_rows = -(-len(curves) // num_columns)
    figure = _figure(max(5.4, 4.2 * num_columns), 1.3 * num_rows + 0.4)
    panels = figure.subplots(num_rows, num_columns, sharex=True, squeeze=False).ravel()
    for panel, (name, curve) in zip(panels, curves.items(), strict=False):
        _style_axes(panel)
        color = _PROTOCOL_COLORS[0 if name.startswith("loss_") else 2]
        panel.plot(*zip(*curve, strict=True), color=color, linewidth=1.4, marker="o" if len(curve) == 1 else "")
        panel.set_title(curve_title(name), loc="left", fontsize=9, color=_INK)
        panel.tick_params(labelbottom=True)
    for panel in panels[len(curves) :]:
        panel.set_visible(False)
    figure.supxlabel("step", fontsize=8.5, color=_FAINT)
    return _render(figure, image_format)


def _figure(width: float, height: float) -> Figure:
    """Create an empty figure, sizes in inches, without a window and outside of pyplot's global list of figures."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _figure(width, height)
    axes = figure.subplots()
    _style_axes(axes)
    return figure, axes


def _style_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(colors=_FAINT, labelcolor=_INK, labelsize=8.5, width=0.6)
    axes.xaxis.label.set(color=_FAINT, fontsize=8.5)
    axes.yaxis.label.set(color=_FAINT, fontsize=8.5)


def _share_axis(axes: Axes, label: str) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color=_GRID, linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.set_ylabel(label)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "labelcolor": _INK, "handlelength": 1.2}
    figure.legend(handles, labels, loc="outside upper left", ncols=4, **style)


def _render(figure: Figure, image_format: str = "svg") -> bytes:
    buffer = io.BytesIO()
    is_svg = image_format == "svg"
    # A fixed salt instead of random ids, no date and no version: the same figure gives the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "smile-pipe"}):
        metadata = {"Date": None, "Creator": None} if is_svg else {"Software": None}
        figure.savefig(buffer, format=image_format, transparent=is_svg, dpi=200, metadata=metadata)
    return buffer.getvalue()
