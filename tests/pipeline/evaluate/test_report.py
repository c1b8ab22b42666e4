"""The report of an evaluation: complete, correct and self-contained."""

import base64
import io

import pytest
from PIL import Image

from helpers.evaluation_manifests import CLASSES, evaluation_manifest, multilabel_manifest
from helpers.html_text import Page
from helpers.run_manifests import run_manifest
from smile_pipe.pipeline.evaluate.report import evaluation_page
from smile_pipe.pipeline.reports import plots
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, ViewScore

HOSTILE = '<script>alert("x")</script>&'


def page_of(
    manifest: EvaluationManifest | None = None, figures=(), sheet=None, run_split="kfold:3:0", **changes
) -> Page:
    """The page of a manifest, by default of one with changes."""
    run = run_manifest("5" * 32).model_copy(update={"recipe": {"arch": "smile-tiny"}, "split": run_split})
    return Page(evaluation_page(manifest or evaluation_manifest(**changes), run, dict(figures), sheet))


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def percents(*shares: float) -> str:
    return " ".join(map(percent, shares))


def view_score(*views, **scores):
    return ViewScore(views=views, **{"accuracy": 0.5, "macro_f1": 0.25} | scores)


def test_page_has_all_scores_and_intervals():
    manifest = evaluation_manifest()
    text = page_of(manifest).text
    assert "95 % intervals" in text
    for score in manifest.protocols.values():
        shares = [*score.per_class.values(), *score.per_level.values(), score.calibration_error]
        assert all(percent(share) in text for share in shares)
        for share, (low, high) in (
            (score.accuracy, score.accuracy_interval),
            (score.macro_f1, score.macro_f1_interval),
        ):
            # In a card and in the table.
            assert text.count(f"{percent(share)} ({100 * low:.1f}–{100 * high:.1f})") == 2


def test_single_subject_has_no_intervals():
    without = {"accuracy_interval": None, "macro_f1_interval": None}
    protocols = {name: s.model_copy(update=without) for name, s in evaluation_manifest().protocols.items()}
    text = page_of(protocols=protocols, num_subjects=1).text
    assert "intervals" not in text and "With one subject" in text and "(" not in text.partition("Retrieval")[0]


def test_each_subset_of_views_has_a_row_with_marks():
    scores = (
        view_score("front", accuracy=0.41, accuracy_interval=(0.3, 0.52)),
        view_score("left", accuracy=0.42),
        view_score("front", "left", accuracy=0.43, macro_f1=0.44, macro_f1_interval=(0.4, 0.48)),
    )
    page = page_of(view_protocol="knn", view_scores=scores)
    assert "Nearest neighbours from subsets of the views" in page.text
    assert page.rows("Accuracy by views") == [
        "front left accuracy macro F1",
        "front ● · 41.0 % (30.0–52.0) 25.0 %",
        "left · ● 42.0 % 25.0 %",
        "all views ● ● 43.0 % 44.0 % (40.0–48.0)",
    ]


def test_retrieval_has_all_scores():
    manifest = evaluation_manifest()
    faces, text = manifest.retrieval.faces_of_text, manifest.retrieval.text_of_faces
    page = page_of(manifest)
    assert page.rows("Retrieval") == [
        "at 1 at 5 at 10",
        f"text to face, precision {percents(*faces.precision_at.values())}",
        f"text to face, recall {percents(*faces.recall_at.values())}",
        f"face to text, recall {percents(*text.recall_at.values())} –",
        "anger happiness smirk mean",
        f"average precision {percents(*faces.average_precision.values(), faces.mean_average_precision)}",
    ]
    assert "each of 9 prompts is a query" in page.text
    assert "among the 120 scored ones" in page.text and "among all 9 prompts" in page.text


def test_multilabel_samples_are_scored_as_binary_labels():
    manifest = multilabel_manifest()
    page = page_of(manifest)
    labels = [score.labels for score in manifest.protocols.values()]
    assert page.rows("Several expressions at once")[1:] == [
        f"macro UF1 {percents(*(each.macro_uf1 for each in labels))}",
        f"UAR {percents(*(each.uar for each in labels))}",
        *(
            f"{word}, F1 {percents(*(each.f1[c] for each in labels))}"
            for c, word in (("HA", "happiness"), ("SU", "surprise"))
        ),
    ]
    assert "happiness + surprise, recall" in page.text


def test_sections_without_data_are_left_out():
    page = page_of(retrieval=None, view_protocol="knn", view_scores=(view_score("front"),))
    for part in ("Several expressions at once", "Accuracy by views", "Recall at k", "Figures", "Faces", "Input:"):
        assert part not in page.text


def test_class_without_samples_is_a_dash():
    partial = evaluation_manifest().protocols["knn"].model_copy(update={"per_class": {"AN": 0.25}})
    text = page_of(protocols={"knn": partial}).text
    assert "smirk, recall – " in text and "anger, recall 25.0 %" in text


def test_headline_names_recipe_samples_and_protocols():
    headline = (
        "smile-vlm: 3 expressions, 120 scans of 7 subjects that training never saw, by zero-shot, "
        "nearest neighbours and linear probe"
    )
    assert headline in page_of().text
    one = evaluation_manifest(protocols={"knn": evaluation_manifest().protocols["knn"]})
    assert "that training never saw, by nearest neighbours " in page_of(one).text


@pytest.mark.parametrize(
    ("changes", "shown", "hidden"),
    [
        ({}, "kfold:10:0: neither the model nor a classifier has seen any of them.", "whether or not"),
        ({"split": "all"}, "whether or not the model was trained on their subjects", "never saw"),
        ({"split": "all", "fitted_on": "f"}, "Cross-dataset evaluation: the model was trained", "whether or not"),
        ({"text_source": "label"}, "These prompts are supervision.", "No text took part"),
        ({"text_source": "au"}, "These prompts are supervision.", "No text took part"),
        ({"text_source": "geometry"}, "No label wrote these prompts.", "supervision"),
        ({"text_source": "knowledge"}, "this knowledge is partly circular.", "supervision"),
        ({"text_source": "pseudo"}, "No label chose these prompts.", "supervision"),
        ({"text_source": "none"}, "No text took part in training", "supervision"),
        (
            {"recipe": "supervised"},
            "labels of its training subjects as classes; no text took part.",
            "prompts are supervision",
        ),
    ],
)
def test_page_says_what_was_scored_and_what_was_learned_from(changes, shown, hidden):
    text = page_of(**changes).text
    assert shown in text and hidden not in text


@pytest.mark.parametrize(
    ("temporal", "num_frames", "sentence"),
    [
        ("frames", 480, "Input: frames of each sequence, at most 6 frames (480 frames in all)."),
        ("dynamic", 0, "Input: the dynamic image of each sequence."),
        ("both", 480, "frames and the dynamic image of each sequence, at most 6 frames (480 frames in all)."),
    ],
)
def test_page_describes_the_input_of_sequences(temporal, num_frames, sentence):
    text = page_of(temporal=temporal, max_frames=6, num_scans=40, num_sequences=80, num_frames=num_frames).text
    assert "40 scans and 80 sequences of 7 subjects" in text and sentence in text
    assert "scored 40 scans and 80 sequences" in text


def test_page_embeds_its_images_and_loads_nothing():
    sheet = io.BytesIO()
    Image.new("RGB", (4, 4)).save(sheet, "png")
    figure = plots.class_recall(evaluation_manifest().protocols, CLASSES)
    page = page_of(figures={"Recall": figure}, sheet=sheet.getvalue())
    assert [link.partition(";")[0] for link in page.links] == ["data:image/svg+xml", "data:image/png"]
    assert [base64.b64decode(link.partition(",")[2]) for link in page.links] == [figure, sheet.getvalue()]
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)


def test_style_has_a_dark_mode_and_loads_nothing():
    style = evaluation_page(
        evaluation_manifest(), run_manifest("5" * 32).model_copy(update={"recipe": {"arch": ""}}), {}, None
    )
    style = style.partition("<style>")[2].partition("</style>")[0]
    assert "@media (prefers-color-scheme: dark)" in style and "&" not in style
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_text_from_outside_is_escaped():
    manifest = evaluation_manifest(("AN", HOSTILE, "HA"), recipe=HOSTILE, where=HOSTILE, notes=(f"n{HOSTILE}",))
    manifest = manifest.model_copy(update={"protocols": {**manifest.protocols, HOSTILE: manifest.protocols["knn"]}})
    page = page_of(manifest, figures={HOSTILE: b"<svg/>"}, run_split=HOSTILE)
    assert "script" not in page.tags and "<script" not in page.html
    assert f"{HOSTILE}, recall" in page.text and f"N{HOSTILE}." in page.text and f"scored: {HOSTILE}." in page.text
    assert page.text.count(HOSTILE) >= 10


def test_facts_and_fingerprints_are_listed():
    text = page_of().text
    for fact in ("image tower smile-tiny on rgb images", "a" * 32, "5" * 32, "e" * 32, "anger, happiness, smirk"):
        assert fact in text
