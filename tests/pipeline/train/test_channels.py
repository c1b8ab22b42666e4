"""Runs of several channels: train, resume, score, predict and export as runs of one do."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from helpers import small_runs
from helpers.samples import make_sample, write_shard_set
from helpers.small_runs import config, learn, learn_until, reader_of, result, same, weights
from smile_pipe.pipeline.data.dataset import DecodeSpec, decode_face
from smile_pipe.pipeline.evaluate import stage as evaluate
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.export.config import ExportConfig
from smile_pipe.pipeline.export.stage import run as export
from smile_pipe.pipeline.predict.predictor import render_settings_of
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

CHANNELS = ("normal", "rgb")


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    small_runs.register(folder)
    write_shard_set(folder / "shards", num_subjects=6, channels=("rgb", "normal"))
    return folder / "shards"


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    learn(shards, out, channel="normal, rgb")
    return out


def test_each_channel_has_a_system_that_learns(run, shards, tmp_path):
    manifest, _ = open_run(run)
    assert (manifest.channel, manifest.channels, manifest.recipe["num_channels"]) == ("normal,rgb", CHANNELS, 2)
    learn(shards, tmp_path / "short", channel="normal,rgb", epochs=1)
    early, late = weights(tmp_path / "short"), weights(run)
    for number in (0, 1):
        names = [name for name in late if name.startswith(f"systems.{number}.") and "project_image" in name]
        assert names and all(not torch.equal(early[name], late[name]) for name in names)


def test_card_names_both(run):
    card = " ".join((run / "README.md").read_text().split())
    assert "a text encoder; of each channel, with joined embeddings." in card and "`normal`, `rgb` images" in card


def test_order_of_colours_is_that_of_the_channels():
    sample = make_sample(size=16, channels=("rgb", "normal"))
    both = decode_face(sample, DecodeSpec(CHANNELS, 16)).views
    assert both.shape == (1, 3, 6, 16, 16)
    for number, channel in enumerate(CHANNELS):
        alone = decode_face(sample, DecodeSpec((channel,), 16)).views
        assert np.array_equal(both[:, :, 3 * number : 3 * number + 3], alone)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9, "grad_cache_chunks": 2}])
def test_resumed_run_has_the_same_weights(shards, tmp_path, monkeypatch, options):
    options = {"channel": "normal,rgb", "save_every": 1} | options
    learn(shards, tmp_path / "whole", **options)
    learn_until(6, monkeypatch, shards, tmp_path / "part", **options)
    learn(shards, tmp_path / "part", resume=True, **options)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "part"))


def test_all_protocols_score_it(run, shards):
    protocols = ("zero-shot", "knn", "probe", "finetune", "missing-views")
    found = evaluate.run(EvaluateConfig(run=run, shards=str(shards), protocol=protocols, finetune_epochs=1))
    assert set(protocols) == found.protocols.keys() | found.questions.keys()


def test_embedding_depends_on_both_channels(run, shards):
    reader, model = reader_of(shards, run), result(run)
    rows = reader.shards.rows[:4]
    (batch,) = reader.batches([rows])
    fused = model.embed_batch(batch, reader.directions(rows)).fused
    for number in (0, 1):
        views = batch.views.clone()
        views[:, :, 3 * number : 3 * number + 3] = 0
        changed = model.model.embed_faces(views.float() / 255, reader.directions(rows))[1].detach().numpy()
        parts = [np.abs(changed - fused)[:, half].max() > 1e-4 for half in (slice(0, 128), slice(128, 256))]
        assert parts == [number == 0, number == 1]


def test_graph_embeds_as_the_run(run, shards, tmp_path):
    export(ExportConfig(run=run, onnx=tmp_path / "faces.onnx"))
    reader = reader_of(shards, run)
    rows = reader.shards.rows[:5]
    (expected,) = result(run).embed_views(reader, rows, 5)
    views = np.concatenate([reader.read(row).views for row in rows]).astype(np.float32) / 255
    session = onnxruntime.InferenceSession(tmp_path / "faces.onnx", providers=["CPUExecutionProvider"])
    found = session.run(["embedding"], {"views": views, "directions": reader.directions(rows).numpy()})[0]
    np.testing.assert_allclose(found, expected.fused, atol=1e-4)


def test_open_clip_has_no_place_for_two_towers(run, tmp_path):
    with pytest.raises(UsageError, match="a tower for each of normal and rgb, and the format has one; use `onnx`"):
        export(ExportConfig(run=run, open_clip=tmp_path / "folder"))
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize(
    ("channel", "rendered", "needs_colors"),
    [("normal,depth", ("rgb", "depth", "normal"), False), ("rgb,normal", ("rgb", "normal"), True)],
)
def test_prediction_renders_all_channels(run_dir, channel, rendered, needs_colors):
    root = StoragePath(run_dir)
    manifest = open_run(root)[0].model_copy(update={"channel": channel})
    settings = render_settings_of(root, manifest, "zbuffer")
    assert (settings.channels, settings.needs_colors) == (rendered, needs_colors)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("normal,colour", "choose auto, or from rgb, depth, normal, flow, landmarks"),
        ("auto,normal", "choose auto, or from"),
        ("", "choose auto, or from"),
        ("normal,rgb,normal", "names a channel twice"),
    ],
)
def test_wrong_channels_are_refused(shards, tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        config(shards, tmp_path, channel=value)


def test_missing_channel_is_refused(shards, run, tmp_path):
    with pytest.raises(UsageError, match=r"the shards have rgb, normal; choose from these"):
        learn(shards, tmp_path / "run", channel="normal,depth")
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
    with pytest.raises(UsageError, match=r"lack the channel normal, .* render with `channels=normal,rgb`"):
        evaluate.run(EvaluateConfig(run=run, shards=str(tmp_path / "shards")))
