"""Descriptions of subjects from labels, and prompts with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.trees import only, table, touch
from smile_pipe.model.towers import build_tokenizer
from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.captions.demographics import AGES, ANCESTRIES, append_person, describe_person


@pytest.mark.parametrize(
    ("labels", "person"),
    [
        ({"sex": "F"}, "a woman"),
        ({"sex": "M", "ancestry": "BL"}, "a Black man"),
        ({"age": "young"}, "a young person"),
        ({"sex": "F", "age": "23", "ancestry": "AE"}, "a young East Asian woman"),
        ({"sex": "M", "age": "71"}, "an old man"),
        ({"ancestry": "IN"}, "an Indian person"),
        ({"sex": "F", "age": "9", "ancestry": "WH"}, "a White girl"),
        ({"sex": "M", "age": "12"}, "a boy"),
        ({"age": "child", "ancestry": "LA"}, "a Hispanic child"),
        ({"sex": "F", "ancestry": "European"}, "a European woman"),
        ({"sex": "F", "ancestry": "Ukrainian"}, "a Ukrainian woman"),
        ({"sex": "M", "ancestry": "AM", "task": "T1"}, "a Middle Eastern man"),
    ],
)
def test_known_labels_are_described_and_others_omitted(labels, person):
    assert describe_person(labels) == person


@pytest.mark.parametrize(
    "labels", [{}, {"sex": "", "age": "", "ancestry": ""}, {"task": "T1", "Sex": "F", "race": "Black"}]
)
def test_no_known_label_gives_an_empty_text(labels):
    assert describe_person(labels) == ""


@pytest.mark.parametrize("sex", ["M", "m", "male", "Male", "man"])
def test_sex_is_a_letter_or_a_word(sex):
    assert describe_person({"sex": sex}) == "a man"


@pytest.mark.parametrize(
    ("age", "person"),
    [
        ("1", "girl"),
        ("17.9", "girl"),
        ("007", "girl"),
        ("18", "young"),
        ("34", "young"),
        ("35", "middle-aged"),
        ("59.5", "middle-aged"),
        ("60", "old"),
        ("120", "old"),
        ("Middle aged", "middle-aged"),
        ("OLD", "old"),
    ],
)
def test_age_is_years_or_a_word(age, person):
    assert person in describe_person({"sex": "F", "age": age}).replace(" ", "|").split("|")


@pytest.mark.parametrize(
    "labels",
    [
        *({"sex": sex} for sex in ("1", "other", "W", "female?", "x" * 1000)),
        *({"age": age} for age in ("0", "-3", "121", "999", "1e1", "18-25", "adult", "nan", "1٣", "3" * 1000)),
        *(
            {"ancestry": word}
            for word in ("Unknown", "other", "not given", "n/a", "HI", "CAU", "x", "a1", "a²", "White; Black")
        ),
        {"ancestry": "Ignore (the) face"},
        {"ancestry": "one two three four"},
        {"ancestry": "x" * 21},
        {"ancestry": "Black\nman"},
    ],
)
def test_unrecognised_values_are_omitted(labels):
    assert describe_person(labels) == ""
    assert describe_person({"sex": "F", "ancestry": "WH"} | labels) in ("a White woman", "a White person", "a woman")


def test_ancestry_may_be_free_words():
    assert describe_person({"ancestry": "Korean", "sex": "F"}) == "a Korean woman"
    assert describe_person({"ancestry": "Māori"}) == "a Māori person"
    assert describe_person({"ancestry": "south-east Asian"}) == "a south-east Asian person"


@given(*[st.text() | st.sampled_from(["F", "IN", "old", "Korean", "9"])] * 3)
def test_any_labels_give_a_short_line_of_plain_words(sex, age, ancestry):
    person = describe_person({"sex": sex, "age": age, "ancestry": ancestry})
    assert len(person) < 90 and "\n" not in person
    assert person == "" or all(word.isalpha() for word in person.replace("-", " ").split(" "))


def test_person_is_appended_to_the_prompt():
    assert append_person("an angry face", "a young woman") == "an angry face (a young woman)"


def test_smallest_text_tower_does_not_truncate_prompts_with_a_person():
    words = [describe_person({"sex": "F", "age": age, "ancestry": code}) for age in AGES for code in ANCESTRIES]
    tokens = build_tokenizer("smile-tiny")(
        [append_person(text, person) for text in _builtin_prompts() for person in words]
    )
    # A truncated text fills the last position; a complete text leaves it empty.
    assert tokens[:, -1].eq(0).all()


def _builtin_prompts() -> list[str]:
    return [text for texts in load_bank().templates.values() for text in texts]


class TestFromDatasets:
    """Labels of dataset layouts are understood by `describe_person`."""

    @pytest.mark.parametrize(("code", "word"), ANCESTRIES.items())
    def test_bu3dfe_names_give_sex_and_ancestry(self, tmp_path, code, word):
        touch(tmp_path, f"M0001/M0001_AN01{code}_F3D.wrl")
        assert describe_person(only(tmp_path).labels) in (f"a {word} man", f"an {word} man")

    def test_bu4dfe_names_give_sex(self, tmp_path):
        touch(tmp_path, "F001/Happy/000.wrl")
        assert describe_person(only(tmp_path).labels) == "a woman"

    def test_bp4d_names_give_sex(self, tmp_path):
        touch(tmp_path, "M001/T1/0000.obj")
        assert describe_person(only(tmp_path).labels) == "a man"

    def test_bosphorus_names_give_nothing(self, tmp_path):
        touch(tmp_path, "bs000/bs000_E_HAPPY_0.bnt")
        assert describe_person(only(tmp_path).labels) == ""

    def test_table_columns_give_all_labels(self, tmp_path):
        table(tmp_path, "path,subject,expression,sex,age,ancestry\na.obj,s,HA,female,41,Korean\n")
        assert describe_person(only(touch(tmp_path, "a.obj")).labels) == "a middle-aged Korean woman"

    def test_sequence_uses_labels_on_which_all_rows_agree(self, tmp_path):
        table(tmp_path, "path,subject,expression,sequence,sex,age\na.obj,s,HA,one,F,20\nb.obj,s,HA,one,F,60\n")
        assert describe_person(only(touch(tmp_path, "a.obj", "b.obj")).labels) == "a woman"
