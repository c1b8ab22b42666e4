"""Predictions from files equal those from shards; unreadable scans are reported."""

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from smile_pipe.cli.commands.predict import _table
from smile_pipe.cli.main import app
from smile_pipe.pipeline.classifiers.zero_shot import zero_shot
from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.evaluate import stage as evaluate
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.predict.config import Predictions
from smile_pipe.pipeline.predict.inputs import find_inputs
from smile_pipe.pipeline.predict.predictor import Predictor, render_settings_of
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(scope="module")
def evaluated(run_dir: Path, shards_dir: Path) -> Path:
    evaluate.run(EvaluateConfig(run=run_dir, shards=str(shards_dir)))
    return run_dir


@pytest.fixture(scope="module")
def predictor(evaluated: Path) -> Predictor:
    return Predictor.load(evaluated)


@pytest.fixture(scope="module")
def scan(faces_dir: Path) -> Path:
    return next(path for path in sorted(faces_dir.rglob("*HA04*")) if path.suffix in (".wrl", ".obj", ".ply"))


def copy_scan(scan: Path, folder: Path, *names: str) -> Path:
    """Copy a scan with its landmarks and texture to other names, and return the path of the last copy."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for file in scan.parent.glob(f"{scan.stem}.*"):
            shutil.copy(file, folder / f"{name}{file.suffix}")
    return folder / f"{names[-1]}{scan.suffix}"


def run_predict(*arguments: object) -> tuple[int, dict, str]:
    """Run the command and return its exit code, its JSON and its messages."""
    result = CliRunner().invoke(app, ["predict", *map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout or "{}"), " ".join(result.stderr.split())


class TestPredictor:
    def test_embeddings_of_a_file_equal_those_of_its_shard(self, predictor, faces_dir, shards_dir):
        shards = ShardSet.open(str(shards_dir))
        rows = {row.key: row for row in shards.rows}
        reader = FaceDataset(shards, predictor.decode_spec, 0)
        for given in find_inputs([str(faces_dir)])[:5]:
            (stored,) = predictor.model.embed_faces(reader, [rows[given.source.key]], 1)
            np.testing.assert_allclose(predictor.embed(predictor.render(given)).fused, stored, rtol=1e-5, atol=1e-6)

    def test_each_expression_of_the_run_has_a_probability(self, predictor, scan):
        (found,) = predictor.predict(scan)
        assert (found.source, found.key, found.num_frames) == (str(scan), scan.stem, 1)
        assert tuple(found.probabilities) == predictor.run.classes
        assert sum(found.probabilities.values()) == pytest.approx(1)
        assert found.expression == max(found.probabilities, key=found.probabilities.get)

    def test_prompts_replace_the_expressions(self, predictor, scan):
        words = ("a skeptical face", "a polite, friendly smile")
        (found,) = predictor.predict(scan, prompts=words)
        anchors = {word: predictor.model.embed_prompts([word]) for word in words}
        fused = predictor.embed(predictor.render(find_inputs([str(scan)])[0])).fused
        expected = zero_shot(fused, anchors, predictor.model.scale)[0]
        assert tuple(found.probabilities) == words
        assert list(found.probabilities.values()) == pytest.approx(expected, rel=1e-4)

    def test_fuse_uses_only_the_selected_views(self, predictor, scan):
        seen = predictor.embed(predictor.render(find_inputs([str(scan)])[0]))
        assert predictor.fuse(seen, range(3)) == pytest.approx(seen.fused, rel=1e-4, abs=1e-6)
        alone = predictor.model.fuse(seen.views[:, [1]], predictor.directions.numpy()[[1]])
        assert (predictor.fuse(seen, [1]) == alone).all() and np.abs(alone - seen.fused).max() > 1e-6


class TestProbe:
    def test_probe_predictions_equal_those_of_the_evaluation(self, evaluated, faces_dir):
        with (evaluated / "evaluation" / "predictions.csv").open(newline="", encoding="utf-8") as file:
            rows = {row["key"]: row for row in csv.DictReader(file)}
        code, found, _ = run_predict(evaluated, faces_dir, "--head", "probe")
        assert code == 0 and found["head"] == "probe"
        scored = [one for one in found["predictions"] if one["key"] in rows]
        assert len(scored) == len(rows) == 7
        for one in scored:
            assert one["expression"] == rows[one["key"]]["probe"]
            assert max(one["probabilities"].values()) == pytest.approx(
                float(rows[one["key"]]["probe probability"]), rel=1e-3
            )

    def test_the_probe_of_another_training_is_rejected(self, evaluated, scan, tmp_path):
        run = shutil.copytree(evaluated, tmp_path / "run")
        manifest = json.loads((run / "manifest.json").read_text())
        (run / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": "another"}))
        code, _, said = run_predict(run, scan, "--head", "probe")
        assert code == 2 and "belongs to an earlier training" in said

    @pytest.mark.parametrize("content", [None, b"\x08\0\0\0\0\0\0\0{}"])
    def test_a_missing_or_damaged_probe_is_a_clear_error(self, evaluated, scan, tmp_path, content):
        run = shutil.copytree(evaluated, tmp_path / "run")
        (run / "evaluation" / "probe.safetensors").unlink()
        if content is not None:
            (run / "evaluation" / "probe.safetensors").write_bytes(content)
        code, _, said = run_predict(run, scan, "--head", "probe")
        assert code == 2 and ("has no linear probe" if content is None else "evaluate again") in said

    def test_an_evaluation_without_probe_removes_it(self, evaluated, shards_dir, tmp_path):
        run = shutil.copytree(evaluated, tmp_path / "run")
        evaluate.run(EvaluateConfig(run=run, shards=str(shards_dir), protocol=("knn",)))
        assert not (run / "evaluation" / "probe.safetensors").exists()


class TestFindInputs:
    def test_a_dataset_keeps_its_labels(self, faces_dir):
        found = find_inputs([str(faces_dir)])
        assert len(found) == 35 and {one.source.expression for one in found} >= {"HA", "NE"}

    def test_each_mesh_of_a_folder_is_a_scan(self, scan, tmp_path):
        copy_scan(scan, tmp_path / "mine", "one")
        copy_scan(scan, tmp_path / "mine" / "deeper", "one", "two")
        copy_scan(scan, tmp_path / "mine" / ".hidden", "three")
        found = find_inputs([str(tmp_path / "mine")])
        assert [one.source.key for one in found] == ["deeper-one", "deeper-two", "one"]
        assert {one.source.expression for one in found} == {"unknown"}

    def test_frames_of_a_sequence_are_sorted_naturally(self, scan, tmp_path):
        copy_scan(scan, tmp_path / "smile", "f1", "f9", "f10")
        (found,) = find_inputs([str(tmp_path / "smile")], sequence=True, frame_rate=30)
        assert [Path(frame.mesh).stem for frame in found.source.frames] == ["f1", "f9", "f10"]
        assert (found.source.key, found.source.frame_rate, found.source.numbers) == ("smile", 30, (0, 8, 9))

    def test_equal_names_get_different_keys(self, scan, tmp_path):
        paths = [str(copy_scan(scan, tmp_path / folder, "face")) for folder in ("a", "b")]
        assert [one.source.key for one in find_inputs(paths)] == ["face", "face-2"]

    @pytest.mark.parametrize("name", ["nothing.obj", "words.txt", "empty"])
    def test_paths_without_mesh_are_rejected(self, tmp_path, name):
        (tmp_path / "words.txt").write_text("words")
        (tmp_path / "empty").mkdir()
        with pytest.raises(UsageError, match=name):
            find_inputs([str(tmp_path / name)])


class TestPredictCommand:
    def test_a_sequence_is_one_prediction_from_several_frames(self, evaluated, scan, tmp_path):
        copy_scan(scan, tmp_path / "smile", "f1", "f2", "f3")
        code, found, _ = run_predict(evaluated, tmp_path / "smile", "--sequence")
        (one,) = found["predictions"]
        assert code == 0 and one["num_frames"] == 3 and one["expression"] in found["classes"]

    def test_an_unreadable_scan_is_reported_and_the_others_are_predicted(self, evaluated, scan, tmp_path):
        (tmp_path / "broken.obj").write_text("f 1 2 3\n")
        code, found, said = run_predict(evaluated, tmp_path / "broken.obj", scan)
        broken, good = found["predictions"]
        assert code == 0 and good["expression"] and good["failure"] is None
        assert broken["failure"] and broken["expression"] is None and "broken.obj" in said

    def test_the_command_fails_if_no_scan_can_be_read(self, evaluated, tmp_path):
        (tmp_path / "broken.obj").write_text("f 1 2 3\n")
        code, found, said = run_predict(evaluated, tmp_path / "broken.obj")
        assert code == 1 and "none of the scans" in said and len(found["predictions"]) == 1

    def test_saved_views_have_their_names_in_a_shard(self, evaluated, scan, tmp_path):
        code, _, _ = run_predict(evaluated, scan, "--save-views", tmp_path / "views")
        channel = Predictor.load(evaluated).run.channel
        names = {f"{scan.stem}.{view}.rgb.jpg" for view in ("front", "left", "right")}
        names |= {f"{scan.stem}.{view}.{channel}.png" for view in ("front", "left", "right")}
        assert code == 0 and set(os.listdir(tmp_path / "views")) == names

    def test_the_table_has_prompts_and_classifier(self, evaluated, scan):
        result = CliRunner().invoke(
            app, ["predict", str(evaluated), str(scan), "--prompts", "a smile", "--prompts", "a frown, perhaps"]
        )
        assert result.exit_code == 0 and "a smile" in result.stdout and "zero-shot" in result.stdout

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [(["--head", "classifier"], "the run has none"), (["--prompts", " "], "is empty"), (["--use-gpu"], "no GPU")],
    )
    def test_unavailable_options_are_rejected(self, evaluated, scan, arguments, reason):
        code, _, said = run_predict(evaluated, scan, *arguments)
        assert code == 2 and reason in said

    def test_a_missing_scan_argument_is_rejected(self, evaluated):
        code, _, said = run_predict(evaluated)
        assert code == 2 and "SCANS is required" in said


def test_a_link_out_of_the_folder_is_not_followed(predictor, scan, tmp_path):
    target = copy_scan(scan, tmp_path / "outside", "face")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / target.name).symlink_to(target)
    (given,) = find_inputs([str(tmp_path / "inside")])
    with pytest.raises(MeshError, match="link to a file outside"):
        predictor.render(given)


def test_a_folder_named_tilde_is_not_expanded(predictor, scan, tmp_path, monkeypatch):
    copy_scan(scan, tmp_path / "~", "face")
    monkeypatch.chdir(tmp_path)
    (found,) = predictor.predict(f"./~/face{scan.suffix}")
    assert (found.key, found.failure) == ("face", None)


def test_prompts_are_rejected_by_a_run_without_text(predictor):
    from dataclasses import replace

    silent = replace(predictor, run=predictor.run.model_copy(update={"text_source": "none"}))
    with pytest.raises(UsageError, match="trained without text"):
        silent.prompt_classifier(["a smile"])


def test_jpegs_are_encoded_without_a_gpu_also_if_those_of_the_shards_were_not():
    rendered = RenderConfig(data_dir=StoragePath("a"), out=StoragePath("b"), renderer="zbuffer").resolve()
    stored = {**rendered.model_dump(mode="json", exclude={"prompts"}), "jpeg": "gpu"}
    run = SimpleNamespace(settings=stored, temporal="none", channels=("rgb",))
    assert render_settings_of(StoragePath("run"), run, "zbuffer").jpeg == "cpu"


def test_the_title_names_the_view_where_there_is_one():
    facts = {"head": "probe", "text_source": "label", "classes": ("HA",), "predictions": ()}
    titles = [_table(Predictions(views=views, **facts)).title for views in (("left",), ("front", "left"))]
    assert titles == ["percent, by probe, text: label, view left", "percent, by probe, text: label"]


def test_seven_classes_with_labels_fit_eighty_columns(evaluated, faces_dir):
    result = CliRunner().invoke(app, ["predict", str(evaluated), str(faces_dir)], env={"COLUMNS": "80"})
    row = next(line for line in result.stdout.splitlines() if "F0001_HA04WH" in line)
    assert max(map(len, result.stdout.splitlines())) <= 80 - len("_F3D")
    assert "…" not in result.stdout and len(row.split()) == 3 + 7
