"""Questions in the evaluation stage: manifest, tables, report and command."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from helpers.html_text import Page
from smile_pipe.cli.commands.evaluate import _main_parts, _question_table
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.stage import run
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.question_scores import QuestionPart
from smile_pipe.shards.errors import UsageError

QUESTIONS = ("analogy", "missing-views", "few-labels", "printed-word", "fewshot:2")


@pytest.fixture(scope="module")
def run_copy(run_dir, tmp_path_factory) -> Path:
    return Path(shutil.copytree(run_dir, tmp_path_factory.mktemp("questions") / "run"))


@pytest.fixture(scope="module")
def manifest(run_copy, shards_dir) -> EvaluationManifest:
    return run(EvaluateConfig(run=run_copy, shards=str(shards_dir), protocol=("knn", *QUESTIONS), split="all"))


def test_manifest_has_all_answers(manifest, run_copy):
    written = json.loads((run_copy / "evaluation" / "manifest.json").read_text())
    assert tuple(manifest.questions) == QUESTIONS and written["questions"].keys() == set(QUESTIONS)
    assert manifest.protocols.keys() == {"knn"}
    for score in manifest.questions.values():
        assert score.parts
        for part in score.parts:
            assert part.num_questions > 0 and 0 <= part.accuracy <= 1 and 0 < part.chance < 1
    # Prompts are embedded for questions, but zero-shot was not requested.
    assert manifest.retrieval is None
    assert "word" in {part.name for part in manifest.questions["fewshot:2"].parts}


def test_table_has_all_answers(manifest, run_copy):
    with (run_copy / "evaluation" / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["protocol"] == "missing-views"]
    values = {row["measure"]: float(row["value"]) for row in rows}
    for part in manifest.questions["missing-views"].parts:
        assert values[f"{part.group}: {part.name}"] == pytest.approx(part.accuracy, abs=1e-5)


def test_report_has_a_section_and_a_picture_for_each_question(manifest, run_copy):
    html = (run_copy / "evaluation" / "report.html").read_text()
    page = Page(html)
    for title in ("Analogies", "Missing views", "Few labels", "Printed words", "Few shots, 2 examples per class"):
        assert title in page.text
    assert html.count("<figure") >= 3


def test_command_prints_answers(manifest):
    table = _question_table(manifest)
    assert set(table.columns[0].cells) == set(QUESTIONS)
    assert all("-" in cell for cell in table.columns[3].cells)


def test_questions_alone_need_no_protocol(run_copy, shards_dir):
    alone = run(EvaluateConfig(run=run_copy, shards=str(shards_dir), protocol=("fewshot:1",), split="all"))
    assert not alone.protocols and tuple(alone.questions) == ("fewshot:1",)
    page = (run_copy / "evaluation" / "report.html").read_text()
    assert "Few shots, 1 example per class" in page


def test_other_questions_are_another_evaluation(manifest, run_copy, shards_dir):
    again = run(EvaluateConfig(run=run_copy, shards=str(shards_dir), protocol=("knn", "fewshot:2"), split="all"))
    assert again.fingerprint != manifest.fingerprint
    assert again.questions["fewshot:2"] == manifest.questions["fewshot:2"]


def test_caption_check_needs_measured_captions(run_copy, shards_dir):
    with pytest.raises(UsageError, match="text=geometry"):
        run(EvaluateConfig(run=run_copy, shards=str(shards_dir), protocol=("caption-check",), split="all"))


@pytest.mark.parametrize("name", ["fewshot:0", "fewshot:1000", "fewshot", "analogies"])
def test_unknown_question_raises(run_copy, shards_dir, name):
    with pytest.raises(ValueError, match="protocol"):
        EvaluateConfig(run=run_copy, shards=str(shards_dir), protocol=(name,))


def test_command_prints_the_main_parts_of_missing_views():
    values = {"a": 0.5, "b": 0.4, "c": 0.3, "a + b": 0.6, "a + c": 0.7, "b + c": 0.2, "a + b + c": 0.1}
    means = {"mean of 1 of 3 views": 0.4, "mean of 2 of 3 views": 0.5}
    parts = [
        QuestionPart(
            group=group, name=name, num_questions=9, accuracy=share if group == "probe" else 1 - share, chance=0.1
        )
        for group in ("zero-shot", "probe")
        for name, share in (values | means).items()
    ]
    shown = [(part.group, name, part.accuracy) for name, part in _main_parts("missing-views", parts)]
    assert [name for group, name, _ in shown if group == "probe"] == [
        *("a", "b", "c", "a + c (best of 3)", "a + b + c", *means)
    ]
    assert ("zero-shot", "b + c (best of 3)", 0.8) in shown and len(shown) == 14
    # Of other questions, main parts are those without a kind in their name.
    others = [
        part.model_copy(update={"name": name}) for part, name in zip(parts, ("all", "level: 2", "a + b"), strict=False)
    ]
    assert [name for name, _ in _main_parts("caption-check", others)] == ["all", "a + b"]
