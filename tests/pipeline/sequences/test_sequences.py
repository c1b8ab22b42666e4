"""Sequences: frame sampling, displacement, flow and dynamic images."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.sequences.dynamic_images import (
    WEIGHT_UNIT,
    quantise_dynamic,
    rank_pooling_weights,
    weighted_sum,
)
from smile_pipe.pipeline.sequences.flow import displacement, magnify_motion, with_flow
from smile_pipe.pipeline.sequences.sampling import SequenceSettings


def select_frames(num_recorded: int, displacements: list[float] | None = None, **options) -> tuple[int, ...]:
    settings = SequenceSettings(**options)
    return settings.select_frames(range(num_recorded), dict(enumerate(displacements or [])))[0]


class TestFrameSampling:
    def test_uniform_covers_first_to_last(self):
        assert select_frames(100, frames=4) == (0, 33, 66, 99)

    def test_single_frame_is_the_middle_one(self):
        assert select_frames(101, frames=1) == (50,)

    def test_all_selects_every_frame(self):
        assert select_frames(30, frames=4, sampling="all") == tuple(range(30))

    def test_short_sequence_gives_all_frames(self):
        assert select_frames(3, frames=8) == (0, 1, 2)

    def test_selection_is_within_the_window(self):
        assert select_frames(100, frames=3, window="10:21") == (10, 15, 20)
        assert select_frames(100, frames=2, window="90:") == (90, 99)
        assert select_frames(100, frames=2, window=":5") == (0, 4)

    def test_window_beyond_the_sequence_is_an_error(self):
        with pytest.raises(ValueError, match="`window=50:60` holds none of the frames"):
            select_frames(40, window="50:60")

    @pytest.mark.parametrize("window", ["5", "a:b", "5:6:7", "-3:2"])
    def test_malformed_window_is_rejected(self, window):
        with pytest.raises(ValidationError):
            SequenceSettings(window=window)

    def test_window_round_trips_through_json(self):
        settings = SequenceSettings(window="3:")
        assert SequenceSettings.model_validate_json(settings.model_dump_json()) == settings

    def test_apex_covers_frames_with_half_the_displacement(self):
        displacements = [0.0, 0.1, 0.4, 0.6, 0.8, 1.0, 0.7, 0.5, 0.3, 0.1]
        settings = SequenceSettings(frames=3, sampling="apex")
        assert settings.select_frames(range(10), dict(enumerate(displacements))) == ((3, 5, 7), 5)

    def test_short_apex_is_extended_by_the_larger_neighbour(self):
        assert select_frames(6, [0, 0.1, 1, 0.3, 0.2, 0], frames=3, sampling="apex") == (2, 3, 4)

    def test_single_apex_frame_is_the_apex(self):
        assert select_frames(5, [0, 0.6, 0.9, 1.0, 0.9], frames=1, sampling="apex") == (3,)

    def test_frames_of_a_recording_with_gaps_keep_their_numbers(self):
        recorded = (0, 1, 2, 6, 9, 59)
        assert SequenceSettings(frames=3).select_frames(recorded, {})[0] == (0, 2, 59)
        assert SequenceSettings(sampling="all", window="2:10").select_frames(recorded, {})[0] == (2, 6, 9)
        displacements = dict(zip(recorded, (0, 0.1, 0.6, 1, 0.7, 0.2), strict=True))
        assert SequenceSettings(sampling="apex", frames=3).select_frames(recorded, displacements) == ((2, 6, 9), 6)

    @given(
        st.lists(st.floats(0, 10), min_size=1, max_size=40),
        st.integers(1, 50),
        st.sampled_from(["uniform", "apex", "all"]),
        st.integers(0, 15),
        st.integers(1, 3),
    )
    def test_selection_is_sorted_unique_within_the_window_and_of_the_announced_length(
        self, displacements, frames, sampling, start, step
    ):
        settings = SequenceSettings(frames=frames, sampling=sampling, window=f"{start}:")
        recorded = range(0, step * len(displacements), step)
        if start > recorded[-1]:
            return
        by_number = dict(zip(recorded, displacements, strict=True))
        numbers, apex = settings.select_frames(recorded, by_number)
        to_read = settings.frames_to_read(recorded)
        assert list(numbers) == sorted(set(numbers)) and set(numbers) <= set(to_read) <= set(recorded)
        assert len(numbers) == settings.num_selected(recorded) and numbers[0] >= start
        assert to_read[0] == next(number for number in recorded if number >= start)
        # A worker knows only the frames to read.
        assert settings.select_frames(to_read, by_number) == (numbers, apex)
        assert settings.num_selected(to_read) == len(numbers)


RNG = np.random.default_rng(0)
FACE = Mesh.build(RNG.normal(0, 40, (60, 3)), RNG.integers(0, 60, (90, 3)))


def move_vertices(mesh: Mesh, by: np.ndarray) -> Mesh:
    return replace(mesh, vertices=(mesh.vertices + by).astype(np.float32))


class TestDisplacement:
    def test_head_motion_is_removed(self):
        angle = np.deg2rad(20)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        turned = replace(FACE, vertices=(FACE.vertices @ turn + [5, 2, 1]).astype(np.float32))
        assert displacement(FACE, turned) < 1e-4

    def test_displacement_grows_with_the_expression(self):
        bump = RNG.normal(0, 1, FACE.vertices.shape)
        distances = [displacement(FACE, move_vertices(FACE, strength * bump)) for strength in (0.5, 1.0, 2.0)]
        assert distances[0] < distances[1] < distances[2]
        assert distances[1] == pytest.approx(np.sqrt(3), rel=0.15)

    def test_landmarks_are_used_without_correspondence(self):
        landmarks = RNG.normal(0, 40, (10, 3)).astype(np.float32)
        other = Mesh.build(RNG.normal(0, 40, (50, 3)), RNG.integers(0, 50, (90, 3)))
        onset, apex = replace(FACE, landmarks=landmarks), replace(other, landmarks=landmarks + np.float32(3))
        assert displacement(onset, apex) < 1e-4
        bent = landmarks.copy()
        bent[0] += 30
        assert displacement(onset, replace(other, landmarks=bent)) > 3

    def test_surface_distance_is_used_without_landmarks(self):
        grid = np.stack([*np.meshgrid(np.arange(20.0), np.arange(20.0)), np.zeros((20, 20))], axis=-1).reshape(-1, 3)
        flat = Mesh.build(grid, np.array([[0, 1, 20]]))
        raised = Mesh.build(grid[:-1] + np.array([0, 0, 2.5]), np.array([[0, 1, 20]]))
        assert displacement(flat, raised) == pytest.approx(2.5, abs=0.01)


class TestMagnifyAndFlow:
    def test_displacement_from_the_onset_is_multiplied(self):
        step = RNG.normal(0, 1, FACE.vertices.shape)
        far = magnify_motion(FACE, move_vertices(FACE, step), 4)
        assert np.allclose(far.vertices, FACE.vertices + 4 * step, atol=1e-3)

    def test_landmarks_are_magnified_too(self):
        landmarks = np.ones((4, 3), np.float32)
        onset, later = replace(FACE, landmarks=landmarks), replace(FACE, landmarks=landmarks * 2)
        assert (magnify_motion(onset, later, 3).landmarks == 4).all()

    def test_flow_is_the_displacement_of_each_vertex(self):
        step = RNG.normal(0, 1, FACE.vertices.shape).astype(np.float32)
        assert np.allclose(with_flow(FACE, move_vertices(FACE, step)).flow, step, atol=1e-4)

    @pytest.mark.parametrize("compare", [lambda a, b: magnify_motion(a, b, 2), with_flow])
    @pytest.mark.parametrize(
        "other",
        [
            Mesh.build(FACE.vertices[:59], FACE.faces % 59),
            Mesh.build(FACE.vertices, FACE.faces[::-1]),
        ],
    )
    def test_meshes_without_correspondence_are_rejected(self, compare, other):
        with pytest.raises(MeshError, match="needs meshes in correspondence"):
            compare(FACE, other)

    def test_factor_one_needs_no_correspondence(self):
        other = Mesh.build(FACE.vertices[:59], FACE.faces % 59)
        assert magnify_motion(FACE, other, 1) is other


class TestDynamicImages:
    def test_weights_of_approximate_rank_pooling(self):
        # N = 3 by hand: f(3) = 2/3, f(2) = 0/2 + 2/3, f(1) = -2/1 + 0/2 + 2/3.
        assert rank_pooling_weights(3) / WEIGHT_UNIT == pytest.approx([-4 / 3, 2 / 3, 2 / 3], abs=1e-4)
        assert rank_pooling_weights(1) == [WEIGHT_UNIT]

    @given(st.integers(2, 60))
    def test_weights_follow_their_definition_and_sum_to_zero(self, n):
        plain = [sum((2 * k - n - 1) / k for k in range(t, n + 1)) for t in range(1, n + 1)]
        assert rank_pooling_weights(n) / WEIGHT_UNIT == pytest.approx(plain, abs=1e-3)
        assert rank_pooling_weights(n).sum() == 0

    def test_parts_add_up_to_the_whole(self):
        frames = RNG.integers(0, 256, (7, 4, 4, 3)).astype(np.uint8)
        weights = rank_pooling_weights(7)
        parts = weighted_sum(frames[:3], weights[:3]) + weighted_sum(frames[3:], weights[3:])
        assert (parts == weighted_sum(frames, weights)).all()
        assert np.allclose(parts, np.tensordot(weights, frames.astype(float), 1))

    def test_static_pixels_are_128_and_changes_have_the_sign_of_their_direction(self):
        frames = np.full((5, 2, 2), 90, np.uint8)
        frames[:, 0, 1] = [10, 20, 30, 40, 50]
        frames[:, 1, 0] = [50, 40, 30, 20, 10]
        sums = weighted_sum(frames, rank_pooling_weights(5))
        pixels, scales = quantise_dynamic({"rgb": sums})
        assert pixels["rgb"][0, 0] == 128 and pixels["rgb"][0, 1] > 200 and pixels["rgb"][1, 0] < 56
        read = (pixels["rgb"].astype(float) - 128) * scales["rgb"].step
        assert np.abs(read - sums / WEIGHT_UNIT).max() <= scales["rgb"].step

    def test_few_large_changes_do_not_determine_the_scale(self):
        sums = np.full((100, 100), 5 * WEIGHT_UNIT)
        sums[0, :3] = 50_000 * WEIGHT_UNIT
        pixels, scales = quantise_dynamic({"depth": sums})
        assert scales["depth"].step == pytest.approx(5 / 127, rel=1e-5)
        assert pixels["depth"][0, 0] == 255 and pixels["depth"][50, 50] == 255

    def test_static_sequence_is_grey(self):
        pixels, _ = quantise_dynamic({"rgb": np.zeros((3, 4, 4, 3), np.int64)})
        assert (pixels["rgb"] == 128).all()
