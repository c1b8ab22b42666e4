"""Sequences through all steps of a render: frames, flow, dynamic images, failures and long sequences."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.shapes import sphere
from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.render.build import BuiltSample, build_samples
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.gpu_worker import check_device
from smile_pipe.pipeline.render.process import encode_unit, process_sample, read_units, render_units
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import (
    ProcessedUnit,
    WorkUnit,
    batch_units,
    from_table,
    num_stored_frames,
    select_inputs,
    split_into_units,
    to_table,
)
from smile_pipe.pipeline.rendering import gpu_jpeg
from smile_pipe.pipeline.rendering.backend import DeviceError
from smile_pipe.pipeline.rendering.cameras import build_views
from smile_pipe.pipeline.sequences.dynamic_images import WEIGHT_UNIT, rank_pooling_weights
from smile_pipe.pipeline.sequences.sampling import SequenceSettings
from smile_pipe.shards.images import decode_image
from smile_pipe.shards.sample import Sample, from_members, to_members

BALL = sphere(2, 100.0)
NUM_FRAMES = 20
APEX = 9
SETTINGS = RenderSettings(
    renderer="zbuffer",
    renderer_version="1",
    views=build_views("3", 30),
    size=48,
    projection="perspective",
    channels=("rgb", "depth", "normal"),
    prompts=load_bank(),
)


def settings(channels: tuple[str, ...] = ("rgb", "depth", "normal"), **sequences) -> RenderSettings:
    return SETTINGS.model_copy(update={"channels": channels, "sequences": SequenceSettings(**sequences)})


def bumped(amount: float) -> np.ndarray:
    """A ball with a bump of `amount` millimetres at its front."""
    vertices = BALL.vertices.copy()
    front = np.exp(-((vertices[:, :2] / 40) ** 2).sum(axis=1)) * (vertices[:, 2] > 0)
    vertices[:, 2] += amount * front
    return vertices


def write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray = BALL.faces) -> None:
    lines = ["v {:.5f} {:.5f} {:.5f}".format(*v) for v in vertices.tolist()]
    path.write_text("\n".join(lines + ["f {} {} {}".format(*f) for f in (faces + 1).tolist()]) + "\n")


def amount_at(number: int) -> float:
    return 20.0 * max(0.0, 1 - abs(number - APEX) / 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sequence")
    for number in range(NUM_FRAMES):
        write_obj(root / f"{number:03d}.obj", bumped(amount_at(number)))
    return root


SEQUENCE = SampleSource(
    "F001_HA", "F001", "HA", None, tuple(ScanFiles(f"{n:03d}.obj") for n in range(NUM_FRAMES)), frame_rate=25.0
)


def process_batch(root: Path, batch: list[WorkUnit], how: RenderSettings) -> list[ProcessedUnit]:
    """Run the steps of a job with GPUs in this process, with an Arrow table after each step."""
    read = to_table(read_units(batch, root, how))
    rendered = to_table(render_units(list(from_table(read)), how))
    return [*from_table(to_table(encode_unit(unit, how) for unit in from_table(rendered)))]


def build(units: list[ProcessedUnit], how: RenderSettings) -> list[BuiltSample]:
    return list(build_samples(units, how, SampleFingerprints.of(how, "bu4dfe")))


def make(root: Path, source: SampleSource, how: RenderSettings) -> BuiltSample:
    """Build one sample as a job with GPUs does, and check that `process_sample` gives the same."""
    batches = batch_units([select_inputs(source, how)], how)
    units = [unit for batch in batches for unit in process_batch(root, batch, how)]
    (built,) = build(units, how)
    assert built == process_sample(source, root, how, "bu4dfe")
    return built


def sample(root: Path, source: SampleSource, how: RenderSettings) -> Sample:
    made = make(root, source, how)
    assert made.failure is None and made.sample is not None, made.failure
    return made.sample


def front(made: Sample, name: str) -> np.ndarray:
    return decode_image(name, made.images["front", name]).astype(float)


class TestFrames:
    def test_frames_become_images_in_time_order_and_survive_the_tar(self, data):
        made = sample(data, SEQUENCE, settings(frames=5))
        assert made.record.timeline.frames == (0, 5, 10, 14, 19)
        assert [name for view, name in made.record.images if view == "front"] == [
            f"{channel}.{n:02d}" for channel in ("rgb", "depth", "normal") for n in range(5)
        ]
        assert from_members(dict(to_members(made))) == made

    def test_images_show_their_own_frames(self, data):
        made = sample(data, SEQUENCE, settings(frames=5))
        middle = [front(made, f"depth.{n:02d}")[24, 24] for n in range(5)]
        # Nearer is less: the front stands out most in frame 10, then in 5 and 14; the first and last are round.
        assert middle[2] < middle[1] < middle[0] and middle[2] < middle[3] < middle[4]
        assert middle[0] == middle[4]

    def test_frames_keep_their_numbers_and_times_where_others_are_missing(self, data):
        recorded = (0, 1, 5, 9, 18)
        source = replace(SEQUENCE, frames=tuple(SEQUENCE.frames[n] for n in recorded), numbers=recorded)
        made = sample(data, source, settings(frames=3, sampling="apex"))
        assert (made.record.timeline.frames, made.record.timeline.apex) == ((1, 5, 9), 9)
        timeline = sample(data, source, settings(("depth",), sampling="all", window=":10")).record.timeline
        assert (timeline.frames, timeline.num_source_frames) == ((0, 1, 5, 9), 19)

    def test_frames_are_aligned_by_the_onset_so_that_motion_is_kept(self, data, tmp_path):
        for number in range(4):
            write_obj(tmp_path / f"{number:03d}.obj", BALL.vertices + np.float32([10 * number, 0, 0]))
        source = replace(SEQUENCE, frames=SEQUENCE.frames[:4])
        made = sample(tmp_path, source, settings(("depth",), sampling="all"))
        columns = [np.flatnonzero(front(made, f"depth.{n:02d}").any(axis=0)).mean() for n in range(4)]
        # The subject's left is the image's right.
        assert (np.diff(columns) > 0.5).all()

    def test_apex_sampling_finds_the_apex_in_the_meshes(self, data):
        timeline = sample(data, SEQUENCE, settings(("depth",), frames=3, sampling="apex")).record.timeline
        assert timeline.apex == APEX and timeline.frames == (5, 9, 13)

    def test_a_window_starts_at_its_own_onset(self, data):
        timeline = sample(data, SEQUENCE, settings(("depth",), frames=3, window="5:10")).record.timeline
        assert (timeline.frames, timeline.onset) == ((5, 7, 9), 5)

    def test_motion_is_magnified_relative_to_the_onset(self, data):
        plain = sample(data, SEQUENCE, settings(("depth",), frames=2, window="0:10"))
        strong = sample(data, SEQUENCE, settings(("depth",), frames=2, window="0:10", magnify=3))
        rise = [front(s, "depth.00")[24, 24] - front(s, "depth.01")[24, 24] for s in (plain, strong)]
        assert rise[1] == pytest.approx(3 * rise[0], rel=0.02)
        assert strong.record.timeline.magnify == 3

    def test_a_sequence_split_into_units_gives_the_same_sample(self, data, monkeypatch):
        how = settings(sampling="all", temporal="both")
        whole = make(data, SEQUENCE, how)
        monkeypatch.setattr("smile_pipe.pipeline.render.units.MAX_FRAMES_PER_BATCH", 3)
        assert [(p.start, p.stop) for p in split_into_units(select_inputs(SEQUENCE, how), how)][-2:] == [
            (15, 18),
            (18, 20),
        ]
        assert make(data, SEQUENCE, how) == whole

    def test_a_sample_depends_on_its_rendered_frames_and_the_onset(self, data):
        how = settings(("depth",), frames=2, window="3:")
        assert select_inputs(SEQUENCE, how).paths == ("003.obj", "019.obj")
        assert [file.path for file in make(data, SEQUENCE, how).source_files] == ["003.obj", "019.obj"]
        assert len(select_inputs(SEQUENCE, settings(sampling="apex")).paths) == NUM_FRAMES


class TestFlow:
    def test_flow_is_the_displacement_from_the_onset(self, data):
        made = sample(data, SEQUENCE, settings(("flow",), frames=3, window="0:10"))
        record = made.record
        middle = (front(made, "flow.02")[24, 24] - 32768) * record.flow.step
        assert middle[2] == pytest.approx(amount_at(9) * record.frame.scale, rel=0.05)
        assert abs(middle[0]) < 0.02 and abs(middle[1]) < 0.02
        assert (front(made, "flow.00") == 32768).all()

    def test_flow_needs_equal_faces_in_all_frames(self, data, tmp_path):
        write_obj(tmp_path / "000.obj", BALL.vertices)
        write_obj(tmp_path / "001.obj", BALL.vertices, BALL.faces[:-1])
        made = make(tmp_path, replace(SEQUENCE, frames=SEQUENCE.frames[:2]), settings(("flow",)))
        assert made.sample is None and "001.obj: the channel flow needs meshes in correspondence" in made.failure.reason

    def test_flow_of_a_scan_is_relative_to_the_neutral_scan(self, data):
        scan = SampleSource("a", "s", "HA", None, (ScanFiles("009.obj"),), neutral=ScanFiles("000.obj"))
        made = make(data, scan, settings(("flow",)))
        assert [file.path for file in made.source_files] == ["009.obj", "000.obj"]
        assert front(made.sample, "flow")[24, 24, 2] > 32768 + 1000

    def test_flow_of_a_neutral_scan_is_zero_and_a_missing_neutral_scan_is_a_failure(self, data):
        scan = SampleSource("a", "s", "NE", None, (ScanFiles("000.obj"),))
        assert (front(sample(data, scan, settings(("flow",))), "flow") == 32768).all()
        made = make(data, replace(scan, expression="HA"), settings(("flow",)))
        assert "000.obj: the channel flow needs the subject's neutral scan" in made.failure.reason


class TestDynamicImages:
    def test_dynamic_image_is_the_rank_pooled_frames(self, data):
        how = settings(("normal",), frames=6, temporal="both")
        made = sample(data, SEQUENCE, how)
        frames = [front(made, f"normal.{n:02d}") for n in range(6)]
        pooled = np.tensordot(rank_pooling_weights(6) / WEIGHT_UNIT, frames, 1)
        step = made.record.timeline.dynamic["normal"].step
        read = (front(made, "normal.dynamic") - 128) * step
        assert np.abs(np.clip(pooled, -127 * step, 127 * step) - read).max() <= step
        assert pooled.std() > 10 * step

    def test_temporal_dynamic_stores_no_frames(self, data):
        made = sample(data, SEQUENCE, settings(temporal="dynamic"))
        assert {name for _, name in made.images} == {"rgb.dynamic", "depth.dynamic", "normal.dynamic"}
        assert (
            num_stored_frames(select_inputs(SEQUENCE, settings(temporal="dynamic")), settings(temporal="dynamic")) == 1
        )

    def test_dynamic_image_of_a_still_face_is_grey(self, data):
        still = replace(SEQUENCE, frames=(SEQUENCE.frames[0],) * 5)
        made = sample(data, still, settings(("rgb",), temporal="dynamic"))
        assert (front(made, "rgb.dynamic") == 128).all()


class TestFailures:
    def test_a_failed_sequence_has_its_reason_and_all_its_files(self, data, tmp_path):
        for number in range(3):
            (tmp_path / f"{number:03d}.obj").write_bytes((data / "000.obj").read_bytes())
        (tmp_path / "001.obj").write_text("v 1 2\n")
        made = make(tmp_path, replace(SEQUENCE, frames=SEQUENCE.frames[:3]), settings(sampling="all"))
        row = made.failure_row("000000.tar")
        assert made.sample is None and row.stage == "read" and row.reason.startswith("001.obj: line 1")
        assert [file.path for file in row.sources] == ["000.obj", "001.obj", "002.obj"]

    def test_a_failure_leaves_the_other_samples_of_its_batch_intact(self, data):
        how = settings(frames=2)
        bad = SampleSource("bad", "s", "HA", None, (ScanFiles("missing.obj"),))
        (batch,) = batch_units([select_inputs(SEQUENCE, how), bad], how)
        good, failed = build(process_batch(data, batch, how), how)
        assert good.sample is not None and failed.sample is None and "missing.obj" in failed.failure.reason

    def test_a_sequence_shorter_than_the_window_is_a_failure(self, data):
        made = make(data, SEQUENCE, settings(window="30:40"))
        assert "`window=30:40` holds none of the frames" in made.failure.reason


def test_size_of_blocks_does_not_depend_on_the_length_of_a_sequence(data):
    long = replace(SEQUENCE, frames=SEQUENCE.frames * 25)
    how = settings(("depth",), sampling="all")
    batches = list(batch_units([select_inputs(long, how)], how))
    assert len(batches) == 32 and max(unit.stop - unit.start for batch in batches for unit in batch) == 16
    sizes = [to_table(read_units(batch, data, how)).nbytes for batch in batches[:3]]
    assert max(sizes) < 16 * BALL.nbytes * 1.5 + 200_000


class TestJpegOnGpu:
    @pytest.fixture(autouse=True)
    def encoder_for_cpus(self, monkeypatch):
        monkeypatch.setattr(gpu_jpeg, "encode_jpegs", partial(gpu_jpeg.encode_jpegs, device="cpu"))

    @pytest.mark.parametrize("channels", [("rgb",), ("rgb", "depth", "normal")])
    @pytest.mark.parametrize("temporal", ["frames", "both", "dynamic"])
    def test_only_rgb_of_frames_has_other_bytes(self, data, temporal, channels):
        how = settings(channels, frames=4, temporal=temporal)
        images = sample(data, SEQUENCE, how).images
        on_gpu = sample(data, SEQUENCE, how.model_copy(update={"jpeg": "gpu"})).images
        assert list(on_gpu) == list(images)
        for (view, name), content in on_gpu.items():
            if name.startswith("rgb") and name != "rgb.dynamic":
                assert content != images[view, name]
                difference = decode_image(name, content).astype(int) - decode_image(name, images[view, name])
                assert np.abs(difference).mean() < 2
            else:
                assert content == images[view, name]

    def test_pixels_that_are_encoded_do_not_travel(self, data):
        how = settings(frames=4).model_copy(update={"jpeg": "gpu"})
        (unit,) = render_units(list(read_units([WorkUnit(select_inputs(SEQUENCE, how), 0, 4)], data, how)), how)
        assert [list(pixels) for pixels in unit.pixels] == [["depth", "normal"]] * 4 and len(unit.images) == 12

    def test_a_failing_encoder_is_a_failure_of_the_gpu_and_not_of_the_sample(self, data, monkeypatch):
        def fail(images: list[torch.Tensor], quality: int) -> None:
            raise RuntimeError("image encoding failed: 6")

        monkeypatch.setattr(gpu_jpeg, "encode_jpeg", fail)
        how = settings(frames=4).model_copy(update={"jpeg": "gpu"})
        units = list(read_units([WorkUnit(select_inputs(SEQUENCE, how), 0, 4)], data, how))
        with pytest.raises(DeviceError, match="nvJPEG failed: image encoding failed"):
            list(render_units(units, how))
        with pytest.raises(DeviceError, match=r"node .*: nvJPEG failed: image encoding failed"):
            check_device(how)

    def test_a_worker_that_can_draw_and_encode_starts(self):
        check_device(settings().model_copy(update={"jpeg": "gpu"}))
