"""The figures of reports: deterministic, complete, and with all text inside."""

from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from helpers.crossval_manifests import ACCURACIES
from helpers.evaluation_manifests import evaluation_manifest
from smile_pipe.pipeline.classifiers.metrics import Labels, score
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.runs.curves import extract_curves


@pytest.fixture
def undrawn(monkeypatch):
    """Functions that plot return the figure."""
    monkeypatch.setattr(plots, "_render", lambda figure, *_: figure)


def all_figures(manifest):
    rng = np.random.default_rng(0)
    curves = {"loss_total": [(1, 2.0), (2, 1.0)], "learning_rate": [(1, 1e-3)]}
    return {
        "confusion": plots.confusion_matrix(manifest.protocols["probe"], manifest.classes),
        "levels": plots.level_accuracy(manifest.protocols),
        "recall": plots.class_recall(manifest.protocols, manifest.classes),
        "reliability": plots.reliability(manifest.protocols),
        "map": plots.embedding_map(rng.normal(size=(40, 16)), rng.integers(0, 3, 40), manifest.classes),
        "folds": plots.fold_accuracy(ACCURACIES),
        "one fold": plots.fold_accuracy({"probe": [0.5]}),
        "curves": plots.training_curves(curves),
    }


def test_figures_are_deterministic_svg_and_do_not_change_matplotlib():
    before = dict(matplotlib.rcParams)
    first, again = all_figures(evaluation_manifest()), all_figures(evaluation_manifest())
    assert first == again
    assert dict(matplotlib.rcParams) == before
    assert all(ElementTree.fromstring(svg).tag.endswith("svg") for svg in first.values())


def test_no_text_of_a_figure_is_cut_off(undrawn):
    for name, figure in all_figures(evaluation_manifest()).items():
        figure.canvas.draw()
        for axes in figure.axes:
            for text_artist in (axes.xaxis.label, axes.yaxis.label, axes.title, *axes.texts):
                box = text_artist.get_window_extent()
                left, bottom, right, top = figure.bbox.extents
                inside = left <= box.x0 and box.x1 <= right and bottom <= box.y0 and box.y1 <= top
                assert inside or not text_artist.get_text(), (name, text_artist.get_text())


def test_figures_depend_on_the_scores():
    manifest = evaluation_manifest()
    other = manifest.protocols["probe"].model_copy(
        update={
            "confusion": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
            "per_class": {"AN": 0.1},
            "per_level": {"1": 0.2},
            "reliability": manifest.protocols["knn"].reliability,
        }
    )
    changed = manifest.model_copy(update={"protocols": {**manifest.protocols, "probe": other}})
    first, second = all_figures(manifest), all_figures(changed)
    assert all(first[name] != second[name] for name in ("confusion", "levels", "recall", "reliability"))


def test_confusion_matrix_has_shares_and_counts(undrawn):
    truth = Labels(np.array([0, 0, 0, 0, 1]), ("AN", "HA"), [None] * 5, ["F0001"] * 5)
    result = score(truth, np.eye(2)[[0, 0, 0, 1, 1]])
    figure = plots.confusion_matrix(result, ("AN", "HA"))
    shown = {
        (text.get_text(), round(text.get_position()[0]), round(text.get_position()[1])) for text in figure.axes[0].texts
    }
    assert shown == {("75%", 0, 0), ("3", 0, 0), ("25%", 1, 0), ("1", 1, 0), ("100%", 1, 1), ("1", 1, 1)}


def test_reliability_plot_has_a_line_for_each_protocol(undrawn):
    manifest = evaluation_manifest()
    more = {**manifest.protocols, "finetune": manifest.protocols["knn"]}
    diagonal, *lines = plots.reliability(more).axes[0].lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [line.get_label() for line in lines] == ["zero-shot", "nearest neighbours", "linear probe", "fine-tuning"]
    assert len({line.get_color() for line in lines}) == 4
    for line, score_ in zip(lines, more.values(), strict=True):
        assert line.get_xydata().tolist() == [[part.confidence, part.accuracy] for part in score_.reliability]


def test_training_curves_have_a_panel_each(undrawn):
    rows = [{"step": s, "loss_mv": 2.0 * s, "loss_total": s + 1.0, "margin": 0.07} for s in (10, 20)]
    rows.append({"step": 30, "loss_total": float("nan"), "loss_mv": 1.0})
    figure = plots.training_curves(extract_curves(rows), num_columns=2)
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title(loc="left") for panel in panels] == ["total loss", "multiview decorrelation", "margin"]
    assert panels[0].lines[0].get_xydata().tolist() == [[10, 11], [20, 21]]
    assert panels[1].lines[0].get_xydata().tolist() == [[10, 20], [20, 40], [30, 1]]


def test_training_curves_can_be_a_png():
    curves = {"loss_total": [(1, 2.0), (2, 1.0)]}
    found = plots.training_curves(curves, image_format="png")
    assert found.startswith(b"\x89PNG") and found == plots.training_curves(curves, image_format="png")


def test_figures_without_data_are_none():
    assert plots.training_curves({}) is None
    bare = score(Labels(np.array([0, 1]), ("AN", "HA"), [None, None], ["F0001"] * 2), np.eye(2))
    assert plots.level_accuracy({"knn": bare}) is None


@pytest.mark.parametrize(("count", "dim", "method"), [(1, 4, "PCA"), (9, 4, "PCA"), (30, 1, "PCA"), (30, 4, "t-SNE")])
def test_embeddings_of_any_number_and_size_can_be_projected(count, dim, method):
    points, used = plots.project_2d(np.random.default_rng(0).normal(size=(count, dim)), seed=0)
    assert points.shape == (count, 2) and used == method and np.isfinite(points).all()


def test_many_embeddings_use_pca_and_few_keep_their_neighbourhoods(monkeypatch):
    monkeypatch.setattr(plots, "_MAX_TSNE", 50)
    x = np.random.default_rng(0).normal(size=(51, 4))
    assert plots.project_2d(x, 0)[1] == "PCA"
    two = np.concatenate([np.eye(8)[0] + 0.01 * x[:25, :1], np.eye(8)[1] + 0.01 * x[25:50, :1]])
    points = plots.project_2d(two, 0)[0]
    centres = points[:25].mean(axis=0), points[25:].mean(axis=0)
    spread = max(points[:25].std(), points[25:].std())
    assert np.linalg.norm(centres[0] - centres[1]) > spread
