"""Building samples: records that are rewritten around the same images, and what rejected landmarks must not reach."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.shapes import sphere
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.face_model.multi_pie import multi_pie_vertices
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks import locate
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.render import units as units_module
from smile_pipe.pipeline.render.build import BuiltSample, build_shard, rewrite_sample
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.pipeline.render.plan import ReusedSample, ShardTask, plan_shards
from smile_pipe.pipeline.render.process import process_sample, process_units, read_meshes
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.stage import _check_text
from smile_pipe.pipeline.render.units import WorkUnit, select_inputs, split_into_units
from smile_pipe.pipeline.sequences.sampling import SequenceSettings
from smile_pipe.shards.reader import read_members
from smile_pipe.shards.sample import from_members

SOURCE = SampleSource("a", "s", "HA", None, (ScanFiles("a.obj"),))


@pytest.fixture
def settings(tmp_path) -> RenderSettings:
    ball = sphere(2, 100.0)
    lines = ["v {:.5f} {:.5f} {:.5f}".format(*v) for v in ball.vertices.tolist()]
    lines += ["f {} {} {}".format(*f) for f in (ball.faces + 1).tolist()]
    (tmp_path / "a.obj").write_text("\n".join(lines))
    return RenderConfig(
        data_dir=tmp_path, out=tmp_path / "out", size=32, channels=("rgb",), renderer="zbuffer", landmarks="file"
    ).resolve()


def test_processing_a_sample_twice_gives_equal_samples(settings, tmp_path):
    first, second = (process_sample(SOURCE, tmp_path, settings, "folder") for _ in range(2))
    assert isinstance(first, BuiltSample) and first.sample is not None
    assert first == second


def test_a_rewritten_record_has_the_new_layout_and_labels_and_the_same_images(settings, tmp_path):
    output = RenderOutput(tmp_path / "out")
    output.begin(())
    old, new = (SampleFingerprints.of(settings, layout) for layout in ("folder", "bu3dfe"))
    units = list(process_units([WorkUnit(SOURCE)], tmp_path, settings))
    task = ShardTask("000000.tar", ())
    (row,) = build_shard(task, units, tmp_path, settings, old, output).record.rows
    before = from_members(read_members((output.shards / task.name).read_range(row.offset, row.bytes), task.name))

    source = replace(SOURCE, subject="t")
    reused = (ReusedSample(row, source),)
    (again,) = build_shard(replace(task, reused=reused), [], tmp_path, settings, new, output).record.rows
    after = from_members(read_members((output.shards / task.name).read_range(again.offset, again.bytes), task.name))
    assert (again.layout, again.subject, after.record.layout, after.record.subject) == ("bu3dfe", "t", "bu3dfe", "t")
    assert after.images == before.images and again.images == row.images
    # The next plan finds nothing to do.
    assert plan_shards(tmp_path, [source], new, output, 8).is_done


def test_samples_whose_units_are_not_all_named_are_counted_and_written_again(settings, caplog):
    few, many = (replace(SOURCE, action_units=dict.fromkeys(map(str, range(1, 1 + num)), 1.0)) for num in (5, 6))
    of = SampleFingerprints.of(settings.model_copy(update={"text_source": "au"}), "folder")
    # Earlier versions named all units, and the fingerprint had the source alone.
    assert of.prompt_settings(few) == "au" != of.prompt_settings(many)
    # The shared Ray session of the tests hides warnings.
    caplog.set_level(logging.WARNING)
    _check_text(settings.model_copy(update={"text_source": "au"}), [few, many, few, many], "folder")
    assert caplog.messages == ["2 samples with more than 5 active action units: captions name the strongest 5"]
    _check_text(settings.model_copy(update={"text_source": "geometry"}), [many], "folder")
    _check_text(settings.model_copy(update={"text_source": "au"}), [few], "folder")
    assert len(caplog.messages) == 1


def test_notes_name_the_file_are_limited_and_reach_the_driver(settings, tmp_path):
    text = (tmp_path / "a.obj").read_text() + "\nf 1 2\n"
    frames = tuple(ScanFiles(f"{number}.obj") for number in range(12))
    for scan in frames:
        (tmp_path / scan.mesh).write_text(text)
    sources = [replace(SOURCE, frames=frames[:1]), replace(SOURCE, key="b", frames=frames, frame_rate=25.0)]
    settings = settings.model_copy(update={"sequences": SequenceSettings(sampling="all")})
    units = [
        unit
        for source in sources
        for unit in process_units(split_into_units(select_inputs(source, settings), settings), tmp_path, settings)
    ]
    output = RenderOutput(tmp_path / "out")
    output.begin(())
    written = build_shard(
        ShardTask("000000.tar", ()), units, tmp_path, settings, SampleFingerprints.of(settings, "folder"), output
    )
    of_scan, *of_sequence = written.notes
    assert of_scan == "0.obj: faces of fewer than three corners are left out"
    assert len(of_sequence) == 8 and of_sequence[6:] == [of_scan.replace("0", "6"), "and 5 more notes"]
    (row, _) = written.record.rows
    stored = from_members(read_members((output.shards / "000000.tar").read_range(row.offset, row.bytes), "000000.tar"))
    assert stored.record.notes == of_scan


def detection(confidence: float) -> SimpleNamespace:
    """The landmarks of a face, as if they were found."""
    model = ParametricFace()
    points = model.mesh(model.identity(np.random.default_rng(5)), {}).vertices[multi_pie_vertices(model.chart)]
    return SimpleNamespace(landmarks=points.astype(np.float64), confidences=np.ones(68), confidence=confidence)


def test_a_rewritten_record_has_the_notes_of_a_new_render(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(locate, "detect", lambda mesh, units: detection(0.9))
    settings = settings.model_copy(update={"landmarks": "auto"})
    text = (tmp_path / "a.obj").read_text() + "\nf 1 2\n"
    for name in ("a.obj", "n.obj"):
        (tmp_path / name).write_text(text)
    note = "faces of fewer than three corners are left out"
    source = replace(SOURCE, neutral=ScanFiles("n.obj"))
    by_label, by_geometry = (settings.model_copy(update={"text_source": text}) for text in ("label", "geometry"))
    both = (by_label, by_geometry)
    rendered = {how.text_source: process_sample(source, tmp_path, how, "folder").sample for how in both}
    assert rendered["label"].record.notes == f"a.obj: {note}"
    assert rendered["geometry"].record.notes.splitlines() == [f"a.obj: {note}", f"n.obj: {note}"]

    def rewritten(before: str, how: RenderSettings) -> str:
        row = SimpleNamespace(sources=())
        selected, fingerprints = select_inputs(source, how), SampleFingerprints.of(how, "folder")
        return rewrite_sample(selected, row, rendered[before], how, fingerprints, tmp_path).sample.record.notes

    for how in both:
        for before in ("label", "geometry"):
            assert rewritten(before, how) == rendered[how.text_source].record.notes
    # Labels are written again without a read.
    (tmp_path / "a.obj").unlink()
    assert rewritten("label", by_label) == f"a.obj: {note}"


@pytest.mark.parametrize("text", ["geometry", "label"])
def test_frames_without_a_face_have_one_note(settings, tmp_path, monkeypatch, text):
    frames = tuple(ScanFiles(f"{number}.obj") for number in range(5))
    ball = (tmp_path / "a.obj").read_text()
    for number, scan in enumerate(frames):
        # Each frame has another number of vertices.
        (tmp_path / scan.mesh).write_text(ball + "\nv 0 0 0" * number)

    def detect(mesh: Mesh, units: str) -> SimpleNamespace | None:
        number = len(mesh.vertices) - len(sphere(2, 100.0).vertices)
        if (confidence := (0.9, None, 0.4, 0.1, 0.9)[number]) is None:
            return None
        return detection(confidence)

    monkeypatch.setattr(locate, "detect", detect)
    # Frames of several units.
    monkeypatch.setattr(units_module, "MAX_FRAMES_PER_BATCH", 2)
    source = replace(SOURCE, frames=frames, frame_rate=25.0)
    how = {"landmarks": "auto", "text_source": text, "sequences": SequenceSettings(sampling="all")}
    settings = settings.model_copy(update=how)
    built = process_sample(source, tmp_path, settings, "folder")
    assert built.sample is not None and built.sample.record.frame.method == "detected"
    expected = [
        "2.obj: landmarks were found with a low confidence (0.40)",
        "0.obj: no face found in 2 of 5 frames; they have no landmarks",
    ]
    expected = expected if text == "geometry" else []
    assert built.sample.record.notes.splitlines() == expected
    assert read_meshes(source, tmp_path, settings)[1] == tuple(expected)


def test_axes_of_a_scan_and_of_its_neutral_scan_change_its_fingerprint(settings):
    neutral = ScanFiles("n.obj")
    flow = settings.model_copy(update={"channels": ("rgb", "flow")})
    geometry = settings.model_copy(update={"text_source": "geometry"})
    turned, turned_neutral = (replace(scan, axes="x,z,-y") for scan in (SOURCE.frames[0], neutral))
    before = replace(SOURCE, neutral=neutral)
    for how, changes, image_changes in (
        (settings, {"frames": (turned,)}, True),
        (flow, {"neutral": turned_neutral}, True),
        (geometry, {"neutral": turned_neutral}, False),
    ):
        of = SampleFingerprints.of(how, "folder")
        after = replace(before, **changes)
        assert (of.images(after, ()) != of.images(before, ())) == image_changes
        assert of.whole(after, of.images(after, ()), ()) != of.whole(before, of.images(before, ()), ())


def test_landmarks_of_something_else_are_not_used_with_a_note(settings, tmp_path):
    points = sphere(2, 100.0).vertices[:68]
    text = {}
    for name, landmarks in {"own": points, "metres": points / 1000, "sixty": points[:60]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join("{} {} {}".format(*point) for point in landmarks.tolist()))
        source = replace(SOURCE, frames=(ScanFiles("a.obj", landmarks=f"{name}.txt"),))
        record = process_sample(source, tmp_path, settings, "folder").sample.record
        text[name] = (record.mesh.num_landmarks, record.notes)
    # They are on the surface, but not those of a face.
    count, note = text["own"]
    assert count == 0 and note.startswith("own.txt: landmarks are not used: they do not form a face; ")
    assert text["sixty"] == (60, "sixty.txt: landmarks are not used: not a known set")
    count, note = text["metres"]
    assert count == 0 and note.startswith("metres.txt: landmarks are not used: ")


class TestCaptionsFromWrongLandmarks:
    """What is rejected for the frame is not measured either."""

    @pytest.fixture
    def face(self, settings, tmp_path):
        """Returns a function that renders a face with changed landmarks and a caption of its geometry."""
        model = ParametricFace()
        mesh = model.mesh(model.identity(np.random.default_rng(1)), {"AU26": (1.0, 1.0)})
        lines = ["v {} {} {}".format(*v) for v in mesh.vertices.tolist()]
        lines += ["f {} {} {}".format(*f) for f in (mesh.faces + 1).tolist()]
        (tmp_path / "a.obj").write_text("\n".join(lines))
        how = settings.model_copy(update={"text_source": "geometry"})

        def render(change) -> BuiltSample:
            points = change(mesh.vertices[model.landmarks].copy())
            (tmp_path / "a.txt").write_text("\n".join("{} {} {}".format(*point) for point in points.tolist()))
            return process_sample(replace(SOURCE, frames=(ScanFiles("a.obj", None, "a.txt"),)), tmp_path, how, "folder")

        return render

    def test_right_landmarks_are_measured(self, face):
        sample = face(lambda points: points).sample
        assert "parted lips" in sample.text or "jaw" in sample.text, sample.text
        record = sample.record
        assert (record.frame.method, record.mesh.num_landmarks, record.notes) == ("landmarks", 83, "")
        assert record.frame.num_points == 18 and 0 < record.frame.residual < 6

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda points: np.roll(points, 1, axis=0), id="by one place"),
            pytest.param(np.random.default_rng(0).permutation, id="permuted"),
        ],
    )
    def test_landmarks_in_another_order_give_no_caption(self, face, change):
        built = face(change)
        assert built.sample is None and built.failure.stage == "text"

    def test_frames_are_not_measured_if_the_onset_has_no_landmarks(self, face, settings, tmp_path):
        face(lambda points: points)
        frames = (ScanFiles("a.obj"), ScanFiles("a.obj", None, "a.txt"))
        how = settings.model_copy(update={"text_source": "geometry"})
        built = process_sample(replace(SOURCE, frames=frames, frame_rate=25.0, numbers=(0, 1)), tmp_path, how, "folder")
        assert built.sample is None and built.failure.stage == "text"

    def test_wrong_landmarks_are_left_out_of_the_measures(self, face):
        def swap_brows(points):
            points[16:36] = np.concatenate([points[26:36], points[16:26]])
            return points

        right, swapped = face(lambda points: points).sample.record, face(swap_brows).sample.record
        assert right.frame == swapped.frame and swapped.mesh.num_landmarks == 63
        assert swapped.notes == "a.txt: landmarks far from their place on a face are not used: 20"
        kept = {name: value for name, value in right.caption.numbers.items() if "brow" not in name}
        assert swapped.caption.numbers == kept and len(kept) == len(right.caption.numbers) - 3


def test_a_scan_that_looks_turned_has_a_note_until_its_axes_are_given(settings, tmp_path):
    lines = (tmp_path / "a.obj").read_text().splitlines()
    half = [line for line in lines if line[0] == "v"]
    front = {number for number, line in enumerate(half, 1) if float(line.split()[3]) > -20}
    half += [line for line in lines if line[0] == "f" and {int(word) for word in line.split()[1:]} <= front]
    (tmp_path / "a.obj").write_text("\n".join(half))

    def notes(of_dataset: str, of_scan: str) -> str:
        source = replace(SOURCE, frames=(ScanFiles("a.obj", axes=of_scan),))
        how = settings.model_copy(update={"axes": of_dataset})
        return process_sample(source, tmp_path, how, "folder").sample.record.notes

    assert notes("x,y,z", "") == notes("x,-y,-z", "x,y,z") == ""
    assert notes("x,-y,-z", "") == notes("x,y,z", "x,-y,-z")
    note = notes("x,-y,-z", "")
    assert note == "a.obj: looks turned: its surface faces z in the axes of the file; give its `up` or `axes`"
