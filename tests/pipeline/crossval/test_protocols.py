"""Protocols of cross-validation: which samples count, and whom each fold tests on."""

from collections import Counter
from dataclasses import replace

import pytest

from helpers.samples import make_row, make_sample
from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.pipeline.crossval.protocols import check_protocol, draw_subjects, plan_folds
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.splits import split_subjects

SIX = ("AN", "DI", "FE", "HA", "SA", "SU")
PEOPLE = tuple(f"F{number:04d}" for number in range(1, 13))


ROW = make_row(make_sample())


def select_training_rows(subject, expressions=(*SIX, "NE"), levels=(1, 2, 3, 4)):
    """The scans of one of BU-3DFE's subjects: neutral once, the others at each level."""
    return [
        replace(ROW, key=f"{subject}_{code}{level or 0:02d}", subject=subject, expression=code, level=level)
        for code in expressions
        for level in ((None,) if code == "NE" else levels)
    ]


ROWS = [row for subject in PEOPLE for row in select_training_rows(subject)]


def pluralize(folds, rows=ROWS):
    """The rows that a plan's condition leaves."""
    return SampleFilter(where=folds.where).apply(rows)


def test_hundreds_of_subjects_may_be_drawn():
    people = [f"a_subject_with_a_long_name_{number:04d}" for number in range(900)]
    rows = [replace(ROW, key=f"{name}_{code}", subject=name, expression=code) for name in people for code in SIX]
    left = pluralize(plan_folds("kfold:10", rows, num_subjects=800), rows)
    assert len(left) == 800 * 6 and len({row.subject for row in left}) == 800


@pytest.mark.parametrize(
    ("protocol", "options", "levels", "expressions", "num_folds"),
    [
        ("bu3dfe", {}, {1, 2, 3, 4}, SIX, 10),
        ("bu3dfe", {"subset": "II"}, {1, 2, 3, 4}, SIX, 10),
        ("bu3dfe", {"subset": "I"}, {3, 4}, SIX, 10),
        ("bu4dfe", {}, {1, 2, 3, 4}, SIX, 10),
        ("bosphorus", {}, {1, 2, 3, 4}, SIX, 10),
        ("kfold:3", {}, {1, 2, 3, 4, None}, (*SIX, "NE"), 3),
        ("loso", {}, {1, 2, 3, 4, None}, (*SIX, "NE"), 12),
    ],
)
def test_a_protocol_says_which_samples_count(protocol, options, levels, expressions, num_folds):
    folds = plan_folds(protocol, ROWS, **options)
    left = pluralize(folds)
    assert {row.level for row in left} == levels
    assert {row.expression for row in left} == set(expressions)
    assert {row.subject for row in left} == set(PEOPLE)
    assert len(folds.splits) == num_folds


@pytest.mark.parametrize("protocol", ["kfold:2", "kfold:5", "loso", "bu3dfe", "bu4dfe", "bosphorus"])
def test_each_subject_is_tested_on_in_one_fold(protocol):
    folds = plan_folds(protocol, ROWS)
    tested = Counter(subject for split in folds.splits for subject in split_subjects(split, PEOPLE).test)
    assert tested == dict.fromkeys(PEOPLE, 1)


def test_bosphorus_counts_subjects_who_have_all_six():
    rows = [*ROWS, *select_training_rows("bs099", SIX[:5]), *select_training_rows("bs100", SIX)]
    assert {row.subject for row in pluralize(plan_folds("bosphorus", rows), rows)} == {*PEOPLE, "bs100"}


def test_bosphorus_without_such_a_subject_is_refused():
    with pytest.raises(UsageError, match="all six"):
        plan_folds("bosphorus", select_training_rows("bs001", SIX[:5]))


def test_some_subjects_are_drawn_by_the_seed():
    drawn = [
        {row.subject for row in pluralize(plan_folds("kfold:2", ROWS, num_subjects=5, seed=seed))} for seed in (0, 1, 0)
    ]
    assert [len(subjects) for subjects in drawn] == [5, 5, 5]
    assert drawn[0] == drawn[2] != drawn[1]


def test_the_draw_is_the_same_on_every_machine():
    drawn = {"F0009", "F0010", "F0012"}
    assert draw_subjects(PEOPLE, 3, seed=0) == draw_subjects(reversed(PEOPLE), 3, seed=0) == drawn


def test_a_condition_of_ones_own_holds_as_well():
    folds = plan_folds("bu3dfe", ROWS, subset="I", where="subject != 'F0001' or level == 1")
    assert {(row.subject == "F0001", row.level) for row in pluralize(folds)} == {(False, 3), (False, 4)}


@pytest.mark.parametrize("protocol", ["kfold:1", "kfold:", "kfold:x", "kfold:3:0", "bp4d", "", "LOSO", "kfold:99999"])
def test_what_is_no_protocol_is_refused_with_those_that_are(protocol):
    with pytest.raises(UsageError, match="kfold:K, loso, bu3dfe, bu4dfe or bosphorus"):
        check_protocol(protocol)


@pytest.mark.parametrize("protocol", ["kfold:3", "loso", "bu4dfe", "bosphorus"])
def test_a_subset_of_levels_is_of_bu3dfe_alone(protocol):
    with pytest.raises(UsageError, match=r"--subset I: .*bu3dfe"):
        plan_folds(protocol, ROWS, subset="I")


def test_too_few_subjects_are_refused():
    with pytest.raises(UsageError, match="10 folds need as many subjects, and there are 9"):
        plan_folds("bu3dfe", ROWS, num_subjects=9)
    with pytest.raises(UsageError, match="nobody else"):
        plan_folds("loso", select_training_rows("F0001"))
    with pytest.raises(UsageError, match="--num-subjects 13: there are 12"):
        plan_folds("kfold:2", ROWS, num_subjects=13)


def test_samples_without_the_levels_of_a_subset_are_refused():
    with pytest.raises(UsageError, match="no sample matches"):
        plan_folds("bu3dfe", [row for row in ROWS if row.level != 3 and row.level != 4], subset="I")
