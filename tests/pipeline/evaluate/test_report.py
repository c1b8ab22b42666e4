"""The figures and the report of an evaluation: complete, correct and self-contained."""

import base64
import io
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from PIL import Image

from helpers.evaluation_manifests import CLASSES, evaluation_manifest, multilabel_manifest
from smile_pipe.pipeline.classifiers.metrics import Labels, score
from smile_pipe.pipeline.evaluate.report import render_report
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.reports.formatting import format_interval, format_percent
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, ViewScore

HOSTILE = '<script>alert("x")</script>&'


def parts(*views, **figures):
    return ViewScore(views=views, **{"accuracy": 0.5, "macro_f1": 0.25} | figures)


class Page(HTMLParser):
    """Text, tags and links of a page."""

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.links = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data):
        self.text += data


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "png")
    return buffer.getvalue()


def test_page_has_all_scores():
    manifest = evaluation_manifest()
    text = Page(render_report(manifest, {}, None, {})).text
    for protocol in manifest.protocols.values():
        shares = [protocol.accuracy, protocol.macro_f1, *protocol.per_class.values(), *protocol.per_level.values()]
        assert all(format_percent(share) in text for share in [*shares, protocol.calibration_error])


def test_numbers_are_percent_with_one_digit_and_intervals_in_brackets():
    assert (format_percent(0.9044), format_percent(1.0), format_percent(0.0)) == (
        "90.4\u00a0%",
        "100.0\u00a0%",
        "0.0\u00a0%",
    )
    assert format_interval((0.879, 0.926)) == "(87.9–92.6)" and format_interval(None) == ""


def test_cards_and_table_have_intervals_of_accuracy_and_macro_f1():
    manifest = evaluation_manifest()
    text = Page(render_report(manifest, {}, None, {})).text
    for score_ in manifest.protocols.values():
        for share, interval in (
            (score_.accuracy, score_.accuracy_interval),
            (score_.macro_f1, score_.macro_f1_interval),
        ):
            assert text.count(f"{format_percent(share)} {format_interval(interval)}") == 2
    assert "95\u00a0% intervals" in text


def test_single_subject_has_no_intervals():
    without = {"accuracy_interval": None, "macro_f1_interval": None}
    protocols = {name: s.model_copy(update=without) for name, s in evaluation_manifest().protocols.items()}
    text = Page(render_report(evaluation_manifest(protocols=protocols, num_subjects=1), {}, None, {})).text
    assert "intervals" not in text and "–" not in text.replace("–\n", "") and "With one subject" in text


class TestViews:
    scores = (
        parts("front", accuracy=0.41, accuracy_interval=(0.3, 0.52)),
        parts("left", accuracy=0.42),
        parts("front", "left", accuracy=0.43, macro_f1=0.44, macro_f1_interval=(0.4, 0.48)),
    )

    def test_each_subset_of_views_has_a_row_with_marks(self):
        html = render_report(evaluation_manifest(view_protocol="knn", view_scores=self.scores), {}, None, {})
        table = html.partition("Accuracy by views")[2].partition("</table>")[0]
        assert "Nearest neighbours from subsets of the views" in html
        rows = [Page(row).text for row in table.split("<tr>")[1:]]
        assert rows == [
            "frontleftaccuracymacro F1",
            "front●·41.0\u00a0% (30.0–52.0)25.0\u00a0%",
            "left·●42.0\u00a0%25.0\u00a0%",
            "all views●●43.0\u00a0%44.0\u00a0% (40.0–48.0)",
        ]

    def test_single_view_has_no_table(self):
        one = evaluation_manifest(view_protocol="knn", view_scores=(parts("front"),))
        for manifest in (one, evaluation_manifest()):
            assert "Accuracy by views" not in render_report(manifest, {}, None, {})


class TestRetrieval:
    def test_section_has_all_scores(self):
        manifest = evaluation_manifest()
        faces, text = manifest.retrieval.faces_of_text, manifest.retrieval.text_of_faces
        html = render_report(manifest, {}, None, {})
        tables = html.partition("Retrieval</h2>")[2].partition("<h2>")[0]
        rows = [Page(row).text.strip() for row in tables.split("<tr>")[1:]]
        assert rows[1] == "text to face, precision" + "".join(map(format_percent, faces.precision_at.values()))
        assert rows[2] == "text to face, recall" + "".join(map(format_percent, faces.recall_at.values()))
        assert rows[3].rstrip() == "face to text, recall" + "".join(map(format_percent, text.recall_at.values())) + "–"
        averages = [*faces.average_precision.values(), faces.mean_average_precision]
        assert rows[4:] == ["angerhappinesssmirkmean", "average precision" + "".join(map(format_percent, averages))]
        assert "among the 120 scored ones" in html and "among all 9 prompts" in html
        assert "each of 9 prompts is a query" in html

    def test_section_is_left_out_without_retrieval(self):
        assert "Recall at k" not in render_report(evaluation_manifest(retrieval=None), {}, None, {})


def test_binary_labels_are_shown_for_multilabel_samples_only():
    manifest = multilabel_manifest()
    html = render_report(manifest, {}, None, {})
    table = Page(html.partition("Several expressions at once")[2].partition("</table>")[0]).text
    for score_ in manifest.protocols.values():
        figures = (score_.labels.macro_uf1, score_.labels.uar, *score_.labels.f1.values())
        assert all(format_percent(figure) in table for figure in figures)
    assert "happiness + surprise, recall" in Page(html).text and "happiness, F1" in table
    assert "Several expressions at once" not in render_report(evaluation_manifest(), {}, None, {})


def test_missing_level_or_class_is_a_dash():
    none_of_one = evaluation_manifest(("AN", "HA", "smirk", "DI"))
    partial = none_of_one.protocols["knn"].model_copy(update={"per_class": {"AN": 0.25}})
    text = Page(render_report(evaluation_manifest(protocols={"knn": partial}), {}, None, {})).text
    assert "smirk, recall–" in text and "anger, recall25.0\u00a0%" in text


def test_headline_names_recipe_samples_and_protocols():
    headline = re.search(r"<h1>(.*?)</h1>", render_report(evaluation_manifest(), {}, None, {}))[1]
    for part in (
        "smile-vlm",
        "3 expressions",
        "120 scans",
        "7 subjects",
        "never saw",
        "zero-shot",
        "linear probe",
    ):
        assert part in headline
    assert "sequence" not in headline


def test_split_all_does_not_claim_unseen_subjects():
    text = Page(render_report(evaluation_manifest(split="all"), {}, None, {})).text
    assert "never saw" not in text and "has seen any of them" not in text
    assert "whether or not the model was trained on" in text
    assert "kfold:10:0: neither the model" in Page(render_report(evaluation_manifest(), {}, None, {})).text


def test_prompts_from_labels_are_called_supervision():
    assert "These prompts are supervision." in Page(render_report(evaluation_manifest(), {}, None, {})).text
    without = Page(render_report(evaluation_manifest(text_source="none"), {}, None, {})).text
    assert "supervision" not in without and "No text took part in training" in without


def test_supervised_recipe_is_called_supervised_learning():
    text = Page(render_report(evaluation_manifest(recipe="supervised"), {}, None, {})).text
    assert "The model learned the expression labels of its training subjects as classes; no text took part." in text
    assert "prompts are supervision" not in text


def test_prompts_from_action_units_are_supervision_and_from_geometry_are_not():
    assert (
        "These prompts are supervision."
        in Page(render_report(evaluation_manifest(text_source="au"), {}, None, {})).text
    )
    measured = Page(render_report(evaluation_manifest(text_source="geometry"), {}, None, {})).text
    assert "supervision" not in measured and "No label wrote these prompts." in measured


@pytest.mark.parametrize(
    ("temporal", "num_frames", "sentence"),
    [
        ("frames", 480, "Input: frames of each sequence, at most 6 frames (480 frames in all)."),
        ("dynamic", 0, "Input: the dynamic image of each sequence."),
        ("both", 480, "frames and the dynamic image of each sequence, at most 6 frames (480 frames in all)."),
    ],
)
def test_page_describes_the_input_of_sequences(temporal, num_frames, sentence):
    counts = {"num_scans": 40, "num_sequences": 80, "num_frames": num_frames}
    text = Page(render_report(evaluation_manifest(temporal=temporal, max_frames=6, **counts), {}, None, {})).text
    assert "40 scans and 80 sequences of 7 subjects" in text and sentence in text
    assert "scored40 scans and 80 sequences" in text


def test_page_of_scans_does_not_mention_sequences():
    assert "Input:" not in Page(render_report(evaluation_manifest(), {}, None, {})).text


def test_condition_and_notes_are_shown_and_escaped():
    manifest = evaluation_manifest(where="level < 3 and sex == '<b>'", notes=("zero-shot was left out: <i>",))
    page = Page(render_report(manifest, {}, None, {}))
    assert "fitted on and scored: level < 3 and sex == '<b>'." in page.text
    assert "Zero-shot was left out: <i>." in page.text and not {"b", "i"} & set(page.tags)


def test_page_loads_nothing_and_runs_no_script():
    manifest = evaluation_manifest()
    figures = {"Recall": plots.class_recall(manifest.protocols, CLASSES), "Photograph": png()}
    html = render_report(manifest, figures, png(), {"views": "front"})
    page = Page(html)
    assert page.links and all(link.startswith("data:image/") for link in page.links)
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    assert "url(" not in html and "@import" not in html and "http:" not in html and "https:" not in html


def test_images_are_embedded_with_their_media_type():
    figure, sheet = plots.class_recall(evaluation_manifest().protocols, CLASSES), png()
    page = Page(render_report(evaluation_manifest(), {"Recall": figure}, sheet, {}))
    assert [link.partition(";")[0] for link in page.links] == ["data:image/svg+xml", "data:image/png"]
    assert [base64.b64decode(link.partition(",")[2]) for link in page.links] == [figure, sheet]


def test_hostile_names_are_escaped():
    manifest = evaluation_manifest(("AN", HOSTILE, "HA"), recipe=HOSTILE, split=HOSTILE)
    manifest = manifest.model_copy(update={"protocols": {**manifest.protocols, HOSTILE: manifest.protocols["knn"]}})
    figure = plots.class_recall(manifest.protocols, manifest.classes)
    html = render_report(manifest, {HOSTILE: figure}, None, {HOSTILE: HOSTILE})
    page = Page(html)
    assert "script" not in page.tags and "<script" not in html
    assert page.text.count(HOSTILE) >= 8


def test_facts_and_fingerprints_are_listed():
    text = Page(render_report(evaluation_manifest(), {}, None, {"towers": "smile-tiny"})).text
    assert render_report(evaluation_manifest(), {}, None, {"scored split": "mine"}).count("mine") == 0
    for fact in ("towerssmile-tiny", "a" * 32, "5" * 32, "e" * 32, "anger, happiness, smirk"):
        assert fact in text


def test_manifest_round_trips(tmp_path):
    manifest = evaluation_manifest()
    manifest.write(tmp_path / "manifest.json")
    assert EvaluationManifest.read(tmp_path / "manifest.json") == manifest


def all_figures(manifest):
    rng = np.random.default_rng(0)
    rows = [{"step": i, "epoch": 0, "loss_total": 3 - i, "loss_mv": 1.0, "learning_rate": 1e-3} for i in range(3)]
    return {
        "confusion": plots.confusion_matrix(manifest.protocols["probe"], manifest.classes),
        "levels": plots.level_accuracy(manifest.protocols),
        "recall": plots.class_recall(manifest.protocols, manifest.classes),
        "reliability": plots.reliability(manifest.protocols),
        "map": plots.embedding_map(rng.normal(size=(40, 16)), rng.integers(0, 3, 40), manifest.classes),
        "curves": plots.training_curves(rows),
    }


def test_figures_are_deterministic_svg_and_do_not_change_matplotlib():
    before = dict(matplotlib.rcParams)
    first, again = all_figures(evaluation_manifest()), all_figures(evaluation_manifest())
    assert first == again
    assert dict(matplotlib.rcParams) == before
    assert all(ElementTree.fromstring(svg).tag.endswith("svg") for svg in first.values())


def test_no_text_of_a_figure_is_cut_off(monkeypatch):
    monkeypatch.setattr(plots, "_svg", lambda figure: figure)
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


def test_confusion_matrix_has_shares_and_counts(monkeypatch):
    monkeypatch.setattr(plots, "_svg", lambda figure: figure)
    truth = Labels(np.array([0, 0, 0, 0, 1]), ("AN", "HA"), [None] * 5, ["F0001"] * 5)
    result = score(truth, np.eye(2)[[0, 0, 0, 1, 1]])
    figure = plots.confusion_matrix(result, ("AN", "HA"))
    shown = {
        (text.get_text(), round(text.get_position()[0]), round(text.get_position()[1])) for text in figure.axes[0].texts
    }
    assert shown == {("75%", 0, 0), ("3", 0, 0), ("25%", 1, 0), ("1", 1, 0), ("100%", 1, 1), ("1", 1, 1)}


def test_reliability_plot_has_a_line_for_each_protocol(monkeypatch):
    monkeypatch.setattr(plots, "_svg", lambda figure: figure)
    manifest = evaluation_manifest()
    more = {**manifest.protocols, "finetune": manifest.protocols["knn"]}
    diagonal, *lines = plots.reliability(more).axes[0].lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [line.get_label() for line in lines] == ["zero-shot", "nearest neighbours", "linear probe", "fine-tuning"]
    assert len({line.get_color() for line in lines}) == 4
    for line, score_ in zip(lines, more.values(), strict=True):
        assert line.get_xydata().tolist() == [[part.confidence, part.accuracy] for part in score_.reliability]


def test_training_curves_show_loss_terms_only(monkeypatch):
    monkeypatch.setattr(plots, "_svg", lambda figure: figure)
    rows = [{"step": s, "loss_mv": 2.0 * s, "loss_total": s + 1.0, "temperature": 0.07} for s in (10, 20)]
    rows.append({"step": 30, "loss_total": float("nan"), "loss_mv": 1.0})
    panels = plots.training_curves(rows).axes
    assert [panel.get_title(loc="left") for panel in panels] == ["total loss", "multiview decorrelation"]
    assert panels[0].lines[0].get_xydata().tolist() == [[10, 11], [20, 21]]
    assert panels[1].lines[0].get_xydata().tolist() == [[10, 20], [20, 40], [30, 1]]


def test_figures_without_data_are_none():
    assert plots.training_curves([]) is None
    assert plots.training_curves([{"step": 1, "learning_rate": 0.1}]) is None
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
