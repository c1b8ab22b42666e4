"""Dataset: selection of frames, their times, decoding, batching and caching."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fsspec.implementations.dirfs import DirFileSystem
from PIL import Image

from helpers.samples import make_row, make_sample, make_timeline, write_shard_set
from smile_pipe.pipeline.data import dataset, input_images, resize
from smile_pipe.pipeline.data.dataset import DecodeSpec, DiskCache, FaceDataset, FaceSample, decode_face
from smile_pipe.pipeline.data.input_images import DEPTH_HALF_RANGE, FLOW_BEND, depth_levels, fit_view, flow_levels
from smile_pipe.pipeline.data.resize import fit_image
from smile_pipe.pipeline.data.temporal import (
    can_read,
    default_temporal,
    describe_temporal,
    frames_read,
    is_sequence,
    select_frames,
    stored_temporal,
)
from smile_pipe.pipeline.landmarks.mean_face import UNIT_MM
from smile_pipe.pipeline.rendering.cameras import DISTANCE
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.images import Pixels, decode_image, encode_image
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import Sample, SampleError, Timeline


def sequence(num_frames: int = 6, temporal: str = "both", **options: object) -> Sample:
    return make_sample(timeline=make_timeline(num_frames, temporal), **options)


def timeline_of(frames: tuple[int, ...], num_source_frames: int, onset: int = 0) -> Timeline:
    changes = {"frames": frames, "num_source_frames": num_source_frames, "onset": onset}
    return make_timeline(2, "frames").model_copy(update=changes)


def suffixes(sample: Sample, temporal: str, max_frames: int = 16) -> list[str]:
    return [moment.suffix for moment in select_frames(sample.record, temporal, max_frames)]


class TestSelectFrames:
    @pytest.mark.parametrize(
        ("temporal", "expected"),
        [
            ("frames", [".00", ".01", ".02"]),
            ("dynamic", [".dynamic"]),
            ("both", [".00", ".01", ".02", ".dynamic"]),
        ],
    )
    def test_frames_are_in_order_of_time_and_the_dynamic_image_is_last(self, temporal, expected):
        assert suffixes(sequence(3), temporal) == expected

    @pytest.mark.parametrize("temporal", ["none", "frames", "dynamic", "both"])
    def test_scan_has_one_frame_at_time_0(self, temporal):
        (moment,) = select_frames(make_sample().record, temporal, 16)
        assert (moment.suffix, moment.time) == ("", 0.0)

    @pytest.mark.parametrize(
        ("max_frames", "expected"),
        [(6, "012345"), (5, "01245"), (4, "0235"), (3, "025"), (2, "05"), (1, "3")],
    )
    def test_long_sequences_are_thinned_evenly_and_keep_first_and_last(self, max_frames, expected):
        assert suffixes(sequence(6), "frames", max_frames) == [f".0{n}" for n in expected]
        assert suffixes(sequence(6), "both", max_frames)[-1] == ".dynamic"

    def test_times_run_from_onset_to_recorded_end(self):
        record = make_sample(timeline=timeline_of((3, 10, 25, 45), num_source_frames=51, onset=10)).record
        times = [moment.time for moment in select_frames(record, "frames", 16)]
        assert times == pytest.approx([0, 0, 15 / 40, 35 / 40])

    def test_the_last_frame_is_at_1_and_a_sequence_of_one_frame_at_0(self):
        record = make_sample(timeline=timeline_of((0, 29), num_source_frames=30)).record
        assert [moment.time for moment in select_frames(record, "frames", 16)] == [0, 1]
        single = make_sample(timeline=timeline_of((0,), num_source_frames=1)).record
        assert [moment.time for moment in select_frames(single, "frames", 16)] == [0]

    @pytest.mark.parametrize(("stored", "read"), [("frames", "dynamic"), ("dynamic", "both"), ("both", "none")])
    def test_sample_without_requested_frames_is_named(self, stored, read):
        with pytest.raises(SampleError, match="F0001_HA04WH"):
            select_frames(sequence(3, stored).record, read, 16)


class TestStoredTemporal:
    @pytest.mark.parametrize("temporal", ["frames", "dynamic", "both"])
    def test_stored_temporal_comes_from_a_sequence_among_scans(self, tmp_path, temporal):
        write_shard_set(tmp_path / "shards", timelines=(None, make_timeline(3, temporal)))
        shards = ShardSet.open(str(tmp_path / "shards"))
        assert stored_temporal(shards, shards.rows) == temporal
        scans = [row for row in shards.rows if not is_sequence(row)]
        assert len(scans) == 6 and stored_temporal(shards, scans) == "none"

    def test_scan_indexed_as_sequence_is_refused(self, tmp_path):
        write_shard_set(tmp_path / "shards")
        shards = ShardSet.open(str(tmp_path / "shards"))
        with pytest.raises(UsageError, match="F0001_HA04WH is a sequence in the index"):
            stored_temporal(shards, [replace(shards.rows[0], num_frames=4)])

    def test_a_sequence_of_one_frame_and_one_of_unknown_rate_are_sequences(self):
        row = make_row(make_sample())
        assert not is_sequence(row)
        assert is_sequence(replace(row, frame_rate=25.0)) and is_sequence(replace(row, num_frames=2))

    def test_auto_reads_frames_if_stored(self):
        assert [default_temporal(s) for s in ("both", "frames", "dynamic", "none")] == [
            "frames",
            "frames",
            "dynamic",
            "none",
        ]

    def test_can_read(self):
        assert {
            (s, w) for s in ("frames", "dynamic", "both") for w in ("frames", "dynamic", "both") if can_read(s, w)
        } == {
            ("frames", "frames"),
            ("dynamic", "dynamic"),
            *(("both", w) for w in ("frames", "dynamic", "both")),
        }

    def test_frames_are_counted_as_they_are_read(self):
        row = replace(make_row(make_sample()), num_frames=20, frame_rate=25.0)
        assert [frames_read(row, "frames", n) for n in (8, 20, 30)] == [8, 20, 20]
        assert frames_read(row, "both", 8) == 8 and frames_read(row, "dynamic", 8) == 0

    def test_describe_temporal(self):
        assert describe_temporal("both", 8) == "frames and the dynamic image of each sequence, at most 8 frames"
        assert (
            describe_temporal("dynamic", 8) == "the dynamic image of each sequence"
            and describe_temporal("none", 8) == "no sequences"
        )


class TestDecoding:
    @pytest.mark.parametrize("channel", ["rgb", "normal"])
    def test_views_are_ordered_by_frame_and_camera(self, channel):
        sample = sequence(3, size=16)
        face = decode_face(sample, DecodeSpec((channel,), 16, "both"))
        assert face.views.shape == (4, 3, 3, 16, 16) and face.views.dtype == np.uint8
        assert face.times.tolist() == pytest.approx([0, 10 / 29, 20 / 29, -1]) and face.times.dtype == np.float32
        for t, moment in enumerate(("00", "01", "02", "dynamic")):
            for v, view in enumerate(("front", "left", "right")):
                name = f"{channel}.{moment}"
                expected = decode_image(name, sample.images[view, name]).transpose(2, 0, 1)
                assert np.array_equal(face.views[t, v], expected)

    def test_frames_that_are_not_read_are_not_decoded(self, monkeypatch):
        decoded: list[str] = []

        def spy(name: str, content: bytes, min_side: int) -> Pixels:
            decoded.append(name)
            return decode_image(name, content, min_side)

        monkeypatch.setattr(dataset, "decode_image", spy)
        face = decode_face(sequence(10), DecodeSpec(("rgb",), 16, "frames", max_frames=2))
        assert sorted(decoded) == ["rgb.00"] * 3 + ["rgb.09"] * 3 and len(face.views) == 2

    def test_images_are_brought_to_the_size_of_the_tower(self):
        for temporal in ("frames", "dynamic"):
            face = decode_face(sequence(2, size=16, channels=("depth",)), DecodeSpec(("depth",), 24, temporal))
            assert face.views.shape[-2:] == (24, 24)

    def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_and_shows_the_same(self, monkeypatch):
        pixels = np.asarray(Image.fromarray(NOISE[:6, :6]).resize((64, 64), Image.Resampling.BICUBIC))
        sample = make_sample(size=64, channels=("rgb",))
        sample = Sample(sample.record, "", dict.fromkeys(sample.images, encode_image("rgb", pixels)))
        shapes = []
        monkeypatch.setattr(input_images, "fit_image", lambda p, out: shapes.append(p.shape) or fit_image(p, out))
        face = decode_face(sample, DecodeSpec(("rgb",), 28))
        assert shapes == [(32, 32, 3)] * 3
        expected = np.asarray(Image.fromarray(pixels).resize((28, 28), Image.Resampling.BOX)).transpose(2, 0, 1)
        assert np.abs(face.views[0, 0].astype(int) - expected).mean() < 4 < np.abs(expected - 128.0).mean()


NOISE = np.random.default_rng(0).integers(0, 256, (13, 13, 3)).astype(np.uint8)


def fitted(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize pixels [H, W, 3] to [height, width, 3]."""
    out = np.empty((3, height, width), np.uint8)
    fit_image(np.ascontiguousarray(pixels), out)
    return out.transpose(1, 2, 0)


class TestFitting:
    def test_image_of_the_target_size_is_copied(self):
        assert np.array_equal(fitted(NOISE, 13, 13), NOISE)

    @pytest.mark.parametrize(("by_rows", "by_columns"), [(2, 2), (3, 5), (1, 4), (7, 1)])
    def test_blocks_become_their_means_rounded(self, by_rows, by_columns):
        pixels = np.random.default_rng(1).integers(0, 256, (6 * by_rows, 5 * by_columns, 3)).astype(np.uint8)
        means = pixels.reshape(6, by_rows, 5, by_columns, 3).mean(axis=(1, 3))
        assert np.abs(fitted(pixels, 6, 5) - means).max() < 0.501

    @pytest.mark.parametrize(("size", "wanted"), [(224, 96), (224, 64), (256, 96), (200, 96), (640, 224), (97, 48)])
    def test_a_view_that_is_shrunk_by_half_or_more_is_what_pillow_makes_of_it_with_a_box(self, size, wanted):
        pixels = np.random.default_rng(2).integers(0, 256, (size, size, 3)).astype(np.uint8)
        expected = np.asarray(Image.fromarray(pixels).resize((wanted, wanted), Image.Resampling.BOX))
        # Pillow rounds after columns and after rows.
        assert np.abs(fitted(pixels, wanted, wanted).astype(int) - expected).max() <= 1

    def test_pixels_are_shared_where_a_view_is_shrunk_by_less(self):
        line = np.repeat(np.array([30, 60, 90], np.uint8)[:, None], 3, axis=1)
        assert fitted(np.stack([line] * 4), 4, 2)[:, :, 0].tolist() == [[40, 80]] * 4
        assert fitted(np.stack([line] * 4, axis=1), 2, 4)[:, :, 0].tolist() == [[40] * 4, [80] * 4]

    @pytest.mark.parametrize("wanted", [1, 2, 13, 96])
    def test_coverage_stays_inside_the_image(self, wanted):
        for size in range(wanted + 1, 5 * wanted + 9):
            first, shares = resize._coverage(size, wanted)
            assert first.min() >= 0 and first.max() + shares.shape[1] <= size
            assert shares.min() >= 0 and np.abs(shares.sum(axis=1) - 1).max() < 1e-6

    @pytest.mark.parametrize("size", [14, 17, 25, 26, 27, 40, 300])
    @pytest.mark.parametrize("level", [0, 1, 254, 255])
    def test_uniform_image_stays_uniform(self, size, level):
        assert set(fitted(np.full((size, size, 3), level, np.uint8), 13, 13).ravel().tolist()) == {level}

    @pytest.mark.parametrize("size", [14, 16, 19, 26, 31, 64, 100])
    def test_mean_and_position_are_preserved(self, size):
        """The mean and the centre of brightness are preserved."""
        pixels = np.random.default_rng(3).integers(0, 256, (size, size, 3)).astype(np.uint8)
        ramp = np.broadcast_to(np.linspace(0, 255, size)[None, :, None], (size, size, 3)).astype(np.uint8)
        assert abs(fitted(pixels, 13, 13).mean() - pixels.mean()) < (4 if size > 26 else 0.6)
        columns = fitted(ramp, 13, 13)[0, :, 0]
        assert np.abs(columns - (255 * ((np.arange(13) + 0.5) * size / 13 - 0.5) / (size - 1))).max() <= 130 / size + 1

    def test_a_view_that_is_too_small_in_any_direction_is_interpolated(self):
        for height, width in ((20, 20), (20, 13), (6, 20)):
            expected = np.asarray(Image.fromarray(NOISE).resize((width, height), Image.Resampling.BILINEAR))
            assert np.array_equal(fitted(NOISE, height, width), expected)


class TestFlow:
    def test_rest_is_128_and_flow_is_symmetric(self):
        steps = np.array([0, 1, 300, 3000, 32767])
        levels = [
            flow_levels(1 / 32767)[(32768 + sign * steps).astype(np.uint16)].astype(int) - 128 for sign in (1, -1)
        ]
        assert levels[0].tolist() == (-levels[1]).tolist() and levels[0][0] == 0
        assert levels[0].tolist() == sorted(levels[0].tolist()) and levels[0][-1] == 127

    def test_small_motion_is_visible_and_large_motion_is_not_clipped(self):
        step, millimetre = 1 / 32767, 1 / 90
        levels = {mm: int(flow_levels(step)[32768 + round(mm * millimetre / step)]) for mm in (0.1, 1, 20, 30)}
        assert levels[0.1] == 129 and levels[1] == 128 + 14
        assert 128 + 100 < levels[20] < levels[30] <= 255

    def test_flow_uses_the_scale_of_its_sample(self):
        sample = make_sample(size=8, channels=("flow",))
        pixels = np.full((8, 8, 3), 32768 + 1000, np.uint16)
        record = sample.record.model_copy(update={"flow": sample.record.flow.model_copy(update={"step": 1e-4})})
        images = {name: encode_image("flow", pixels) for name in sample.images}
        face = decode_face(Sample(record, "", images), DecodeSpec(("flow",), 8))
        assert set(face.views.ravel().tolist()) == {round(128 + 127 * np.tanh(0.1 / FLOW_BEND))}

    @pytest.mark.parametrize("channel", ["flow", "depth"])
    def test_images_without_their_scale_are_refused(self, channel):
        sample = make_sample(channels=(channel,))
        record = sample.record.model_copy(update={channel: None})
        with pytest.raises(SampleError, match=rf"F0001_HA04WH\.json: has {channel} images without their scale"):
            decode_face(Sample(record, "", sample.images), DecodeSpec((channel,), 16))

    def test_dynamic_image_of_flow_needs_no_scale(self):
        sample = sequence(3, "dynamic", channels=("flow",))
        face = decode_face(sample, DecodeSpec(("flow",), 16, "dynamic"))
        stored = decode_image("flow.dynamic", sample.images["front", "flow.dynamic"])
        assert np.array_equal(face.views[0, 0], stored.transpose(2, 0, 1))


class TestDepth:
    RECORD = make_sample(channels=("depth",)).record

    def stored(self, millimetres: float) -> int:
        """Stored value of points that are this far behind the origin of the frame."""
        scale = self.RECORD.depth
        return round((DISTANCE + millimetres / UNIT_MM - scale.near) / scale.step) + 1

    def levels(self, millimetres: list[float]) -> list[int]:
        scale = self.RECORD.depth
        return depth_levels(scale.near, scale.step)[[self.stored(mm) for mm in millimetres]].tolist()

    def test_levels_are_linear_over_the_face_and_clipped_beyond(self):
        edge = DEPTH_HALF_RANGE * UNIT_MM
        assert self.levels([0, -edge, edge, -2 * edge, 2 * edge]) == [128, 255, 1, 255, 1]
        assert self.levels([0.6])[0] == 127 and self.levels([5.67])[0] == 118
        assert depth_levels(4.0, 1e-4)[0] == 0

    @pytest.mark.parametrize(("size", "out_size"), [(12, 4), (12, 9), (6, 12)])
    def test_rim_is_face_or_background_and_no_mixture(self, size, out_size):
        pixels = np.zeros((size, size), np.uint16)
        pixels[:, : size // 2 - 1] = self.stored(20)
        pixels[: size // 2, : size // 2 - 1] = self.stored(21)
        out = np.empty((3, out_size, out_size), np.uint8)
        fit_view(pixels, self.RECORD, "depth", out)
        allowed = self.levels([20, 21])
        assert set(out.ravel().tolist()) <= {0, *range(min(allowed) - 1, max(allowed) + 2)}
        assert out.max() > 0 and (out == 0).any() and (out[0] == out[1]).all() and (out[0] == out[2]).all()

    def test_runs_of_former_versions_see_the_former_levels(self):
        pixels = np.full((4, 4), self.stored(20), np.uint16)
        out = np.empty((3, 4, 4), np.uint8)
        fit_view(pixels, self.RECORD, "depth", out, version=1)
        assert (out == 255 - self.stored(20) // 258).all()


class TestDataset:
    @pytest.fixture
    def mixed(self, tmp_path: Path) -> ShardSet:
        """For each of three subjects a scan, a sequence of two frames and one of five."""
        timelines = (None, make_timeline(2, "frames"), make_timeline(5, "frames"))
        write_shard_set(tmp_path / "shards", timelines=timelines, channels=("rgb",))
        return ShardSet.open(str(tmp_path / "shards"))

    def read(self, shards: ShardSet, cache_bytes: int = 0, max_frames: int = 4) -> FaceDataset:
        return FaceDataset(shards, DecodeSpec(("rgb",), 16, "frames", max_frames), cache_bytes)

    def test_batch_packs_frames_in_order(self, mixed):
        reader, rows = self.read(mixed), mixed.rows[:4]
        (batch,) = reader.batches([rows])
        own: Sequence[FaceSample] = [reader.read(row) for row in rows]
        assert [row.expression for row in rows] == ["HA", "NE", "SA", "HA"]
        assert batch.frames.counts.tolist() == [1, 4, 2, 1] and batch.views.shape == (8, 3, 3, 16, 16)
        assert torch.equal(batch.views, torch.from_numpy(np.concatenate([face.views for face in own])))
        assert batch.frames.times.tolist() == [time for face in own for time in face.times.tolist()]
        assert batch.texts == [face.text for face in own] and batch.concepts == ["HA", "NE", "SA", "HA"]

    @pytest.mark.parametrize("chunk", [1, 2, 8])
    def test_batch_order_does_not_depend_on_chunk_size(self, mixed, monkeypatch, chunk):
        monkeypatch.setattr(dataset, "READ_CHUNK", chunk)
        rows = [mixed.rows[number] for number in (5, 1, 7, 0, 3, 8, 2, 6, 4)]
        found = list(self.read(mixed).batches([rows[:5], rows[5:], rows]))
        assert [batch.keys for batch in found] == [[row.key for row in part] for part in (rows[:5], rows[5:], rows)]

    def test_read_ahead_is_limited(self, mixed):
        asked: list[int] = []
        groups = (asked.append(number) or mixed.rows[:2] for number in range(9))
        batches = self.read(mixed).batches(groups)
        assert asked == []
        for taken in range(1, 10):
            next(batches)
            assert len(asked) == min(taken + dataset.READ_AHEAD, 9)
        assert next(batches, None) is None

    def test_batches_are_read_ahead(self, mixed, monkeypatch):
        made: list[int] = []
        collate = dataset.collate
        monkeypatch.setattr(dataset, "collate", lambda faces, pin: made.append(len(faces)) or collate(faces, pin))
        batches = self.read(mixed).batches([mixed.rows[:n] for n in (1, 2, 3, 4, 5, 6)])
        next(batches)
        end = time.monotonic() + 20
        while len(made) < 1 + dataset.READ_AHEAD and time.monotonic() < end:
            time.sleep(0.01)
        assert made == [1, 2, 3, 4]

    @pytest.mark.parametrize(
        ("storage", "pin_memory", "expected"),
        [("disk", False, 3), ("remote", False, 8), ("copies", False, 3), ("disk", True, 8)],
    )
    def test_readers_take_no_more_cores_than_the_model_leaves(
        self, mixed, monkeypatch, tmp_path, storage, pin_memory, expected
    ):
        started, executor = [], dataset.ThreadPoolExecutor
        monkeypatch.setattr(dataset, "ThreadPoolExecutor", lambda num: started.append(num) or executor(num))
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        monkeypatch.setattr(dataset, "collate", lambda faces, pin_memory: faces)
        shards = mixed if storage == "disk" else replace(mixed, filesystem=DirFileSystem("/", mixed.filesystem))
        disk_cache = DiskCache(tmp_path / "cache", (1 << 30) * (storage == "copies"))
        spec = DecodeSpec(("rgb",), 8, "frames")
        reader = FaceDataset(shards, spec, 0, pin_memory=pin_memory, disk_cache=disk_cache)
        list(reader.batches([shards.rows[:2]]))
        assert started == [expected, 1]

    def test_cache_respects_its_limit_and_avoids_repeated_reads(self, mixed, monkeypatch):
        frame = 3 * 3 * 16 * 16
        reader = self.read(mixed, cache_bytes=6 * frame)
        for row in mixed.rows[:4]:
            reader.read(row)
        monkeypatch.setattr(dataset, "decode_face", lambda *given: pytest.fail("decoded again"))
        # After one frame and four frames there is room for one frame, not for the next sequence of two.
        for number in (0, 1, 3):
            reader.read(mixed.rows[number])
        with pytest.raises(pytest.fail.Exception, match="decoded again"):
            reader.read(mixed.rows[2])
