"""Splits: disjoint and complete sides, stable folds, and invalid splits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.splits import split_subjects

quickly = settings(deadline=None)
subjects = st.lists(st.from_regex(r"[FM][0-9]{4}", fullmatch=True), min_size=2, max_size=40, unique=True)
TEN = [f"F{number:04d}" for number in range(10)]


@quickly
@given(subjects, st.data())
def test_sides_are_disjoint_and_complete(everyone, data):
    spec = data.draw(
        st.one_of(
            st.integers(2, len(everyone)).flatmap(lambda k: st.integers(0, k - 1).map(lambda i: f"kfold:{k}:{i}")),
            st.sampled_from(everyone).map("loso:{}".format),
            st.floats(0.01, 0.99).map("holdout:{:.3f}".format),
        )
    )
    try:
        split = split_subjects(spec, everyone)
    except UsageError:
        # A fraction of few subjects may be none or all of them.
        assert spec.startswith("holdout") and not 1 <= round(float(spec[8:]) * len(everyone)) < len(everyone)
        return
    assert not set(split.train) & set(split.test)
    assert sorted(split.train + split.test) == sorted(everyone)
    assert split.train and split.test and split.spec == spec


@quickly
@given(subjects, st.data())
def test_the_folds_partition_the_subjects_evenly(everyone, data):
    folds = data.draw(st.integers(2, len(everyone)))
    tests = [split_subjects(f"kfold:{folds}:{fold}", everyone).test for fold in range(folds)]
    assert sorted(subject for test in tests for subject in test) == sorted(everyone)
    assert max(map(len, tests)) - min(map(len, tests)) <= 1


@quickly
@given(subjects, st.sampled_from(["kfold:2:1", "holdout:0.5", "all"]), st.randoms())
def test_order_and_repetition_of_subjects_do_not_matter(everyone, spec, random):
    shuffled = random.sample(everyone * 2, 2 * len(everyone))
    assert split_subjects(spec, shuffled) == split_subjects(spec, everyone)


def test_both_sides_are_sorted():
    split = split_subjects("kfold:2:0", reversed(TEN))
    assert list(split.train) == sorted(split.train) and list(split.test) == sorted(split.test)


def test_folds_are_random_and_not_slices_of_the_sorted_names():
    tests = {split_subjects(f"kfold:5:{fold}", TEN).test for fold in range(5)}
    assert tests != {tuple(TEN[fold::5]) for fold in range(5)} and tests != {
        tuple(TEN[i : i + 2]) for i in range(0, 10, 2)
    }


def test_the_folds_are_the_same_in_every_release():
    # A change here makes published figures incomparable: it must be meant.
    assert [split_subjects(f"kfold:3:{fold}", TEN).test for fold in range(3)] == [
        ("F0002", "F0005", "F0007", "F0008"),
        ("F0003", "F0004", "F0009"),
        ("F0000", "F0001", "F0006"),
    ]


@pytest.mark.parametrize(
    ("fraction", "num_tested"), [("0.2", 2), (".5", 5), ("0.34", 3), ("0.96", None), ("0.04", None)]
)
def test_a_holdout_tests_on_the_fraction(fraction, num_tested):
    if num_tested is None:
        with pytest.raises(UsageError, match="subjects"):
            split_subjects(f"holdout:{fraction}", TEN)
    else:
        assert len(split_subjects(f"holdout:{fraction}", TEN).test) == num_tested


def test_larger_holdout_contains_the_smaller_one():
    small, large = (set(split_subjects(f"holdout:{fraction}", TEN).test) for fraction in ("0.2", "0.4"))
    assert small < large


def test_loso_tests_on_one_subject():
    split = split_subjects("loso:F0003", TEN)
    assert split.test == ("F0003",) and len(split.train) == 9


def test_loso_accepts_any_name():
    assert split_subjects("loso:a:b c", ["a:b c", "d"]).test == ("a:b c",)


def test_all_puts_every_subject_on_both_sides():
    split = split_subjects("all", TEN)
    assert split.train == split.test == tuple(TEN)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("kfold:11:0", "11 folds need 11 subjects, and there are 10"),
        ("kfold:5:5", "a fold from 0 to 4"),
        ("kfold:1:0", "at least 2 folds"),
        ("kfold:0:0", "at least 2 folds"),
        ("loso:F9999", "no such subject; choose one of F0000"),
        *((spec, "invalid split") for spec in ("", "kfold", "kfold:5", "kfold:5:-1", "kfold:a:b", "kfold:5:0:1")),
        *(
            (spec, "invalid split")
            for spec in ("holdout:0", "holdout:1", "holdout:1.5", "holdout:-0.2", "loso:", "All")
        ),
    ],
)
def test_invalid_split_is_refused_with_the_reason(spec, reason):
    with pytest.raises(UsageError, match=reason) as error:
        split_subjects(spec, TEN)
    assert str(error.value).startswith(f"split {spec}: ")


def test_few_subjects_are_all_named_in_the_error():
    with pytest.raises(UsageError, match=r"choose one of F0000, F0001$"):
        split_subjects("loso:F9999", TEN[:2])


@pytest.mark.parametrize("spec", ["loso:F0000", "kfold:2:0", "holdout:0.9"])
def test_a_single_subject_cannot_be_split(spec):
    with pytest.raises(UsageError, match="subject"):
        split_subjects(spec, ["F0000"])
