"""The built-in prompt bank, user banks, and how the prompt of a sample is drawn."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smile_pipe.pipeline.captions.bank import PromptBank, load_bank
from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.shards.errors import UsageError


@pytest.fixture
def bank_file(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "my-bank.yaml"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_builtin_bank_has_a_dozen_prompts_for_each_basic_expression():
    bank = load_bank()
    assert set(bank.templates) == set(EXPRESSIONS)
    assert all(len(prompts) >= 12 for prompts in bank.templates.values())


def test_builtin_bank_has_no_duplicates():
    prompts = [prompt for prompts in load_bank().templates.values() for prompt in prompts]
    assert len(set(prompts)) == len(prompts)
    assert all(prompt == prompt.strip().lower() for prompt in prompts)


def test_about_half_of_each_list_describes_facial_muscles():
    parts = ("brow", "lip", "eye", "nose", "mouth", "cheek", "jaw", "chin", "forehead", "muscle", "lid", "neck")
    for expression, prompts in load_bank().templates.items():
        described = sum(any(part in prompt for part in parts) for prompt in prompts)
        assert 0.4 <= described / len(prompts) <= 0.6, expression


def test_all_prompts_of_an_expression_are_drawn():
    bank = load_bank()
    drawn = {bank.prompt_for(f"F{i:04d}_SU01WH", "SU") for i in range(400)}
    assert drawn == set(bank.templates["SU"])


@given(st.text(min_size=1, max_size=20))
def test_equal_keys_draw_equal_prompts(key):
    assert load_bank().prompt_for(key, "HA") == load_bank().prompt_for(key, "HA")


def test_prompts_do_not_depend_on_the_hash_seed():
    code = (
        "from smile_pipe.pipeline.captions.bank import load_bank; "
        "print([load_bank().prompt_for(f'k{i}', 'FE') for i in range(20)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{[load_bank().prompt_for(f'k{i}', 'FE') for i in range(20)]}\n"}


def test_unknown_expression_uses_its_name():
    bank = load_bank()
    assert {bank.prompt_for(f"k{i}", "mouth_stretch") for i in range(50)} == {
        other.replace("{}", "mouth stretch") for other in bank.others
    }


def test_unknown_expression_is_rejected_without_general_prompts(bank_file):
    bank = load_bank(bank_file("HA: [a happy face]\n"))
    with pytest.raises(UsageError, match=r"no templates for the expression 'smirk': it has HA"):
        bank.prompt_for("F0001_X", "smirk")


def test_prompts_of_compound_expressions_are_joined(bank_file):
    bank = load_bank(bank_file("HA: [a happy face, a smile]\nSU: [wide eyes]\n"))
    assert bank.templates_for("HA;SU") == ("a happy face and wide eyes", "a smile and wide eyes")


def test_bank_accepts_words_and_new_expressions(bank_file):
    bank = load_bank(bank_file("surprise: [a surprised face]\nSmirk:\n  - one mouth corner up\n"))
    assert bank.templates == {"SU": ("a surprised face",), "smirk": ("one mouth corner up",)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("HA: [a, b", "not valid YAML"),
        ("", "mapping"),
        ("- a happy face", "mapping"),
        ("HA: []", "the value of 'HA' is not a list of prompts"),
        ("HA: a happy face", "the value of 'HA' is not a list"),
        ("HA: [a happy face, no]", "'HA' contains False"),
        ("HA: [a happy face, 3]", "'HA' contains 3"),
        ("HA: ['  ']", "not a prompt"),
        ("no: [a face]", "expression False is not a string"),
        ("HA: [a happy face]\nhappy: [a glad face]", "second list"),
        ("HA: [a face]\n'*': [any face]", "'any face' without a placeholder"),
        ("HA: [a face]\nSA: [a face]", "'a face' belongs to 'HA' and to 'SA'"),
    ],
)
def test_invalid_bank_error_names_file_and_problem(bank_file, text, problem):
    path = bank_file(text)
    with pytest.raises(UsageError, match=problem) as error:
        load_bank(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_unreadable_bank_error_names_file(tmp_path, bank_file):
    with pytest.raises(UsageError, match=r"absent\.yaml"):
        load_bank(tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="UTF-8"):
        load_bank(bank_file("HA: [glücklich]", "latin-1"))


def test_bank_round_trips_through_json():
    bank = load_bank()
    assert PromptBank.model_validate_json(bank.model_dump_json()) == bank
