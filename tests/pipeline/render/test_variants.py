"""Renders of varied shapes: other heads with the same expressions, for training next to the plain ones."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.small_runs import learn, register
from smile_pipe.pipeline.meshes.variation import Variation
from smile_pipe.pipeline.predict.predictor import render_settings_of
from smile_pipe.pipeline.render import reading
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import run as synth
from smile_pipe.shards.images import decode_image
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(autouse=True)
def in_process(monkeypatch) -> None:
    """Render in this process."""
    monkeypatch.setattr(render, "_in_process", lambda config: True)


@pytest.fixture(scope="module")
def rendered(faces_dir, tmp_path_factory) -> dict[int, Path]:
    """Shards of three variants, the first of the shapes as they are."""
    folder = tmp_path_factory.mktemp("variants")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_in_process", lambda config: True)
        for number in range(3):
            render.run(config(faces_dir, folder / str(number), variant=number, text="geometry"))
    return {number: folder / str(number) for number in range(3)}


def config(data: Path, out: Path, **options: object) -> RenderConfig:
    given = {"data_dir": data, "out": out, "size": 48, "channels": ("depth", "landmarks"), "samples_per_shard": 8}
    return RenderConfig.model_validate(given | options)


def images(shards: Path, channel: str = "depth") -> dict[str, np.ndarray]:
    """Front view of each sample."""
    shard_set = ShardSet.open(str(shards))
    samples = [shard_set.read(row) for row in shard_set.rows]
    return {each.record.key: decode_image(channel, each.images["front", channel]).astype(int) for each in samples}


def test_each_variant_shows_other_shapes_of_the_same_samples(rendered):
    plain, first, second = (images(rendered[number]) for number in range(3))
    assert plain.keys() == first.keys() == second.keys() and len(plain) == 35
    for key in plain:
        silhouettes = [shown[key] > 0 for shown in (plain, first, second)]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert 0.005 < (silhouettes[one] != silhouettes[other]).mean() < 0.35
    assert len({ShardSet.open(str(path)).manifest.fingerprint for path in rendered.values()}) == 3
    settings = [ShardSet.open(str(path)).manifest.settings for path in rendered.values()]
    # As in shards of earlier releases.
    assert "variant" not in settings[0] and [each["variant"] for each in settings[1:]] == [1, 2]


def test_change_is_that_of_the_person(faces_dir, tmp_path, monkeypatch):
    people: set[tuple[str, int]] = set()

    def spy(subject: str, variant: int) -> Variation:
        people.add((subject, variant))
        return Variation.of(subject, variant)

    monkeypatch.setattr(reading, "Variation", SimpleNamespace(of=spy))
    render.run(config(faces_dir, tmp_path / "shards", variant=4, channels=("depth",)))
    assert people == {(subject, 4) for subject in ShardSet.open(str(tmp_path / "shards")).subjects}


def test_faces_stay_in_their_place_and_size(rendered):
    """The varied face is aligned again by its landmarks: where they are drawn changes little."""
    places = []
    for path in rendered.values():
        brows, lips = (
            np.array([np.argwhere(image[..., part] > 0).mean(axis=0) for image in images(path, "landmarks").values()])
            for part in (0, 2)
        )
        places.append((brows, lips[:, 0] - brows[:, 0]))
    for brows, heights in places[1:]:
        assert np.abs(brows - places[0][0]).max() < 2.5
        assert np.abs(heights / places[0][1] - 1).max() < 0.3


def test_captions_are_measured_on_the_varied_scan_and_its_varied_neutral_one(rendered):
    for path in rendered.values():
        shard_set = ShardSet.open(str(path))
        samples = {row.key: shard_set.read(row) for row in shard_set.rows}
        captions = {key: sample.record.caption for key, sample in samples.items()}
        surprised = [key for key in captions if "SU04" in key]
        assert len(surprised) == 5
        for key in surprised:
            assert captions[key].reference == "neutral" and "widened eyes" in samples[key].text
    # A change of shape that captions mistook for an expression would make them long.
    lengths = [
        np.mean([len(shards.read(row).text) for row in shards.rows])
        for shards in (ShardSet.open(str(path)) for path in rendered.values())
    ]
    assert max(lengths) < 1.25 * min(lengths)


def test_options_and_workers_do_not_change_a_variant(faces_dir, rendered, tmp_path):
    render.run(config(faces_dir, tmp_path / "part", variant=1, limit=9, text="geometry"))
    whole, part = images(rendered[1]), images(tmp_path / "part")
    assert len(part) == 9 and all(np.array_equal(part[key], whole[key]) for key in part)


def test_sequence_is_varied_as_one(tmp_path):
    synth(SynthConfig(out=tmp_path / "faces", kind="sequences", subjects=1, frames=5, texture_size=64))
    options = {"channels": ("depth", "flow"), "frames": 4, "where": "expression == 'SU'"}
    for number in (0, 1):
        render.run(config(tmp_path / "faces", tmp_path / str(number), variant=number, **options))
    shown = []
    for number in (0, 1):
        shards = ShardSet.open(str(tmp_path / str(number)))
        sample = shards.read(shards.rows[0])
        flow = [decode_image(f"flow.0{t}", sample.images["front", f"flow.0{t}"]).astype(int) for t in range(4)]
        assert np.abs(flow[0] - 32768)[flow[0] > 0].max() <= 1 and len(sample.record.timeline.frames) == 4
        shown.append([decode_image(f"depth.0{t}", sample.images["front", f"depth.0{t}"]) > 0 for t in range(4)])
    # The first frames differ by the change of shape, and frames of one set by the expression, which is less.
    between = [(plain != varied).mean() for plain, varied in zip(*shown, strict=True)]
    within = [(frame != frames[0]).mean() for frames in shown for frame in frames[1:]]
    assert min(between) > 0.005 and max(within) < 0.2


def test_run_on_both_reads_new_scans_as_they_are(rendered, tmp_path):
    register(tmp_path)
    out = tmp_path / "run"
    learn(f"{rendered[1]}::{rendered[0]}", out, epochs=1, split="kfold:5:0", channel="depth")
    run, _ = open_run(out)
    assert run.settings["variant"] == 1 and len(run.train_subjects) == 4 and run.num_train_samples == 4 * 7 * 2
    assert render_settings_of(StoragePath(out), run, "zbuffer").variant == 0
