"""Renders of scans without landmarks: they are found, recorded, and measured for captions."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import ValidationError

from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.datasets.data_dir import open_data_dir
from smile_pipe.pipeline.landmarks.files import read_scan
from smile_pipe.pipeline.render import settings as settings_module
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.limits import Limits
from smile_pipe.pipeline.render.plan import ShardTask
from smile_pipe.pipeline.render.prepare import _search_ball, prepare_steps
from smile_pipe.pipeline.render.reading import SourceReader, _is_comparable
from smile_pipe.pipeline.render.stage import run
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import run as synth
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import read_failures
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import decode_sample
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


def test_outlines_are_drawn_as_a_channel(data, tmp_path):
    shards = render(data, tmp_path / "shards", channels=("landmarks", "normal"))
    assert shards.manifest.channels == ("normal", "landmarks")
    row = shards.rows[0]
    decoded = decode_sample(shards.read(row))
    for camera in shards.read(row).record.cameras:
        outlines = decoded[f"{camera.name}.landmarks.png"]
        normal = decoded[f"{camera.name}.normal.png"]
        assert outlines.shape == normal.shape and all(outlines[..., part].max() > 200 for part in range(3))
        # Lips are below the eyes, in the face.
        eyes, lips = (np.argwhere(outlines[..., part] > 128) for part in (1, 2))
        assert lips[:, 0].mean() > eyes[:, 0].mean()
        assert (normal[lips[:, 0], lips[:, 1]] != 128).any(axis=1).mean() > 0.8


def test_outlines_alone(data, tmp_path):
    shards = render(data, tmp_path / "shards", channels=("landmarks",))
    names = {name.split(".")[1] for name in decode_sample(shards.read(shards.rows[0])) if name.endswith(".png")}
    assert names == {"landmarks"}


def test_scan_without_landmarks_is_a_failure_where_they_are_drawn(data, tmp_path):
    with pytest.raises(UsageError, match="contains no samples"):
        render(data, tmp_path / "shards", channels=("landmarks",), landmarks="file")
    failures = read_failures(tmp_path / "shards" / "failures.parquet")
    assert len(failures) == 7
    assert all("has no landmarks to draw" in failure.reason for failure in failures)


def test_outlines_without_a_source_of_landmarks_are_refused(tmp_path):
    with pytest.raises(ValidationError, match="nothing to draw"):
        RenderConfig(data_dir=tmp_path, out=tmp_path / "out", channels=("landmarks",), landmarks="none")


@pytest.mark.parametrize("source", ["file", "none"])
def test_nothing_is_found_without_a_search(data, tmp_path, source):
    shards = render(data, tmp_path / "shards", landmarks=source)
    assert shards.rows.distinct("framed_by") == ["bounds"]


@pytest.mark.parametrize("source", ["auto", "none"])
def test_wrong_unit_is_a_failure_that_names_the_right_one(data, tmp_path, source):
    with pytest.raises(UsageError, match="contains no samples"):
        render(data, tmp_path / "shards", landmarks=source, units="m")
    reasons = [failure.reason for failure in read_failures(tmp_path / "shards" / "failures.parquet")]
    assert len(reasons) == 7 and {reason.rpartition("; ")[2] for reason in reasons} == {"use `units=mm`"}
    known = render(data, tmp_path / "known", landmarks=source, units="mm")
    free = render(data, tmp_path / "free", landmarks=source)
    assert [known.read(row).images for row in known.rows] == [free.read(row).images for row in free.rows]


@pytest.mark.parametrize(("axes", "turn"), [("x,y,z", 0), ("x,z,-y", 90), ("x,-y,-z", 180)])
def test_face_that_is_turned_against_the_given_axes_has_a_note(data, tmp_path, axes, turn):
    shards = render(data, tmp_path / "shards", axes=axes, where="expression == 'NE'")
    (row,) = shards.rows
    record = shards.read(row).record
    assert record.frame.method == "detected"
    assert bool(record.notes) == bool(turn)
    if turn:
        pattern = r"(.*): its face is turned by (\d+) degrees against the given axes (.*); check .*"
        found = re.fullmatch(pattern, record.notes)
        assert found is not None and (found[1], found[3]) == (record.source, axes)
        assert int(found[2]) == pytest.approx(turn, abs=10)


@pytest.mark.parametrize(("axes", "num_notes"), [("", 0), ("x,y,z", 1), ("x,z,-y", 0)])
def test_axes_of_one_scan_are_compared_even_if_they_are_the_usual_ones(data, tmp_path, axes, num_notes):
    mesh = read_scan(next(path for path in sorted(data.rglob("*NE00*")) if path.suffix == ".wrl"), None)
    z_up = replace(mesh, vertices=mesh.vertices @ np.float32([[1, 0, 0], [0, 0, 1], [0, -1, 0]]))
    settings = RenderConfig(data_dir=tmp_path, out=tmp_path / "out").resolve()
    with open_data_dir(StoragePath(tmp_path)) as files:
        reader = SourceReader(files)
        _, frame = reader.align(z_up, ScanFiles("a.obj", axes=axes), settings)
    assert (frame.method, len(reader.notes)) == ("detected", num_notes)


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


@pytest.fixture(scope="module")
def surprise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One sequence without landmark files."""
    data = tmp_path_factory.mktemp("sequence") / "faces"
    synth(SynthConfig(out=data, kind="sequences", subjects=1, frames=8, texture_size=64))
    remove_landmarks(data)
    for folder in {path.parent for path in data.rglob("*.wrl")}:
        if folder.name != "Surprise":
            shutil.rmtree(folder)
    return data


def test_outlines_follow_the_frames_of_a_sequence(surprise, tmp_path):
    shards = render(surprise, tmp_path / "shards", channels=("landmarks",))
    decoded = decode_sample(shards.read(shards.rows[0]))
    heights = [np.ptp(np.argwhere(decoded[f"front.landmarks.{n:02d}.png"][..., 2] > 128)[:, 0]) for n in range(8)]
    # The mouth opens, and closes.
    assert max(heights[2:6]) > heights[0] + 1 and max(heights[2:6]) > heights[-1] + 1


def test_sequence_without_any_landmarks_is_a_failure_where_they_are_drawn(surprise, tmp_path):
    with pytest.raises(UsageError, match="contains no samples"):
        render(surprise, tmp_path / "shards", channels=("landmarks",), landmarks="file")
    (failure,) = read_failures(tmp_path / "shards" / "failures.parquet")
    assert "has no landmarks to draw" in failure.reason


def test_later_frame_without_landmarks_has_empty_outlines(tmp_path):
    data = tmp_path / "faces"
    synth(SynthConfig(out=data, kind="sequences", subjects=1, frames=5, texture_size=64))
    for folder in {path.parent for path in data.rglob("*.wrl")}:
        if folder.name != "Surprise":
            shutil.rmtree(folder)
    sorted(data.rglob("*.bnd"))[-1].unlink()
    shards = render(data, tmp_path / "shards", channels=("landmarks",), landmarks="file")
    decoded = decode_sample(shards.read(shards.rows[0]))
    assert [bool(decoded[f"front.landmarks.{n:02d}.png"].any()) for n in range(5)] == [True, True, True, True, False]


def test_sequence_without_landmarks_has_the_frame_of_its_onset_and_captions(surprise, tmp_path):
    data = surprise
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
