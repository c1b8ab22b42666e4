"""Who is shown, in words: what labels tell of a person, and how a prompt says it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.trees import only, table, touch
from smile_pipe.model.towers import build_tokenizer
from smile_pipe.pipeline.captions.bank import load
from smile_pipe.pipeline.captions.demographics import AGES, ANCESTRIES, person, with_person


@pytest.mark.parametrize(
    ("labels", "who"),
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
def test_what_is_known_is_said_and_the_rest_left_out(labels, who):
    assert person(labels) == who


@pytest.mark.parametrize(
    "labels", [{}, {"sex": "", "age": "", "ancestry": ""}, {"task": "T1", "Sex": "F", "race": "Black"}]
)
def test_where_nothing_is_known_nothing_is_said(labels):
    assert person(labels) == ""


@pytest.mark.parametrize("sex", ["M", "m", "male", "Male", "man"])
def test_a_sex_may_be_a_letter_or_a_word(sex):
    assert person({"sex": sex}) == "a man"


@pytest.mark.parametrize(
    ("age", "who"),
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
def test_an_age_is_years_or_a_word(age, who):
    assert who in person({"sex": "F", "age": age}).replace(" ", "|").split("|")


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
def test_what_is_not_understood_is_left_unsaid(labels):
    assert person(labels) == ""
    assert person({"sex": "F", "ancestry": "WH"} | labels) in ("a White woman", "a White person", "a woman")


def test_an_ancestry_may_be_words_of_its_own_in_any_script():
    assert person({"ancestry": "Korean", "sex": "F"}) == "a Korean woman"
    assert person({"ancestry": "Māori"}) == "a Māori person"
    assert person({"ancestry": "south-east Asian"}) == "a south-east Asian person"


@given(*[st.text() | st.sampled_from(["F", "IN", "old", "Korean", "9"])] * 3)
def test_whatever_the_labels_are_it_is_a_short_line_of_plain_words(sex, age, ancestry):
    who = person({"sex": sex, "age": age, "ancestry": ancestry})
    assert len(who) < 90 and "\n" not in who
    assert who == "" or all(word.isalpha() for word in who.replace("-", " ").split(" "))


def test_a_prompt_says_it_last():
    assert with_person("an angry face", "a young woman") == "an angry face (a young woman)"


def test_the_smallest_tower_reads_every_prompt_of_the_shipped_bank_to_its_end_with_the_longest_person():
    words = [person({"sex": "F", "age": age, "ancestry": code}) for age in AGES for code in ANCESTRIES]
    tokens = build_tokenizer("smile-tiny")([with_person(text, who) for text in _shipped() for who in words])
    # What is cut off ends in the last place; what is not has nothing there.
    assert tokens[:, -1].eq(0).all()


def _shipped() -> list[str]:
    return [text for texts in load().templates.values() for text in texts]


class TestFromDatasets:
    """What a dataset says reaches `person` by the labels that shards carry."""

    @pytest.mark.parametrize(("code", "word"), ANCESTRIES.items())
    def test_names_of_bu3dfe_tell_sex_and_ancestry(self, tmp_path, code, word):
        touch(tmp_path, f"M0001/M0001_AN01{code}_F3D.wrl")
        assert person(only(tmp_path).labels) in (f"a {word} man", f"an {word} man")

    def test_names_of_bu4dfe_tell_sex(self, tmp_path):
        touch(tmp_path, "F001/Happy/000.wrl")
        assert person(only(tmp_path).labels) == "a woman"

    def test_names_of_bp4d_tell_sex(self, tmp_path):
        touch(tmp_path, "M001/T1/0000.obj")
        assert person(only(tmp_path).labels) == "a man"

    def test_names_of_bosphorus_tell_nothing(self, tmp_path):
        touch(tmp_path, "bs000/bs000_E_HAPPY_0.bnt")
        assert person(only(tmp_path).labels) == ""

    def test_a_table_tells_what_its_columns_do(self, tmp_path):
        table(tmp_path, "path,subject,expression,sex,age,ancestry\na.obj,s,HA,female,41,Korean\n")
        assert person(only(touch(tmp_path, "a.obj")).labels) == "a middle-aged Korean woman"

    def test_of_a_sequence_that_is_said_in_which_all_rows_agree(self, tmp_path):
        table(tmp_path, "path,subject,expression,sequence,sex,age\na.obj,s,HA,one,F,20\nb.obj,s,HA,one,F,60\n")
        assert person(only(touch(tmp_path, "a.obj", "b.obj")).labels) == "a woman"
