"""`smile-pipe compare`: tables of systems over the same folds, the best first, with the gaps to it."""

import pytest
from typer.testing import CliRunner

from helpers.crossval_manifests import crossval_manifest
from smile_pipe.cli.main import app
from smile_pipe.pipeline.runs.compare import compare
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.shards.errors import UsageError


def write(folder, recipe, probe, zero_shot=None, **changes):
    """A finished cross-validation with these accuracies of its two folds."""
    accuracies = {"probe": probe} | ({"zero-shot": zero_shot} if zero_shot else {})
    folder.mkdir(parents=True)
    manifest = crossval_manifest(accuracies, recipe=recipe, **{"num_samples": 20} | changes)
    manifest.write(folder / "manifest.json")


def test_rows_are_ordered_by_probe_with_gaps_fold_by_fold(tmp_path):
    write(tmp_path / "a", "clip", (0.5, 0.7), (0.9, 0.9))
    write(tmp_path / "b", "smile-vlm", (0.8, 0.9), (0.6, 0.4))
    (table,) = compare(tmp_path)
    first, second = table.rows
    assert (first.path, first.system, first.gap_to_best) == ("b", "smile-vlm", None)
    assert (second.path, second.system) == ("a", "clip")
    assert second.gap_to_best.mean == pytest.approx(0.25)
    assert second.gap_to_best.deviation == pytest.approx(abs(0.3 - 0.2) / 2**0.5)
    assert (table.num_folds, table.num_subjects, table.num_samples, table.ordered_by) == (2, 4, 40, "probe")


def test_system_names_the_losses_that_are_left_out(tmp_path):
    write(tmp_path / "a", "smile-vlm", (0.5, 0.5), without=("mv", "cm"))
    assert compare(tmp_path)[0].rows[0].system == "smile-vlm without mv, cm"


@pytest.mark.parametrize("other", [{"num_samples": 21}, {"protocol": "kfold:3"}, {"where": "level == 4"}])
def test_other_folds_or_samples_get_their_own_table(tmp_path, other):
    write(tmp_path / "a", "clip", (0.5, 0.7))
    write(tmp_path / "b", "clip", (0.6, 0.8))
    write(tmp_path / "c", "clip", (0.9, 0.9), **other)
    assert [[row.path for row in table.rows] for table in compare(tmp_path)] == [["b", "a"], ["c"]]


def test_without_a_common_probe_rows_are_ordered_by_a_common_protocol(tmp_path):
    write(tmp_path / "a", "clip", (0.5, 0.7), (0.9, 0.9))
    write(tmp_path / "b", "smile-vlm", (0.8, 0.9), (0.6, 0.4))
    for name in ("a", "b"):
        manifest = CrossvalManifest.read(tmp_path / name / "manifest.json")
        kept = {"zero-shot": manifest.scores["zero-shot"]}
        manifest.model_copy(update={"scores": kept}).write(tmp_path / name / "manifest.json")
    (table,) = compare(tmp_path)
    assert ([row.path for row in table.rows], table.ordered_by) == (["a", "b"], "zero-shot")


def test_folder_without_cross_validation_raises(tmp_path):
    with pytest.raises(UsageError, match="no finished cross-validation"):
        compare(tmp_path)
    with pytest.raises(UsageError, match="no such directory"):
        compare(tmp_path / "nowhere")


def test_command_prints_a_markdown_table(tmp_path):
    write(tmp_path / "a", "clip", (0.5, 0.7))
    write(tmp_path / "b", "smile-vlm", (0.8, 0.9), (0.6, 0.4))
    result = CliRunner().invoke(app, ["compare", str(tmp_path), "--markdown"])
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "accuracy in percent, mean and deviation of 2 folds (kfold:2), 40 samples of 4 subjects:",
        "",
        "| system | text | zero-shot | probe | gap to best, probe |",
        "| --- | --- | --- | --- | --- |",
        "| smile-vlm | label | 50.0 ± 14.1 | 85.0 ± 7.1 | - |",
        "| clip | label | - | 60.0 ± 14.1 | 25.0 ± 7.1 |",
        "",
    ]


def test_command_adds_paths_to_runs_of_one_system(tmp_path):
    write(tmp_path / "flow", "smile-vlm", (0.8, 0.9))
    write(tmp_path / "normal", "smile-vlm", (0.7, 0.8))
    write(tmp_path / "other", "clip", (0.5, 0.7))
    result = CliRunner().invoke(app, ["compare", str(tmp_path), "--markdown"])
    systems = [line.split(" | ")[0] for line in result.stdout.splitlines() if " ± " in line]
    assert systems == ["| smile-vlm (flow)", "| smile-vlm (normal)", "| clip"]
