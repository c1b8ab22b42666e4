"""The page of a cross-validation: it has all scores of the manifest, and text from outside is escaped."""

import pytest

from helpers.crossval_manifests import crossval_manifest
from helpers.html_text import Page
from smile_pipe.pipeline.crossval.report import crossval_page
from smile_pipe.pipeline.runs.crossval_manifest import QuestionFolds


def page_of(**changes) -> Page:
    return Page(crossval_page(crossval_manifest(**changes)))


def test_page_has_means_deviations_and_folds():
    text = page_of().text
    for part in (
        "smile-vlm: 2 expressions, 16 samples of 4 subjects, in 2 folds",
        "Zero-shot 89.2 % ± 2.7",
        "macro F1 32.1 % (30.1–34.1)",
        "accuracy, all samples 88.8 % 88.8 % macro F1, all samples 32.1 % (30.1–34.1)",
        "the mean of the macro F1 of single folds would be biased",
        "happiness, recall 77.7 % 77.7 %",
        "level 4, accuracy 44.4 % ± 4.6",
        "kfold:2:1 2 8 87.3 % 55.5 %",
        "macro UF1 23.4 % 23.4 % UAR 34.5 % 34.5 %",
        "Each protocol chooses among 2 expressions, those of the selected samples, so chance level is about 50.0 %.",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"without": ("mv",)}, "smile-vlm without mv: 2 expressions"),
        ({"protocol": "bu3dfe", "subset": "I"}, "Split protocol bu3dfe, subset I:"),
        ({"protocol": "across"}, "Cross-dataset evaluation: the model was trained on one dataset"),
        ({"where": "level in (3, 4)"}, "Only samples with this condition count: level in (3, 4)."),
        ({"text_source": "label"}, "These prompts are supervision."),
        ({"text_source": "none"}, "No text took part"),
        ({"views": ("left",)}, "in 2 folds, from the view left"),
        ({"views": ("left",)}, "Every score is of one view, left."),
        ({"views": ("front", "left")}, "Every score is of 2 views together (front, left)."),
        ({"rig_differences": ("images of 24 px",)}, "The runs were trained on another rig: images of 24 px."),
    ],
)
def test_page_names_losses_conditions_and_source_of_text(changes, part):
    assert part in page_of(**changes).text


def test_page_has_the_answers_to_questions():
    parts = (
        QuestionFolds(group="choice", name="all", folds=(0.9, 0.7), chance=0.5, baseline=0.61),
        QuestionFolds(group="locate", name="all", folds=(0.4, 0.4), chance=0.25),
    )
    text = page_of(questions={"caption-check": parts}).text
    assert "Caption check correct chance simpler way choice all 80.0 % ± 14.1 50.0 % 61.0 %" in text
    assert "locate all 40.0 % ± 0.0 25.0 % –" in text
    assert "Caption check" not in page_of().text


def test_text_from_outside_is_escaped():
    page = page_of(where="key != '<script>alert(1)</script>'", classes=("HA", "<b>x</b>"))
    assert not {"script", "b"} & set(page.tags) and "<b>x</b>, recall" in page.text


def test_page_is_self_contained():
    page = page_of()
    assert page.tags.count("img") == len(page.links) == 3
    assert all(link.startswith("data:image/svg+xml;base64,") for link in page.links)
