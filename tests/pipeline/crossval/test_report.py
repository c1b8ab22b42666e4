"""The page of a cross-validation: every figure of the manifest is on it, and nothing from outside gets in unescaped."""

import re

import pytest

from helpers.crossval_manifests import ACCURACIES, manifest
from smile_pipe.pipeline.crossval.report import crossval_page
from smile_pipe.pipeline.reports.plots import fold_accuracy


def text_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.split("</style>")[1])).replace("\u00a0", " ")


def test_means_deviations_and_folds_are_told():
    told = text_of(crossval_page(manifest()))
    assert "smile-vlm naming 2 expressions on 16 samples of 4 subjects, in 2 folds" in told
    assert "Zero-shot 89.2 % ± 2.7" in told
    assert "macro F1 32.1 % ± 1.2" in told
    assert "happiness, recall 77.7 % 77.7 %" in told
    assert "level 4, accuracy 44.4 % ± 4.6" in told
    assert "kfold:2:1 2 8 87.3 % 55.5 %" in told
    assert "macro UF1 23.4 % 23.4 % UAR 34.5 % 34.5 %" in told
    assert "Guessing would be right for about 50.0 %" in told


def test_what_was_left_out_and_which_samples_counted_is_said():
    told = text_of(crossval_page(manifest(without=("mv",), protocol="bu3dfe", subset="I", where="level in (3, 4)")))
    assert "smile-vlm without mv naming" in told
    assert "Protocol bu3dfe, subset I:" in told
    assert "Only samples for which this holds count: level in (3, 4)." in told


@pytest.mark.parametrize(
    ("source", "said"), [("label", "These prompts are supervision."), ("none", "No text took part")]
)
def test_where_the_text_came_from_is_said(source, said):
    assert said in text_of(crossval_page(manifest(text_source=source)))


def test_nothing_from_outside_is_markup():
    page = crossval_page(manifest(where="key != '<script>alert(1)</script>'", classes=("HA", "<b>x</b>")))
    assert "<script>" not in page and "<b>x" not in page


def test_it_holds_all_that_it_shows():
    page = crossval_page(manifest())
    assert page.count('src="data:image/svg+xml;base64,') == page.count("<img") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_folds_are_drawn_the_same_each_time_and_one_fold_has_no_bar():
    assert fold_accuracy(ACCURACIES) == fold_accuracy(ACCURACIES)
    one = fold_accuracy({"probe": [0.5]})
    assert one.startswith(b"<?xml") and fold_accuracy({"probe": [0.5, 0.6]}) != one
