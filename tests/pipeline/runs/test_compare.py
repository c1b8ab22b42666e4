"""`smile-pipe compare`: tables of systems over the same folds, and their differences to a chosen one."""

import pytest
from typer.testing import CliRunner

from helpers.crossval_manifests import crossval_manifest
from smile_pipe.cli.main import app
from smile_pipe.pipeline.common.statistics import corrected_t_test
from smile_pipe.pipeline.reports.csv_table import csv_table
from smile_pipe.pipeline.runs.compare import compare
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, QuestionFolds
from smile_pipe.shards.errors import UsageError


def write(folder, recipe, probe, zero_shot=None, *, seed=0, predictions=True, prefix="", **changes):
    """A finished cross-validation with these accuracies of its two folds, each of two subjects and 20 samples."""
    accuracies = {"probe": probe} | ({"zero-shot": zero_shot} if zero_shot else {})
    folder.mkdir(parents=True)
    config = {"arch": "smile-tiny", "epochs": 3, "seed": seed}
    manifest = crossval_manifest(accuracies, recipe=recipe, **{"num_samples": 20, "config": config} | changes)
    manifest.write(folder / "manifest.json")
    for fold in manifest.folds if predictions else ():
        path = folder / fold.folder / "evaluation" / "predictions.csv"
        path.parent.mkdir(parents=True)
        rows = [
            (f"{prefix}{fold.folder}-{n}", fold.subjects[n % 2], "", "HA", *cells)
            for n in range(fold.num_samples)
            for cells in [[c for a in fold.accuracy.values() for c in ("HA" if n < round(20 * a) else "SA", 0.9)]]
        ]
        head = (
            "key",
            "subject",
            "level",
            "truth",
            *(c for name in fold.accuracy for c in (name, f"{name} probability")),
        )
        path.write_bytes(csv_table([head, *rows]))


def test_rows_are_ordered_by_probe_without_differences(tmp_path):
    write(tmp_path / "a", "clip", (0.5, 0.7), (0.9, 0.9))
    write(tmp_path / "b", "smile-vlm", (0.8, 0.9), (0.6, 0.4))
    (table,) = compare(tmp_path)
    assert [(row.paths, row.system, row.differences) for row in table.rows] == [
        (("b",), "smile-vlm", {}),
        (("a",), "clip", {}),
    ]
    assert (table.num_folds, table.num_subjects, table.num_samples, table.ordered_by) == (2, 4, 40, "probe")


def answers(*folds, group="choice", name="all"):
    return QuestionFolds(group=group, name=name, folds=folds, chance=0.5)


def test_main_questions_are_columns(tmp_path):
    asked = {
        "caption-check": (
            answers(0.9, 0.7, name="region: brows"),
            answers(0.9, 0.8),
            answers(0.6, 0.6, group="locate"),
        ),
        "few-labels": (answers(0.1, 0.2, group="probe", name="1 %"), answers(0.3, 0.5, group="probe", name="5 % of")),
    }
    write(tmp_path / "a", "clip", (0.5, 0.7), questions=asked)
    write(tmp_path / "b", "smile-vlm", (0.8, 0.9))
    (table,) = compare(tmp_path)
    assert table.rows[0].questions == {}
    found = {title: (score.mean, score.deviation) for title, score in table.rows[1].questions.items()}
    expected = {"caption check": (0.85, 0.05), "false phrase": (0.6, 0), "5 % of labels": (0.4, 0.1)}
    assert found == {title: pytest.approx((mean, half * 2**0.5)) for title, (mean, half) in expected.items()}
    lines = CliRunner().invoke(app, ["compare", str(tmp_path), "--markdown"]).stdout.splitlines()
    assert "| system | text | probe | caption check | false phrase | 5 % of labels |" in lines
    assert "| smile-vlm | label | 85.0 ± 7.1 | - | - | - |" in lines
    assert "| clip | label | 60.0 ± 14.1 | 85.0 ± 7.1 | 60.0 ± 0.0 | 40.0 ± 14.1 |" in lines


def test_answers_of_several_seeds_are_their_mean_in_each_fold(tmp_path):
    for seed, folds in enumerate([(0.2, 0.4), (0.4, 0.8)]):
        asked = {"caption-check": (answers(*folds),)}
        write(tmp_path / f"{seed}", "clip", (0.5, 0.7), seed=seed, questions=asked)
    (row,) = compare(tmp_path)[0].rows
    assert row.questions["caption check"].mean == pytest.approx(0.45)
    assert row.questions["caption check"].deviation == pytest.approx(0.15 * 2**0.5)


class TestReference:
    def test_differences_are_those_to_the_chosen_row(self, tmp_path):
        write(tmp_path / "a", "clip", (0.5, 0.7), (0.9, 0.9))
        write(tmp_path / "b", "smile-vlm", (0.8, 0.9), (0.6, 0.4))
        write(tmp_path / "c", "barlow", (0.1, 0.2))
        (table,) = compare(tmp_path, "a/")
        best, reference, last = table.rows
        assert (table.reference, reference.paths, reference.differences) == ("a", ("a",), {})
        found = best.differences["probe"]
        assert found.value == pytest.approx(0.25) and found.interval[0] < 0.25 < found.interval[1]
        assert found.p_folds == pytest.approx(corrected_t_test([0.3, 0.2], 1.0))
        assert best.differences["zero-shot"].value == pytest.approx(-0.4)
        assert last.differences.keys() == {"probe"} and last.differences["probe"].value == pytest.approx(-0.45)

    def test_subjects_are_drawn(self, tmp_path):
        # Ten samples of each of four subjects: the first fold differs by 4 of 10 of each, the second by none.
        write(tmp_path / "a", "clip", (0.4, 0.5))
        write(tmp_path / "b", "smile-vlm", (0.8, 0.5))
        found = compare(tmp_path, "a")[0].rows[0].differences["probe"]
        # A draw with none or four of the two subjects of the first fold has the probability 1/16.
        assert found.interval == pytest.approx((0.0, 0.4)) and found.p_subjects == pytest.approx(2 / 16, abs=0.02)

    def test_unknown_row_raises(self, tmp_path):
        write(tmp_path / "a", "clip", (0.5, 0.7))
        with pytest.raises(UsageError, match="reference best: no such cross-validation; choose one of a"):
            compare(tmp_path, "best")

    def test_missing_predictions_raise(self, tmp_path):
        write(tmp_path / "a", "clip", (0.5, 0.7))
        write(tmp_path / "b", "smile-vlm", (0.8, 0.9), predictions=False)
        assert len(compare(tmp_path)[0].rows) == 2
        with pytest.raises(UsageError, match=r"predictions\.csv: no predictions of an evaluation"):
            compare(tmp_path, "a")

    def test_predictions_of_another_evaluation_raise(self, tmp_path):
        write(tmp_path / "a", "clip", (0.5, 0.7))
        write(tmp_path / "b", "smile-vlm", (0.8, 0.9))
        path = tmp_path / "b" / "folds" / "01" / "evaluation" / "predictions.csv"
        path.write_text(path.read_text().replace("SA", "HA"))
        with pytest.raises(UsageError, match="folds/01 was evaluated again with other options"):
            compare(tmp_path, "a")

    def test_other_samples_in_the_same_number_raise(self, tmp_path):
        write(tmp_path / "a", "clip", (0.5, 0.7))
        write(tmp_path / "b", "smile-vlm", (0.8, 0.9), prefix="other-")
        with pytest.raises(UsageError, match="scored other samples than"):
            compare(tmp_path, "a")


class TestSeeds:
    def test_cross_validations_that_differ_in_seeds_only_are_one_row(self, tmp_path):
        for seed, accuracies in enumerate([(0.5, 0.7), (0.7, 0.7), (0.6, 0.7)]):
            write(tmp_path / f"clip-{seed}", "clip", accuracies, seed=seed)
        write(tmp_path / "smile", "smile-vlm", (0.8, 0.9), seed=1)
        for reference in ("clip-0", "clip-2"):
            (table,) = compare(tmp_path, reference)
            assert [row.seeds for row in table.rows] == [(1,), (0, 1, 2)]
            assert table.rows[1].paths == ("clip-0", "clip-1", "clip-2") and table.reference == "clip-0"
            assert table.rows[1].accuracy["probe"].mean == pytest.approx(0.65)
            assert table.rows[0].differences["probe"].value == pytest.approx(0.2)

    def test_copies_and_other_options_are_rows_of_their_own(self, tmp_path):
        write(tmp_path / "a", "clip", (0.5, 0.7))
        write(tmp_path / "b", "clip", (0.5, 0.7))
        write(tmp_path / "c", "clip", (0.5, 0.7), seed=1, config={"arch": "smile-tiny", "epochs": 9, "seed": 1})
        assert [row.paths for row in compare(tmp_path)[0].rows] == [("a",), ("b",), ("c",)]


def test_system_names_the_losses_that_are_left_out(tmp_path):
    write(tmp_path / "a", "smile-vlm", (0.5, 0.5), without=("mv", "cm"))
    assert compare(tmp_path)[0].rows[0].system == "smile-vlm without mv, cm"


@pytest.mark.parametrize("other", [{"num_samples": 21}, {"protocol": "kfold:3"}, {"where": "level == 4"}])
def test_other_folds_or_samples_get_their_own_table(tmp_path, other):
    write(tmp_path / "a", "clip", (0.5, 0.7))
    write(tmp_path / "b", "clip", (0.6, 0.8))
    write(tmp_path / "c", "clip", (0.9, 0.9), **other)
    tables = compare(tmp_path, "b")
    assert [[row.paths[0] for row in table.rows] for table in tables] == [["b", "a"], ["c"]]
    assert [table.reference for table in tables] == ["b", None]


def test_rows_are_ordered_by_the_requested_or_a_common_protocol(tmp_path):
    write(tmp_path / "a", "clip", (0.5, 0.7), (0.9, 0.9))
    write(tmp_path / "b", "smile-vlm", (0.8, 0.9), (0.6, 0.4))
    assert [row.paths for row in compare(tmp_path, protocol="zero-shot")[0].rows] == [("a",), ("b",)]
    with pytest.raises(UsageError, match="do not share knn"):
        compare(tmp_path, protocol="knn")
    for name in ("a", "b"):
        manifest = CrossvalManifest.read(tmp_path / name / "manifest.json")
        kept = {"zero-shot": manifest.scores["zero-shot"]}
        manifest.model_copy(update={"scores": kept}).write(tmp_path / name / "manifest.json")
    (table,) = compare(tmp_path)
    assert ([row.paths[0] for row in table.rows], table.ordered_by) == (["a", "b"], "zero-shot")


def test_folder_without_cross_validation_raises(tmp_path):
    with pytest.raises(UsageError, match="no finished cross-validation"):
        compare(tmp_path)
    with pytest.raises(UsageError, match="no such directory"):
        compare(tmp_path / "nowhere")


class TestCommand:
    def lines(self, *options):
        result = CliRunner().invoke(app, ["compare", *map(str, options), "--markdown"])
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()

    def test_prints_a_markdown_table(self, tmp_path):
        write(tmp_path / "a", "clip", (0.5, 0.7))
        write(tmp_path / "b", "smile-vlm", (0.8, 0.9), (0.6, 0.4))
        assert self.lines(tmp_path) == [
            "accuracy in percent, mean and deviation of 2 folds (kfold:2), 40 samples of 4 subjects:",
            "",
            "| system | text | zero-shot | probe |",
            "| --- | --- | --- | --- |",
            "| smile-vlm | label | 50.0 ± 14.1 | 85.0 ± 7.1 |",
            "| clip | label | - | 60.0 ± 14.1 |",
            "",
            "For differences with intervals, choose the row to compare with: --reference FOLDER",
        ]

    def test_prints_differences_with_intervals_and_what_they_are(self, tmp_path):
        write(tmp_path / "a", "clip", (0.4, 0.5))
        write(tmp_path / "b", "smile-vlm", (0.8, 0.5))
        head, _, best, reference, _, *notes = self.lines(tmp_path, "--reference", "a")[2:]
        assert head == "| system | text | probe | difference to a, probe | p, subjects | p, folds |"
        assert best.startswith("| smile-vlm | label | 65.0 ± 21.2 | +20.0 (+0.0 to +40.0) | 0.1")
        assert reference == "| clip | label | 45.0 ± 7.1 | - | - | - |"
        assert "by a bootstrap over subjects;" in notes[0] and "No p-value is corrected" in notes[0]
        assert notes[1:] == ["With one seed, an interval does not include the variation between trainings."]

    def test_adds_the_view_where_there_is_one(self, tmp_path):
        write(tmp_path / "a", "clip", (0.5, 0.7), views=("left",))
        write(tmp_path / "b", "smile-vlm", (0.4, 0.7), views=("front", "left"))
        systems = [line.split(" | ")[0] for line in self.lines(tmp_path) if " ± " in line]
        assert systems == ["| clip, view left", "| smile-vlm"]
        assert [row.views for row in compare(tmp_path)[0].rows] == [("left",), ("front", "left")]

    def test_adds_numbers_of_seeds(self, tmp_path):
        for seed in (0, 1):
            write(tmp_path / f"clip-{seed}", "clip", (0.5, 0.7), seed=seed)
        head, _, row, *_ = self.lines(tmp_path)[2:]
        assert (head, row) == ("| system | text | seeds | probe |", "| clip | label | 2 | 60.0 ± 14.1 |")

    def test_adds_paths_to_runs_of_one_system(self, tmp_path):
        write(tmp_path / "flow", "smile-vlm", (0.8, 0.9))
        write(tmp_path / "normal", "smile-vlm", (0.7, 0.8))
        write(tmp_path / "other", "clip", (0.5, 0.7))
        systems = [line.split(" | ")[0] for line in self.lines(tmp_path) if " ± " in line]
        assert systems == ["| smile-vlm (flow)", "| smile-vlm (normal)", "| clip"]
