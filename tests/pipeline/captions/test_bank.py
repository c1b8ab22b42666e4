"""The shipped prompt bank, banks of the user's own, and how a sample draws its prompt."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smile_pipe.pipeline.captions.bank import PromptBank, load
from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.shards.errors import UsageError


@pytest.fixture
def bank_file(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "my-bank.yaml"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_the_shipped_bank_has_a_dozen_wordings_for_each_of_the_seven_expressions():
    bank = load()
    assert set(bank.templates) == set(EXPRESSIONS)
    assert all(len(prompts) >= 12 for prompts in bank.templates.values())


def test_the_shipped_bank_says_nothing_twice():
    prompts = [prompt for prompts in load().templates.values() for prompt in prompts]
    assert len(set(prompts)) == len(prompts)
    assert all(prompt == prompt.strip().lower() for prompt in prompts)


def test_about_half_of_each_list_describes_the_muscles_of_the_face():
    parts = ("brow", "lip", "eye", "nose", "mouth", "cheek", "jaw", "chin", "forehead", "muscle", "lid", "neck")
    for expression, prompts in load().templates.items():
        described = sum(any(part in prompt for part in parts) for prompt in prompts)
        assert 0.4 <= described / len(prompts) <= 0.6, expression


def test_a_prompt_comes_from_the_list_of_its_expression_and_all_of_the_list_is_used():
    bank = load()
    drawn = {bank.prompt_for(f"F{i:04d}_SU01WH", "SU") for i in range(400)}
    assert drawn == set(bank.templates["SU"])


@given(st.text(min_size=1, max_size=20))
def test_the_same_key_always_draws_the_same_prompt(key):
    assert load().prompt_for(key, "HA") == load().prompt_for(key, "HA")


def test_another_process_with_another_hash_seed_draws_the_same_prompts():
    code = (
        "from smile_pipe.pipeline.captions.bank import load; "
        "print([load().prompt_for(f'k{i}', 'FE') for i in range(20)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{[load().prompt_for(f'k{i}', 'FE') for i in range(20)]}\n"}


def test_an_expression_that_the_shipped_bank_does_not_know_is_said_by_its_name():
    bank = load()
    assert {bank.prompt_for(f"k{i}", "mouth_stretch") for i in range(50)} == {
        other.replace("{}", "mouth stretch") for other in bank.others
    }


def test_a_bank_without_general_wordings_refuses_an_expression_that_it_does_not_know(bank_file):
    bank = load(bank_file("HA: [a happy face]\n"))
    with pytest.raises(UsageError, match=r"no templates for the expression 'smirk'.*it knows HA"):
        bank.prompt_for("F0001_X", "smirk")


def test_several_expressions_have_the_wordings_of_each_joined(bank_file):
    bank = load(bank_file("HA: [a happy face, a smile]\nSU: [wide eyes]\n"))
    assert bank.templates_for("HA;SU") == ("a happy face and wide eyes", "a smile and wide eyes")


def test_a_bank_may_use_words_and_add_expressions(bank_file):
    bank = load(bank_file("surprise: [a surprised face]\nSmirk:\n  - one mouth corner up\n"))
    assert bank.templates == {"SU": ("a surprised face",), "smirk": ("one mouth corner up",)}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("HA: [a, b", "not valid YAML"),
        ("", "mapping"),
        ("- a happy face", "mapping"),
        ("HA: []", "'HA' needs a list of at least one prompt"),
        ("HA: a happy face", "'HA' needs a list"),
        ("HA: [a happy face, no]", "'HA' holds False"),
        ("HA: [a happy face, 3]", "'HA' holds 3"),
        ("HA: ['  ']", "not a prompt"),
        ("no: [a face]", "expression False is not text"),
        ("HA: [a happy face]\nhappy: [a glad face]", "second list"),
        ("HA: [a face]\n'*': [any face]", "'any face', which says the same of every expression"),
        ("HA: [a face]\nSA: [a face]", "'a face' stands under 'HA' and under 'SA'"),
    ],
)
def test_a_wrong_bank_is_refused_with_its_file_and_what_is_wrong(bank_file, text, wrong):
    path = bank_file(text)
    with pytest.raises(UsageError, match=wrong) as refused:
        load(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_bank_that_cannot_be_read_is_refused_with_its_file(tmp_path, bank_file):
    with pytest.raises(UsageError, match=r"absent\.yaml"):
        load(tmp_path / "absent.yaml")
    with pytest.raises(UsageError, match="UTF-8"):
        load(bank_file("HA: [glücklich]", "latin-1"))


def test_a_bank_survives_the_manifest():
    bank = load()
    assert PromptBank.model_validate_json(bank.model_dump_json()) == bank
