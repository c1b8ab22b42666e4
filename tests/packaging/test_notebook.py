"""The notebook: every cell runs, in order, and its links exist."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "pipeline" / "README.ipynb"


def cells(kind: str) -> list[str]:
    content = json.loads(NOTEBOOK.read_text())
    return [cell["source"] for cell in content["cells"] if cell["cell_type"] == kind]


def value_of(source: str, names: dict) -> object:
    """Run a cell; returns the value of its last line, as a notebook shows it."""
    *before, last = source.splitlines()
    exec("\n".join(before), names)
    return eval(last, names)


@pytest.mark.slow
def test_cells_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    synth, rendered, sheet, sample, trained, scores, prediction, by_prompts = (
        value_of(source, names) for source in cells("code")
    )
    assert synth.num_scans == rendered[0] == 8 * 13 and rendered[1] == 0
    assert sheet.width > 500 and sample[1] == names["row"].subject
    assert trained[0] == names["run"].num_steps and not set(trained[1]) & set(trained[2])
    # Chance is 1/7 for seven expressions.
    assert set(scores) == {"zero-shot", "knn", "probe"} and scores["knn"][0] > 0.3
    assert sum(prediction[1].values()) == pytest.approx(1) and len(by_prompts) == 2


def test_it_is_stored_without_outputs():
    content = json.loads(NOTEBOOK.read_text())
    assert content["nbformat"] == 4
    for cell in content["cells"]:
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None


def test_links_exist():
    links = re.findall(r"\]\(([^)#]+)", "\n".join(cells("markdown")))
    assert len(links) >= 5
    for link in links:
        assert (NOTEBOOK.parent / link).exists(), link
