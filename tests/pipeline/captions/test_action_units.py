"""Captions from coded action units."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smile_pipe.model.towers import build_tokenizer
from smile_pipe.pipeline.captions.action_units import MAX_PHRASES, PHRASES, RELAXED, describe_units, has_unnamed_units
from smile_pipe.shards.errors import UsageError

COMMON = [1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 23, 24, 25, 26, 27, 28, 43, 45, 46]
EYES_AND_HEAD = [51, 52, 53, 54, 55, 56, 57, 58, 61, 62, 63, 64]
intensities = st.dictionaries(
    st.integers(1, 99).map("AU{}".format), st.floats(0, 1, allow_subnormal=False), min_size=1, max_size=8
)


@pytest.mark.parametrize(
    ("units", "caption"),
    [
        ({"AU12": 0.8, "AU1": 1.0}, "strongly raised inner brows, lip corners pulled up"),
        ({"AU12": 0.2}, "lip corners slightly pulled up"),
        ({"AU12": 0.5}, "lip corners pulled up"),
        ({"AU12": 0.9}, "lip corners strongly pulled up"),
        (
            {"AU4": 0.6, "AU9": 0.4, "AU26": 1.0},
            "brows lowered and drawn together, slightly wrinkled nose, jaw strongly dropped",
        ),
        ({"AU45": 1.0}, "a blink"),
    ],
)
def test_caption_orders_units_by_number_and_grades_intensity(units, caption):
    assert describe_units(units) == caption


@pytest.mark.parametrize("units", [{}, {"AU12": 0.0}])
def test_face_without_active_units_is_relaxed(units):
    assert describe_units(units) == RELAXED == "a relaxed face"


@pytest.mark.parametrize("name", ["AU4", "au4", "AU04", "4", "04", " AU 4 "])
def test_common_spellings_of_unit_names_are_parsed(name):
    assert describe_units({name: 0.6}) == "brows lowered and drawn together"


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("AU85", "action unit 85"),
        ("L12", "action unit L12"),
        (" R12 ", "action unit R12"),
        ("AU0", "action unit AU0"),
        ("{x}", "action unit x"),
    ],
)
def test_unknown_unit_comes_last_without_an_adverb(name, phrase):
    assert describe_units({name: 1.0, "AU26": 0.5}) == f"jaw dropped, {phrase}"


def test_coded_presence_has_no_adverbs():
    assert describe_units({"AU1": 1, "AU12": 1}, graded_intensity=False) == "raised inner brows, lip corners pulled up"


@pytest.mark.parametrize("intensity", [-0.1, 1.01, 9, float("nan")])
def test_intensity_out_of_range_is_rejected(intensity):
    with pytest.raises(UsageError, match=r"action unit AU12: the intensity .* is not from 0 to 1"):
        describe_units({"AU12": intensity})


def test_common_units_have_distinct_phrases():
    assert set(COMMON + EYES_AND_HEAD) <= PHRASES.keys()
    assert len(set(PHRASES.values())) == len(PHRASES)


@given(intensities)
def test_caption_names_each_active_unit_once_in_any_input_order(units):
    caption = describe_units(units)
    active = sum(intensity > 0 for intensity in units.values())
    assert caption == describe_units(dict(reversed(units.items())))
    assert "{" not in caption and "  " not in caption and caption == caption.strip()
    assert len(set(caption.split(", "))) == min(max(1, active), MAX_PHRASES)


MANY = {"AU1": 0.3, "AU2": 1, "AU4": 0.2, "AU6": 0.8, "AU9": 0.2, "AU12": 0.9, "AU17": 0.3, "AU26": 0.5}


def test_strongest_units_are_named_in_the_order_of_their_numbers():
    # AU1 and AU17 are equally strong.
    caption = "slightly raised inner brows, strongly raised outer brows, raised cheeks, lip corners strongly pulled up"
    assert describe_units(MANY) == f"{caption}, jaw dropped"
    assert has_unnamed_units(MANY) and not has_unnamed_units({**dict.fromkeys("12345", 1.0), "6": 0.0})


def test_of_units_without_intensities_those_with_lower_numbers_are_named():
    presence = describe_units(dict.fromkeys(MANY, 1.0), graded_intensity=False)
    assert presence == describe_units(dict.fromkeys(list(MANY)[:MAX_PHRASES], 1.0), graded_intensity=False)


def test_captions_of_common_units_fit_into_the_default_text_tower():
    generator, tokenizer = random.Random(0), build_tokenizer("smile-nano")
    captions = [
        describe_units({f"AU{unit}": generator.choice((0.2, 0.6, 1)) for unit in generator.sample(COMMON, 8)})
        for _ in range(300)
    ]
    whole = tokenizer(captions, context_length=77)
    # The rest are cut within the last phrase.
    assert (whole[:, 32:] == 0).all(dim=1).float().mean() > 0.95 and (whole[:, 38:] == 0).all()
