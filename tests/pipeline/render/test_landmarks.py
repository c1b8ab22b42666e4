"""Renders of scans without landmarks: they are found, recorded, and measured for captions."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.render import settings as settings_module
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.limits import Limits
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.prepare import _search_ball, prepare_steps
from smile_pipe.pipeline.render.reading import _is_comparable
from smile_pipe.pipeline.render.stage import run
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import run as synth
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of one subject in the layout of BU-3DFE, without landmark files."""
    out = tmp_path_factory.mktemp("data") / "faces"
    synth(SynthConfig(out=out, subjects=1, levels=(4,), texture_size=64))
    return remove_landmarks(out)


def remove_landmarks(folder: Path) -> Path:
    found = list(folder.rglob("*.bnd"))
    assert found
    for path in found:
        path.unlink()
    return folder


def render(data: Path, out: Path, **options: object) -> ShardSet:
    given = {"data_dir": data, "out": out, "size": 48, "channels": ("normal",)} | options
    run(RenderConfig.model_validate(given))
    return ShardSet.open(str(out))


def test_landmarks_are_found_and_recorded(data, tmp_path):
    shards = render(data, tmp_path / "shards")
    assert shards.rows.distinct("framed_by") == ["detected"]
    for row in shards.rows:
        record = shards.read(row).record
        assert record.frame.confidence is not None and record.frame.confidence > 0.4
        assert record.mesh.num_landmarks > 60


def test_frames_of_one_subject_do_not_depend_on_the_expression(data, tmp_path):
    shards = render(data, tmp_path / "shards")
    scales = [shards.read(row).record.frame.scale for row in shards.rows]
    assert max(scales) / min(scales) < 1.06


@pytest.mark.parametrize("expression", ["NE", "HA"])
def test_scan_is_not_compared_with_landmarks_of_another_source(tmp_path, expression):
    synth(SynthConfig(out=tmp_path / "faces", subjects=1, levels=(4,), texture_size=64))
    (path,) = (tmp_path / "faces").rglob(f"*_{expression}*.bnd")
    path.unlink()
    shards = render(tmp_path / "faces", tmp_path / "shards", text="geometry", where="expression == 'HA'")
    (row,) = shards.rows
    record = shards.read(row).record
    assert record.caption is not None and record.caption.reference == "population"
    assert record.frame.method == ("landmarks" if expression == "NE" else "detected")


def test_captions_are_measured(data, tmp_path):
    shards = render(data, tmp_path / "shards", text="geometry")
    texts = {row.expression: shards.read(row).text for row in shards.rows}
    assert "jaw dropped" in texts["SU"] and "jaw dropped" not in texts["HA"]
    assert len(set(texts.values())) > 4


@pytest.mark.parametrize("source", ["file", "none"])
def test_nothing_is_found_without_a_search(data, tmp_path, source):
    shards = render(data, tmp_path / "shards", landmarks=source)
    assert shards.rows.distinct("framed_by") == ["bounds"]


def test_another_detector_renders_again_where_it_is_used(tmp_path, monkeypatch):
    def fingerprints() -> list[str]:
        sources = ("auto", "detect", "file", "none")
        configs = [RenderConfig(data_dir=tmp_path, out=tmp_path / "out", landmarks=source) for source in sources]
        return [each.resolve().images_fingerprint for each in configs]

    before = fingerprints()
    monkeypatch.setattr(settings_module, "detector_version", lambda: "another")
    after = fingerprints()
    assert len({*before, *after}) == 6
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, False, True, True]


def test_sequence_without_landmarks_has_the_frame_of_its_onset_and_captions(tmp_path):
    data = tmp_path / "faces"
    synth(SynthConfig(out=data, kind="sequences", subjects=1, frames=8, texture_size=64))
    remove_landmarks(data)
    for folder in {path.parent for path in data.rglob("*.wrl")}:
        if folder.name != "Surprise":
            shutil.rmtree(folder)
    shards = render(data, tmp_path / "shards", text="geometry")
    (row,) = shards.rows
    sample = shards.read(row)
    assert sample.record.frame.method == "detected"
    # Measured on frames after the onset, which is neutral.
    assert "jaw dropped" in sample.text


@pytest.mark.parametrize(
    ("source", "landmarks", "expected"),
    [("auto", None, True), ("auto", "a.bnd", False), ("detect", "a.bnd", True), ("file", None, False)],
)
def test_kernels_of_the_search_are_loaded_if_scans_may_need_it(tmp_path, source, landmarks, expected):
    settings = RenderConfig(data_dir=tmp_path, out=tmp_path / "out", landmarks=source).resolve()
    sample = SampleSource(
        key="a", subject="a", expression="NE", level=None, frames=(ScanFiles("a.obj", landmarks=landmarks),)
    )
    tasks = [ShardTask("000000.tar", (sample,))]
    steps = prepare_steps(tasks, StoragePath(tmp_path), settings, Limits(seconds=60, megabytes=1000), "")
    assert (_search_ball in steps) == expected


@pytest.mark.parametrize(
    ("methods", "numbers", "expected"),
    [
        (("landmarks", "landmarks"), (68, 68), True),
        (("detected", "detected"), (68, 68), True),
        (("detected", "landmarks"), (68, 68), False),
        (("landmarks", "landmarks"), (83, 68), False),
        (("landmarks", "landmarks"), (None, 68), False),
        (("landmarks", "landmarks"), (68, None), False),
    ],
)
def test_only_landmarks_of_one_source_and_set_are_compared(methods, numbers, expected):
    frames = [SimpleNamespace(method=method) for method in methods]
    meshes = [SimpleNamespace(landmarks=None if num is None else np.zeros((num, 3))) for num in numbers]
    assert _is_comparable(meshes[0], frames[0], meshes[1], frames[1]) == expected
