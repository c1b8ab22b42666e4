"""Warnings about prompts of different classes that a text tower cuts to equal tokens."""

import logging

import pytest

from helpers import small_runs
from smile_pipe.model.towers import build_tokenizer
from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.captions.equal_tokens import warn_on_equal_tokens
from smile_pipe.pipeline.train.stage import prepare

LONG = "a detailed photograph of the face of a person, seen from several sides under even light, in which the person "
PROMPTS = {"HA": (f"{LONG * 2} smiles", "a smile"), "SA": (f"{LONG * 2} weeps", "tears"), "NE": ()}


@pytest.fixture(autouse=True)
def _log_level(caplog) -> None:
    caplog.set_level(logging.WARNING)


def test_prompts_that_are_cut_to_equal_tokens_are_counted(caplog):
    warn_on_equal_tokens(build_tokenizer("smile-nano"), PROMPTS)
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith("1 prompt equal to one of another class")
    assert "weeps' of SA and HA; write shorter prompts" in caplog.messages[0]


@pytest.mark.parametrize(
    "prompts", [load_bank().templates, {"HA": (f"{LONG * 2} smiles", f"{LONG * 2} laughs"), "SA": ("tears",)}]
)
def test_others_are_not(caplog, prompts):
    warn_on_equal_tokens(build_tokenizer("smile-nano"), prompts)
    assert caplog.messages == []


@pytest.mark.parametrize(("recipe", "count"), [("smile-vlm", 1), ("supervised", 0), ("barlow", 0)])
def test_training_that_reads_prompts_warns(tmp_path, caplog, recipe, count):
    # The text tower has six tokens, and the prompts are "a face of" and two more.
    shards = small_runs.write_shards(tmp_path)
    prepare(small_runs.config(shards, tmp_path / "run", recipe=recipe), in_process=True)
    assert len([text for text in caplog.messages if "for the text tower" in text]) == 0
    manifest = (shards / "manifest.json").read_text()
    (shards / "manifest.json").write_text(manifest.replace("a face of ", "a face of a person who shows "))
    prepare(small_runs.config(shards, tmp_path / "run", recipe=recipe), in_process=True)
    assert (
        len([text for text in caplog.messages if text.startswith("2 prompts equal to one of another class")]) == count
    )
