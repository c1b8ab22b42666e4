"""The training stage on a real Ray: files of a run, resuming, resolved options, and refusals."""

import json
import shutil
from pathlib import Path

import pytest
import ray
import torch
from ray.train.torch import TorchTrainer

from helpers.samples import spoil, write_shard_set
from smile_pipe.model.towers import native_precision
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train.cluster import cores_per_worker, resources_per_worker
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.resolve_options import resolve_channels, resolve_temporal, resolve_text_source
from smile_pipe.pipeline.train.run_identity import weights_digest
from smile_pipe.pipeline.train.stage import _weights_path, run
from smile_pipe.pipeline.train.text_targets import concept_id
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.splits import split_subjects


def config(shards_dir, out, **options) -> TrainConfig:
    return TrainConfig(
        **{"shards": str(shards_dir), "out": out, "epochs": 2, "batch_size": 8, "split": "kfold:5:0"} | options
    )


def shard_manifest(tmp_path, **options) -> ShardManifest:
    """Manifest of shards that do not exist."""
    write_shard_set(tmp_path / "shards", **options)
    return ShardManifest.read(tmp_path / "shards" / "manifest.json")


def test_run_directory_holds_exactly_the_documented_files(run_dir):
    found = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()}
    tensorboard = {name for name in found if name.startswith("tensorboard/")}
    assert tensorboard
    states = {f"checkpoints/step-{step:06d}/{name}" for step in (4, 8) for name in ("model.safetensors", "state.pt")}
    names = ("manifest.json", "report.html", "scores.csv", "predictions.csv", "probe.safetensors")
    evaluated = {f"evaluation/{name}" for name in names}
    assert found - tensorboard - evaluated == {
        "README.md",
        "manifest.json",
        "config.json",
        "metrics.jsonl",
        *states,
    }


def test_manifest_lists_the_subjects(run_dir, shards_dir):
    manifest, shards = RunManifest.read(run_dir / "manifest.json"), ShardSet.open(str(shards_dir))
    assert set(manifest.train_subjects) | set(manifest.test_subjects) == set(shards.subjects)
    assert not set(manifest.train_subjects) & set(manifest.test_subjects)
    assert manifest.shards_fingerprint == shards.manifest.fingerprint
    assert (manifest.num_train_samples, manifest.num_steps, manifest.text_source) == (28, 8, "label")
    assert (manifest.channel, manifest.temporal, manifest.num_train_sequences) == ("normal", "none", 0)


def test_tf32_needs_a_gpu(shards_dir, tmp_path):
    with pytest.raises(UsageError, match="precision tf32: only GPUs have it"):
        run(config(shards_dir, tmp_path / "run", precision="tf32"))
    assert not (tmp_path / "run").exists()


def test_precision_and_constants_are_recorded_and_kept_on_resume(run_dir, shards_dir, tmp_path):
    assert RunManifest.read(run_dir / "manifest.json").precision == native_precision("cpu")
    other = "float32" if native_precision("cpu") == "bfloat16" else "bfloat16"
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation", "manifest.json"))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000008")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["recipe"] == RunManifest.read(run_dir / "manifest.json").recipe
    recipe = record["recipe"] | {"off_diagonal_weight": 0.0051}
    (tmp_path / "run" / "config.json").write_text(json.dumps(record | {"precision": other, "recipe": recipe}))
    manifest = run(config(shards_dir, tmp_path / "run", resume=True), in_process=True)
    assert (manifest.precision, manifest.recipe) == (other, recipe)
    weights = [RunDirectory(root).checkpoints()[-1].load_model() for root in (run_dir, tmp_path / "run")]
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_metrics_name_every_loss(run_dir):
    last = RunDirectory(run_dir).metrics()[-1]
    assert last["step"] == 8
    assert {"loss_mv", "loss_vl", "loss_cm", "loss_total", "learning_rate", "temperature"} <= last.keys()


def test_resumed_run_has_the_same_weights(run_dir, shards_dir, ray_cluster, tmp_path):
    shutil.copytree(run_dir, tmp_path / "run", ignore=shutil.ignore_patterns("evaluation"))
    (tmp_path / "run" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-000008")
    with pytest.raises(UsageError, match="`resume`"):
        run(config(shards_dir, tmp_path / "run"))
    run(config(shards_dir, tmp_path / "run", resume=True))
    whole, resumed = RunDirectory(run_dir).checkpoints()[-1], RunDirectory(tmp_path / "run").checkpoints()[-1]
    expected, found = whole.load_model(), resumed.load_model()
    assert resumed.step == 8
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    steps = [row["step"] for row in RunDirectory(tmp_path / "run").metrics()]
    assert steps == sorted(set(steps))


def test_finished_run_is_not_repeated(run_dir, shards_dir, monkeypatch):
    monkeypatch.setattr("smile_pipe.pipeline.train.stage.ray_session", lambda address: pytest.fail("started Ray"))
    assert run(config(shards_dir, run_dir)) == RunManifest.read(run_dir / "manifest.json")


def test_other_options_do_not_overwrite_a_run(run_dir, shards_dir):
    before = (run_dir / "config.json").read_text()
    with pytest.raises(UsageError, match="other options"):
        run(config(shards_dir, run_dir, seed=1, resume=True))
    assert (run_dir / "config.json").read_text() == before


def test_two_workers_train_and_no_test_subject_is_read(shards_dir, ray_cluster, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(shards_dir, shards)
    shard_set = ShardSet.open(str(shards))
    # Reading a test sample now fails.
    spoil(shards, shard_set.of_subjects(split_subjects("kfold:5:0", shard_set.subjects).test))
    trained = run(config(shards, tmp_path / "run", epochs=1, num_workers=2, batch_size=4))
    assert trained.world_size == 2 and trained.num_steps == 4


def test_result_of_ray_has_the_last_metrics_and_the_path_of_the_checkpoint(
    shards_dir, ray_cluster, tmp_path, monkeypatch
):
    results, fit = [], TorchTrainer.fit

    def recording_fit(trainer):
        result = fit(trainer)
        reported = json.loads(Path(result.checkpoint.path, "checkpoint.json").read_text())
        results.append((trainer.scaling_config.resources_per_worker, result.metrics, reported))
        return result

    monkeypatch.setattr(TorchTrainer, "fit", recording_fit)
    run(config(shards_dir, tmp_path / "run", epochs=1, num_workers=2, batch_size=4, cpus_per_worker=1))
    run_directory = RunDirectory(tmp_path / "run")
    (last,), (checkpoint,) = run_directory.metrics(), run_directory.checkpoints()
    assert results == [({"CPU": 1}, last, {"path": str(checkpoint.path)})]


def test_training_without_text_uses_the_view_loss_only(shards_dir, ray_cluster, tmp_path):
    # With two workers, each of which must know which weights no loss reaches.
    options = {"epochs": 1, "text": "none", "num_workers": 2, "batch_size": 4}
    manifest = run(config(shards_dir, tmp_path / "run", **options))
    assert manifest.text_source == "none" and set(manifest.final_losses) == {"loss_mv", "loss_total"}


def test_auto_channel_follows_the_shards(shards_dir, tmp_path):
    manifest = ShardManifest.read(shards_dir / "manifest.json")
    assert resolve_channels(config(shards_dir, tmp_path), manifest) == ("normal",)
    assert resolve_channels(config(shards_dir, tmp_path, pretrained="openai"), manifest) == ("rgb",)
    assert resolve_channels(config(shards_dir, tmp_path, arch="hf-hub:people/faces"), manifest) == ("rgb",)
    without = manifest.model_copy(update={"channels": ("rgb",)})
    assert resolve_channels(config(shards_dir, tmp_path), without) == ("rgb",)
    only_flow = manifest.model_copy(update={"channels": ("flow",)})
    assert resolve_channels(config(shards_dir, tmp_path), only_flow) == ("flow",)
    with pytest.raises(UsageError, match="channel depth"):
        resolve_channels(config(shards_dir, tmp_path, channel="depth"), without)


@pytest.mark.parametrize(
    ("asked", "carried", "found"),
    [
        ("auto", "label", "label"),
        ("auto", "geometry", "geometry"),
        ("auto", "none", "none"),
        ("au", "au", "au"),
        ("none", "label", "none"),
    ],
)
def test_auto_text_source_follows_the_shards(tmp_path, asked, carried, found):
    manifest = shard_manifest(tmp_path, text_source=carried)
    assert resolve_text_source(config(tmp_path, tmp_path, text=asked), manifest) == found


@pytest.mark.parametrize(
    ("asked", "carried", "message"),
    [
        ("geometry", "label", "text geometry: the shards have prompts from label; use `text=label`"),
        ("label", "none", "text label: the shards have no prompts; use `text=none`"),
    ],
)
def test_missing_text_source_is_refused_naming_both(tmp_path, asked, carried, message):
    manifest = shard_manifest(tmp_path, text_source=carried)
    with pytest.raises(UsageError, match=message):
        resolve_text_source(config(tmp_path, tmp_path, text=asked), manifest)


@pytest.mark.parametrize(
    ("asked", "stored", "found"),
    [
        ("auto", "both", "frames"),
        ("auto", "dynamic", "dynamic"),
        ("auto", "none", "none"),
        ("dynamic", "both", "dynamic"),
        ("both", "both", "both"),
        ("frames", "frames", "frames"),
    ],
)
def test_resolve_temporal(tmp_path, asked, stored, found):
    assert resolve_temporal(config(tmp_path, tmp_path, temporal=asked), stored) == found


@pytest.mark.parametrize(
    ("asked", "stored", "message"),
    [
        ("dynamic", "frames", "temporal dynamic: the shards store frames of sequences"),
        ("both", "dynamic", "temporal both: the shards store dynamic of sequences"),
        ("frames", "none", "temporal frames: all training samples are scans"),
    ],
)
def test_missing_temporal_is_refused(tmp_path, asked, stored, message):
    with pytest.raises(UsageError, match=message):
        resolve_temporal(config(tmp_path, tmp_path, temporal=asked), stored)


def test_concept_ids_are_stable_and_distinct():
    # Numbers of another process, so that none is drawn anew in each.
    assert concept_id("HA") == 1428729713073518084
    numbers = [concept_id(f"slightly raised brows, {n}") for n in range(1000)]
    assert len(set(numbers)) == 1000 and min(numbers) >= 0 and 2**61 < max(numbers) < 2**63


@pytest.mark.parametrize(("name", "load"), [("state.pt", "load_state"), ("model.safetensors", "load_model")])
def test_checkpoint_with_code_is_refused_without_running_it(tmp_path, name, load):
    class Canary:
        def __reduce__(self):
            return (open, (str(tmp_path / "the-canary-sang"), "w"))

    checkpoint = RunDirectory(tmp_path).save(1, {"weight": torch.zeros(2)}, {"optimizer": {}, "step": 1}, keep=1)
    getattr(checkpoint, load)()
    torch.save({"optimizer": Canary(), "step": 1}, checkpoint.path / name)
    with pytest.raises(Exception, match=r"(?i)weights_only|header|unpickl"):
        getattr(checkpoint, load)()
    assert not (tmp_path / "the-canary-sang").exists()
    # A loader that runs code would have shown.
    torch.load(shutil.copy(checkpoint.path / name, tmp_path / "copy.pt"), weights_only=False)
    assert (tmp_path / "the-canary-sang").exists()


def test_foreign_files_among_checkpoints_are_kept(tmp_path):
    run_directory = RunDirectory(tmp_path)
    run_directory.save(4, {"weight": torch.zeros(2)}, {"step": 4}, keep=1)
    for name in ("step-0x8", ".step-000008.tmp", "notes"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert [checkpoint.step for checkpoint in run_directory.checkpoints()] == [4]


def test_incomplete_last_line_of_metrics_is_ignored(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 5}) + "\n" + '{"step": 1')
    assert RunDirectory(tmp_path).metrics() == [{"step": 5}]


@pytest.mark.parametrize(
    ("nodes", "num_workers", "cores"), [([2], 1, 2), ([2], 2, 1), ([8, 8], 1, 8), ([8, 4], 3, 4), ([16, 0, 16], 5, 5)]
)
def test_cores_per_worker(nodes, num_workers, cores):
    assert cores_per_worker(nodes, num_workers) == cores


@pytest.mark.parametrize(("nodes", "there_is"), [([1], "1 core,"), ([1, 1], "2 cores,")])
def test_too_few_cores_are_reported(nodes, there_is):
    with pytest.raises(UsageError, match=f"Ray has {there_is}"):
        cores_per_worker(nodes, 3)


@pytest.mark.parametrize(
    ("options", "resources"),
    [
        ({}, {"CPU": 4}),
        ({"cpus_per_worker": 3}, {"CPU": 3}),
        ({"use_gpu": True}, {"CPU": 1, "GPU": 1}),
        ({"use_gpu": True, "cpus_per_worker": 4}, {"CPU": 4, "GPU": 1}),
        ({"cpus_per_worker": 5}, None),
        ({"use_gpu": True, "cpus_per_worker": 5}, None),
    ],
)
def test_resources_of_workers_follow_the_options(monkeypatch, options, resources):
    node = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}
    monkeypatch.setattr(ray, "nodes", lambda: [node, node])
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    wanted = config("shards", "run", num_workers=2, **options)
    if resources:
        assert resources_per_worker(wanted) == resources
    else:
        with pytest.raises(UsageError, match=r"cpus_per_worker 5: .* no room for 2 workers"):
            resources_per_worker(wanted)


def test_more_workers_than_cores_are_refused_before_writing(shards_dir, ray_cluster, tmp_path):
    # As many workers as the samples allow: more than the cores of a small machine.
    if ray.cluster_resources()["CPU"] >= 14:
        pytest.skip("there are cores for as many workers as there are samples for")
    with pytest.raises(UsageError, match="num_workers 14"):
        run(config(shards_dir, tmp_path / "run", num_workers=14, batch_size=2))
    assert not (tmp_path / "run").exists()


def test_missing_gpus_are_refused_before_writing(shards_dir, ray_cluster, tmp_path):
    if ray.cluster_resources().get("GPU"):
        pytest.skip("there is a GPU")
    with pytest.raises(UsageError, match="use_gpu"):
        run(config(shards_dir, tmp_path / "run", use_gpu=True))
    assert not (tmp_path / "run").exists()


def test_weights_file_has_an_absolute_path_and_a_digest(shards_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"one")
    options = config(shards_dir, tmp_path / "run", pretrained="weights.pt")
    before = weights_digest(options)
    assert _weights_path(options) == str(tmp_path / "weights.pt")
    (tmp_path / "weights.pt").write_bytes(b"two")
    assert weights_digest(options) != before
    assert _weights_path(config(shards_dir, tmp_path / "run", pretrained="openai")) == "openai"
