"""The page of a cross-validation: it has all scores of the manifest, and text from outside is escaped."""

import re

import pytest

from helpers.crossval_manifests import ACCURACIES, crossval_manifest
from smile_pipe.pipeline.crossval.report import crossval_page
from smile_pipe.pipeline.reports.plots import fold_accuracy


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split("</style>")[1])).replace("\u00a0", " ")


def test_page_has_means_deviations_and_folds():
    text = text_of(crossval_page(crossval_manifest()))
    assert "smile-vlm: 2 expressions, 16 samples of 4 subjects, in 2 folds" in text
    assert "Zero-shot 89.2 % ± 2.7" in text
    assert "macro F1 32.1 % ± 1.2" in text
    assert "happiness, recall 77.7 % 77.7 %" in text
    assert "level 4, accuracy 44.4 % ± 4.6" in text
    assert "kfold:2:1 2 8 87.3 % 55.5 %" in text
    assert "macro UF1 23.4 % 23.4 % UAR 34.5 % 34.5 %" in text
    assert "Chance level is about 50.0 %." in text


def test_page_names_left_out_losses_and_conditions():
    text = text_of(
        crossval_page(crossval_manifest(without=("mv",), protocol="bu3dfe", subset="I", where="level in (3, 4)"))
    )
    assert "smile-vlm without mv: 2 expressions" in text
    assert "Split protocol bu3dfe, subset I:" in text
    assert "Only samples with this condition count: level in (3, 4)." in text


@pytest.mark.parametrize(
    ("source", "note"), [("label", "These prompts are supervision."), ("none", "No text took part")]
)
def test_page_has_a_note_on_the_text_source(source, note):
    assert note in text_of(crossval_page(crossval_manifest(text_source=source)))


def test_text_from_outside_is_escaped():
    page = crossval_page(crossval_manifest(where="key != '<script>alert(1)</script>'", classes=("HA", "<b>x</b>")))
    assert "<script>" not in page and "<b>x" not in page


def test_page_is_self_contained():
    page = crossval_page(crossval_manifest())
    assert page.count('src="data:image/svg+xml;base64,') == page.count("<img") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_fold_plot_is_deterministic_also_for_one_fold():
    assert fold_accuracy(ACCURACIES) == fold_accuracy(ACCURACIES)
    one = fold_accuracy({"probe": [0.5]})
    assert one.startswith(b"<?xml") and fold_accuracy({"probe": [0.5, 0.6]}) != one
