"""Split protocols of cross-validation: which samples count, and the test subjects of each fold."""

from collections import Counter
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from helpers.samples import make_row, make_sample
from smile_pipe.cli.main import app
from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.crossval.protocols import check_split_protocol, draw_subjects, plan_folds
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.splits import split_subjects

SIX = ("AN", "DI", "FE", "HA", "SA", "SU")
SUBJECTS = tuple(f"F{number:04d}" for number in range(1, 13))


ROW = make_row(make_sample())


def subject_rows(subject, expressions=(*SIX, "NE"), levels=(1, 2, 3, 4)):
    """The scans of a subject of BU-3DFE: one neutral scan, the other expressions at each level."""
    return [
        replace(ROW, key=f"{subject}_{code}{level or 0:02d}", subject=subject, expression=code, level=level)
        for code in expressions
        for level in ((None,) if code == "NE" else levels)
    ]


ROWS = [row for subject in SUBJECTS for row in subject_rows(subject)]


def selected_rows(folds, rows=ROWS):
    """The rows that the condition of a plan selects."""
    return SampleFilter(where=folds.where).apply(rows)


def test_hundreds_of_subjects_can_be_drawn():
    names = [f"a_subject_with_a_long_name_{number:04d}" for number in range(900)]
    rows = [replace(ROW, key=f"{name}_{code}", subject=name, expression=code) for name in names for code in SIX]
    selected = selected_rows(plan_folds("kfold:10", rows, num_subjects=800), rows)
    assert len(selected) == 800 * 6 and len({row.subject for row in selected}) == 800


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
def test_protocol_selects_samples(protocol, options, levels, expressions, num_folds):
    folds = plan_folds(protocol, ROWS, **options)
    selected = selected_rows(folds)
    assert {row.level for row in selected} == levels
    assert {row.expression for row in selected} == set(expressions)
    assert {row.subject for row in selected} == set(SUBJECTS)
    assert len(folds.splits) == num_folds


@pytest.mark.parametrize("protocol", ["kfold:2", "kfold:5", "loso", "bu3dfe", "bu4dfe", "bosphorus"])
def test_each_subject_is_tested_on_in_one_fold(protocol):
    folds = plan_folds(protocol, ROWS)
    tested = Counter(subject for split in folds.splits for subject in split_subjects(split, SUBJECTS).test)
    assert tested == dict.fromkeys(SUBJECTS, 1)


def test_bosphorus_selects_subjects_with_all_six_expressions():
    rows = [*ROWS, *subject_rows("bs099", SIX[:5]), *subject_rows("bs100", SIX)]
    assert {row.subject for row in selected_rows(plan_folds("bosphorus", rows), rows)} == {*SUBJECTS, "bs100"}


def test_bosphorus_without_such_a_subject_raises():
    with pytest.raises(UsageError, match="all six"):
        plan_folds("bosphorus", subject_rows("bs001", SIX[:5]))


def test_subjects_are_drawn_by_the_seed():
    drawn = [
        {row.subject for row in selected_rows(plan_folds("kfold:2", ROWS, num_subjects=5, seed=seed))}
        for seed in (0, 1, 0)
    ]
    assert [len(subjects) for subjects in drawn] == [5, 5, 5]
    assert drawn[0] == drawn[2] != drawn[1]


def test_draw_is_the_same_on_every_machine():
    drawn = {"F0009", "F0010", "F0012"}
    assert draw_subjects(SUBJECTS, 3, seed=0) == draw_subjects(reversed(SUBJECTS), 3, seed=0) == drawn


def test_user_condition_is_added():
    folds = plan_folds("bu3dfe", ROWS, subset="I", where="subject != 'F0001' or level == 1")
    assert {(row.subject == "F0001", row.level) for row in selected_rows(folds)} == {(False, 3), (False, 4)}


@pytest.mark.parametrize("protocol", ["kfold:1", "kfold:", "kfold:x", "kfold:3:0", "bp4d", "", "LOSO", "kfold:99999"])
def test_unknown_protocol_raises_with_a_list_of_protocols(protocol):
    with pytest.raises(UsageError, match="kfold:K, loso, bu3dfe, bu4dfe or bosphorus"):
        check_split_protocol(protocol)


@pytest.mark.parametrize("protocol", ["kfold:3", "loso", "bu4dfe", "bosphorus"])
def test_subset_raises_for_protocols_without_subsets(protocol):
    with pytest.raises(UsageError, match=r"^subset I: .*bu3dfe"):
        plan_folds(protocol, ROWS, subset="I")


def test_too_few_subjects_raise():
    with pytest.raises(UsageError, match="10 folds need as many subjects, and there are 9"):
        plan_folds("bu3dfe", ROWS, num_subjects=9)
    with pytest.raises(UsageError, match="at least two subjects are needed"):
        plan_folds("loso", subject_rows("F0001"))
    with pytest.raises(UsageError, match="num_subjects 13: there are 12"):
        plan_folds("kfold:2", ROWS, num_subjects=13)


def test_samples_without_the_levels_of_a_subset_raise():
    with pytest.raises(UsageError, match="no sample matches"):
        plan_folds("bu3dfe", [row for row in ROWS if row.level != 3 and row.level != 4], subset="I")


class TestOldNames:
    """`protocol` was the split protocol, and `score` the evaluation protocols."""

    @pytest.mark.parametrize("protocol", ["bu3dfe", "bu4dfe", "bosphorus", "loso", "kfold:5"])
    def test_split_protocol_as_protocol_is_moved_with_a_warning(self, protocol, tmp_path):
        with pytest.warns(FutureWarning, match=f"`split_protocol={protocol}`"):
            config = CrossvalConfig(shards="shards", out=tmp_path, protocol=protocol)
        assert (config.split_protocol, config.protocol) == (protocol, ("zero-shot", "knn", "probe"))

    def test_split_protocol_with_score_keeps_both(self, tmp_path):
        with pytest.warns(FutureWarning):
            config = CrossvalConfig(**{"shards": "shards", "out": tmp_path, "protocol": "loso", "score": "knn,probe"})
        assert (config.split_protocol, config.protocol) == ("loso", ("knn", "probe"))

    def test_evaluation_protocols_are_not_moved(self, tmp_path, recwarn):
        config = CrossvalConfig(shards="shards", out=tmp_path, protocol="knn,probe", split_protocol="loso")
        assert (config.split_protocol, config.protocol) == ("loso", ("knn", "probe")) and not recwarn.list

    def test_config_json_keeps_the_old_names(self, tmp_path):
        recorded = CrossvalConfig(shards="shards", out=tmp_path, split_protocol="loso", protocol=("knn",)).recorded()
        assert (recorded["protocol"], recorded["score"]) == ("loso", ["knn"]) and "split_protocol" not in recorded

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--protocol", "kfold:1"), "kfold:1: no such protocol"),
            (("--protocol", "kfold:3", "--score", "nothing"), "--protocol"),
            (("--protocol", "nothing"), "--protocol"),
        ],
    )
    def test_command_accepts_old_options_and_reports_wrong_values(self, options, message, tmp_path):
        result = CliRunner().invoke(app, ["crossval", "--shards", "shards", "--out", str(tmp_path / "cv"), *options])
        assert result.exit_code == 2 and message in result.stderr

    def test_command_warns_of_old_options(self, tmp_path):
        options = ["--shards", str(tmp_path / "none"), "--protocol", "kfold:3", "--score", "knn"]
        result = CliRunner().invoke(app, ["crossval", "--out", str(tmp_path / "cv"), *options])
        warnings = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
        assert result.exit_code == 2 and len(warnings) == 2
        assert "--score is now called --protocol" in warnings[0]
        assert "--protocol kfold:3 is now called --split-protocol kfold:3" in warnings[1]
