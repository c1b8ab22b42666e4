"""Faces in time: which frames are chosen, how far they moved, and one image for all of them."""

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


def chosen(num_recorded: int, displacements: list[float] | None = None, **options) -> tuple[int, ...]:
    settings = SequenceSettings(**options)
    return settings.chosen(num_recorded, dict(enumerate(displacements or [])))[0]


class TestFramesAreChosen:
    def test_evenly_from_the_first_to_the_last(self):
        assert chosen(100, frames=4) == (0, 33, 66, 99)

    def test_and_the_middle_one_where_one_is_asked_for(self):
        assert chosen(101, frames=1) == (50,)

    def test_all_of_them(self):
        assert chosen(30, frames=4, sampling="all") == tuple(range(30))

    def test_a_short_sequence_gives_what_it_has(self):
        assert chosen(3, frames=8) == (0, 1, 2)

    def test_within_the_window(self):
        assert chosen(100, frames=3, window="10:21") == (10, 15, 20)
        assert chosen(100, frames=2, window="90:") == (90, 99)
        assert chosen(100, frames=2, window=":5") == (0, 4)

    def test_a_sequence_that_ends_before_the_window_says_so(self):
        with pytest.raises(ValueError, match="--window 50:60 holds none of the 40 frames"):
            chosen(40, window="50:60")

    @pytest.mark.parametrize("window", ["5", "a:b", "5:6:7", "-3:2"])
    def test_a_window_that_is_none_is_refused(self, window):
        with pytest.raises(ValidationError):
            SequenceSettings(window=window)

    def test_a_window_survives_json(self):
        settings = SequenceSettings(window="3:")
        assert SequenceSettings.model_validate_json(settings.model_dump_json()) == settings

    def test_around_the_apex_where_the_face_is_at_least_half_as_far(self):
        moved = [0.0, 0.1, 0.4, 0.6, 0.8, 1.0, 0.7, 0.5, 0.3, 0.1]
        settings = SequenceSettings(frames=3, sampling="apex")
        assert settings.chosen(10, dict(enumerate(moved))) == ((3, 5, 7), 5)

    def test_a_sharp_apex_takes_the_neighbours_that_moved_most(self):
        assert chosen(6, [0, 0.1, 1, 0.3, 0.2, 0], frames=3, sampling="apex") == (2, 3, 4)

    def test_one_frame_is_the_apex_itself(self):
        assert chosen(5, [0, 0.6, 0.9, 1.0, 0.9], frames=1, sampling="apex") == (3,)

    @given(
        st.lists(st.floats(0, 10), min_size=1, max_size=40),
        st.integers(1, 50),
        st.sampled_from(["uniform", "apex", "all"]),
        st.integers(0, 5),
    )
    def test_always_in_order_without_repeats_within_the_window_and_as_many_as_announced(
        self, moved, frames, sampling, start
    ):
        settings = SequenceSettings(frames=frames, sampling=sampling, window=f"{start}:")
        if start >= len(moved):
            return
        numbers, _ = settings.chosen(len(moved), dict(enumerate(moved)))
        assert list(numbers) == sorted(set(numbers)) and set(numbers) <= set(settings.needed(len(moved)))
        assert len(numbers) == settings.num_chosen(len(moved)) and numbers[0] >= start
        assert settings.needed(len(moved))[0] == start


RNG = np.random.default_rng(0)
FACE = Mesh.build(RNG.normal(0, 40, (60, 3)), RNG.integers(0, 60, (90, 3)))


def moved(mesh: Mesh, by: np.ndarray) -> Mesh:
    return replace(mesh, vertices=(mesh.vertices + by).astype(np.float32))


class TestDisplacement:
    def test_is_nothing_where_only_the_head_moves(self):
        angle = np.deg2rad(20)
        turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        turned = replace(FACE, vertices=(FACE.vertices @ turn + [5, 2, 1]).astype(np.float32))
        assert displacement(FACE, turned) < 1e-4

    def test_grows_with_the_expression(self):
        bump = RNG.normal(0, 1, FACE.vertices.shape)
        distances = [displacement(FACE, moved(FACE, strength * bump)) for strength in (0.5, 1.0, 2.0)]
        assert distances[0] < distances[1] < distances[2]
        assert distances[1] == pytest.approx(np.sqrt(3), rel=0.15)

    def test_is_measured_at_landmarks_where_meshes_do_not_correspond(self):
        landmarks = RNG.normal(0, 40, (10, 3)).astype(np.float32)
        other = Mesh.build(RNG.normal(0, 40, (50, 3)), RNG.integers(0, 50, (90, 3)))
        onset, apex = replace(FACE, landmarks=landmarks), replace(other, landmarks=landmarks + np.float32(3))
        assert displacement(onset, apex) < 1e-4
        bent = landmarks.copy()
        bent[0] += 30
        assert displacement(onset, replace(other, landmarks=bent)) > 3

    def test_and_between_surfaces_where_there_are_none(self):
        grid = np.stack([*np.meshgrid(np.arange(20.0), np.arange(20.0)), np.zeros((20, 20))], axis=-1).reshape(-1, 3)
        flat = Mesh.build(grid, np.array([[0, 1, 20]]))
        raised = Mesh.build(grid[:-1] + np.array([0, 0, 2.5]), np.array([[0, 1, 20]]))
        assert displacement(flat, raised) == pytest.approx(2.5, abs=0.01)


class TestMotion:
    def test_is_magnified_about_the_onset(self):
        step = RNG.normal(0, 1, FACE.vertices.shape)
        far = magnify_motion(FACE, moved(FACE, step), 4)
        assert np.allclose(far.vertices, FACE.vertices + 4 * step, atol=1e-3)

    def test_takes_the_landmarks_along(self):
        landmarks = np.ones((4, 3), np.float32)
        onset, later = replace(FACE, landmarks=landmarks), replace(FACE, landmarks=landmarks * 2)
        assert (magnify_motion(onset, later, 3).landmarks == 4).all()

    def test_becomes_flow_at_each_vertex(self):
        step = RNG.normal(0, 1, FACE.vertices.shape).astype(np.float32)
        assert np.allclose(with_flow(FACE, moved(FACE, step)).flow, step, atol=1e-4)

    @pytest.mark.parametrize("compare", [lambda a, b: magnify_motion(a, b, 2), with_flow])
    @pytest.mark.parametrize(
        "other",
        [
            Mesh.build(FACE.vertices[:59], FACE.faces % 59),
            Mesh.build(FACE.vertices, FACE.faces[::-1]),
        ],
    )
    def test_needs_meshes_in_correspondence(self, compare, other):
        with pytest.raises(MeshError, match="needs meshes in correspondence"):
            compare(FACE, other)

    def test_that_is_not_magnified_needs_none(self):
        other = Mesh.build(FACE.vertices[:59], FACE.faces % 59)
        assert magnify_motion(FACE, other, 1) is other


class TestDynamicImages:
    def test_weights_are_those_of_approximate_rank_pooling(self):
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

    def test_what_stands_still_is_128_and_what_moves_leaves_a_trace_on_its_side(self):
        frames = np.full((5, 2, 2), 90, np.uint8)
        frames[:, 0, 1] = [10, 20, 30, 40, 50]
        frames[:, 1, 0] = [50, 40, 30, 20, 10]
        sums = weighted_sum(frames, rank_pooling_weights(5))
        pixels, scales = quantise_dynamic({"rgb": sums})
        assert pixels["rgb"][0, 0] == 128 and pixels["rgb"][0, 1] > 200 and pixels["rgb"][1, 0] < 56
        read = (pixels["rgb"].astype(float) - 128) * scales["rgb"].step
        assert np.abs(read - sums / WEIGHT_UNIT).max() <= scales["rgb"].step

    def test_a_few_pixels_that_jump_do_not_take_the_range_from_the_face(self):
        sums = np.full((100, 100), 5 * WEIGHT_UNIT)
        sums[0, :3] = 50_000 * WEIGHT_UNIT
        pixels, scales = quantise_dynamic({"depth": sums})
        assert scales["depth"].step == pytest.approx(5 / 127, rel=1e-5)
        assert pixels["depth"][0, 0] == 255 and pixels["depth"][50, 50] == 255

    def test_a_sequence_in_which_nothing_moves_is_grey(self):
        pixels, _ = quantise_dynamic({"rgb": np.zeros((3, 4, 4, 3), np.int64)})
        assert (pixels["rgb"] == 128).all()
