"""Which views scores are of, and scores on another rig than that of training, are stated wherever scores are."""

import csv
import json
import logging
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers import small_runs
from helpers.html_text import Page
from helpers.samples import write_shard_set
from smile_pipe.cli.commands.evaluate import _table
from smile_pipe.cli.main import app
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.stage import run
from smile_pipe.pipeline.export.config import ExportConfig
from smile_pipe.pipeline.export.stage import run as export
from smile_pipe.pipeline.predict.classifier import choose_classifier
from smile_pipe.pipeline.rendering.cameras import View
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.shards.storage import StoragePath


def train(folder: Path, **options) -> Path:
    small_runs.register(folder)
    write_shard_set(folder / "shards", num_subjects=6, channels=("rgb",), **options)
    small_runs.learn(folder / "shards", folder / "run", recipe="clip", epochs=1)
    return folder


class TestOneView:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory) -> Path:
        return train(tmp_path_factory.mktemp("one-view"), views=(View(name="left", yaw=30),))

    @pytest.fixture(scope="class")
    def manifest(self, folder):
        return run(EvaluateConfig(run=folder / "run", shards=str(folder / "shards")))

    def test_manifest_and_tables_name_it(self, folder, manifest):
        assert json.loads((folder / "run" / "evaluation" / "manifest.json").read_text())["views"] == ["left"]
        rows = list(csv.DictReader((folder / "run" / "evaluation" / "scores.csv").open()))
        scored = [row for row in rows if row["measure"] in ("accuracy", "macro_f1", "recall")]
        assert {row["protocol"] for row in scored} == {"zero-shot", "knn", "probe"}
        assert {row["views"] for row in scored} == {"left"}
        names = [(row["protocol"], row["measure"], row["class"], row["level"]) for row in rows]
        assert len(names) == len(set(names))

    def test_report_card_and_command_name_it(self, folder, manifest):
        text = Page((folder / "run" / "evaluation" / "report.html").read_text()).text
        assert "from the view left, by zero-shot, nearest neighbours and linear probe" in text
        assert "Every score is of one view, left." in text
        assert "from the view left, split" in (folder / "run" / "README.md").read_text()
        assert str(_table(manifest).title).endswith(", view left")


class TestOtherRig:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory) -> Path:
        folder = train(tmp_path_factory.mktemp("rig"))
        write_shard_set(folder / "large", num_subjects=3, channels=("rgb",), size=24)
        return folder

    @pytest.fixture
    def run_dir(self, folder, tmp_path) -> Path:
        return Path(shutil.copytree(folder / "run", tmp_path / "run"))

    def test_all_views_of_the_own_rig_are_named_without_a_warning(self, folder, run_dir, caplog):
        with caplog.at_level(logging.WARNING):
            found = run(EvaluateConfig(run=run_dir, shards=str(folder / "shards"), split="all", protocol=("knn",)))
        assert (found.views, found.rig_differences) == (("front", "left", "right"), ())
        text = Page((run_dir / "evaluation" / "report.html").read_text()).text
        assert "Every score is of 3 views together (front, left, right), except those by views." in text
        assert "another rig" not in text and "another rig" not in caplog.text
        assert ", view" not in str(_table(found).title)

    def test_split_all_warns_and_records_what_differs(self, folder, run_dir, caplog):
        expected = "images of 24 px (training: 16 px)"
        with caplog.at_level(logging.WARNING):
            found = run(EvaluateConfig(run=run_dir, shards=str(folder / "large"), split="all", protocol=("knn",)))
        assert found.rig_differences == (expected,)
        assert f"trained on another rig than that of the shards: {expected}" in caplog.text
        text = Page((run_dir / "evaluation" / "report.html").read_text()).text
        assert f"The run was trained on another rig: {expected}." in text
        assert f"Trained on another rig: {expected}." in (run_dir / "README.md").read_text()

    def test_command_prints_what_differs(self, folder, run_dir):
        options = ["evaluate", str(run_dir), "--shards", str(folder / "large"), "--split", "all", "--protocol", "knn"]
        result = CliRunner().invoke(app, options)
        assert result.exit_code == 0, result.output
        assert "the run was trained on another rig: images of 24 px (training: 16 px)" in result.stdout.splitlines()

    def test_shards_to_fit_on_are_compared_too(self, folder, run_dir):
        options = {"shards": str(folder / "large"), "fit_on": str(folder / "shards"), "protocol": ("knn",)}
        write_shard_set(run_dir.parent / "other", num_subjects=3, channels=("rgb",), size=32)
        assert len(run(EvaluateConfig(run=run_dir, **options)).rig_differences) == 1
        found = run(EvaluateConfig(run=run_dir, **options | {"fit_on": str(run_dir.parent / "other")}))
        assert found.rig_differences == (
            "images of 24 px (training: 16 px)",
            "images of 32 px (training: 16 px) in the shards to fit on",
        )

    def test_predict_warns_of_a_probe_that_was_fitted_on_it(self, folder, run_dir, caplog):
        manifest, checkpoint = open_run(run_dir)
        model = TrainedModel.load(manifest, checkpoint)
        for shards, warns in (("shards", False), ("large", True)):
            options = {"split": manifest.split, "protocol": ("probe",)}
            run(EvaluateConfig(run=run_dir, shards=str(folder / shards), **options))
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                choose_classifier("probe", StoragePath(run_dir), manifest, model)
            assert ("the probe was fitted on another rig" in caplog.text) == warns

    def test_export_notes_it(self, folder, run_dir, tmp_path):
        table = tmp_path / "faces.parquet"
        found = export(ExportConfig(run=run_dir, embeddings=table, shards=str(folder / "large"), split="all"))
        assert any("another rig than that of the shards: images of 24 px" in note for note in found.notes)
