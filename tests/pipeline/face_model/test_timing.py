"""Timing of expressions in sequences, and head poses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.face_model.actor import MAX_TIMING_EXPONENT, MIN_FRAMES, Timing, animate
from smile_pipe.pipeline.face_model.scan_noise import (
    MAX_SWAY,
    MAX_TURN,
    NOISE_MM,
    PIVOT,
    add_pose_and_noise,
    sample_head_poses,
)
from smile_pipe.pipeline.meshes.mesh import Mesh

BASIC = [code for code in EXPRESSIONS if code != "NE"]
SMILE = {"AU6": (0.8, 0.6), "AU12": (1.0, 0.9), "AU25": (0.5, 0.5)}

timings = st.builds(
    lambda code, num_frames, tempo, seed: (
        Timing.sample(code, num_frames, tempo, np.random.default_rng(seed)),
        num_frames,
    ),
    st.sampled_from(BASIC),
    st.integers(MIN_FRAMES, 300),
    st.floats(0.7, 1.4),
    st.integers(0, 10_000),
)


def sample_timings(code: str, tempo: float = 1.0, num_frames: int = 400) -> list[Timing]:
    return [Timing.sample(code, num_frames, tempo, np.random.default_rng(seed)) for seed in range(40)]


def mean_rise(sampled: list[Timing]) -> float:
    return float(np.mean([t.apex - t.onset for t in sampled]))


@given(timings)
def test_phases_are_neutral_rise_apex_fall_neutral(sampled):
    timing, num_frames = sampled
    assert 0 <= timing.onset <= timing.apex - 2 and timing.apex <= timing.offset < timing.end < num_frames
    strength = timing.strength(np.arange(num_frames))
    assert not strength[: timing.onset + 1].any() and not strength[timing.end :].any()
    assert (strength[timing.apex : timing.offset + 1] == 1).all()
    assert (np.diff(strength[timing.onset : timing.apex + 1]) > 0).all()
    assert (np.diff(strength[timing.offset : timing.end + 1]) < 0).all()


def test_strength_is_smooth_at_both_ends():
    timing = Timing(onset=10, apex=30, offset=50, end=90)
    assert timing.strength([10.2, 89.6]) == pytest.approx(0, abs=1e-4)
    assert timing.strength([29.8, 50.4]) == pytest.approx(1, abs=1e-4)
    assert timing.strength([20, 70]) == pytest.approx(0.5)


def test_surprise_is_quicker_than_sadness_and_falls_are_slower_than_rises():
    surprise, happiness, sadness = (mean_rise(sample_timings(code)) for code in ("SU", "HA", "SA"))
    assert surprise < 0.85 * happiness and happiness < 0.92 * sadness
    for code in BASIC:
        assert np.mean([t.end - t.offset for t in sample_timings(code)]) > 1.1 * mean_rise(sample_timings(code))


def test_tempo_shortens_the_rise_and_timings_differ():
    assert mean_rise(sample_timings("HA", tempo=1.4)) < 0.8 * mean_rise(sample_timings("HA", tempo=0.8))
    assert len(set(sample_timings("HA"))) == len(sample_timings("HA"))
    starts, plateaus = zip(*((t.onset / 400, (t.offset - t.apex) / 400) for t in sample_timings("HA")), strict=True)
    assert np.ptp(starts) > 0.05 and np.ptp(plateaus) > 0.08


def test_timing_scales_with_sequence_length():
    short, long = sample_timings("FE", num_frames=101)[0], sample_timings("FE", num_frames=201)[0]
    assert [2 * frame for frame in vars(short).values()] == pytest.approx(list(vars(long).values()), abs=2)


def test_action_units_are_full_at_the_apex_and_zero_at_the_ends():
    timing = Timing(4, 12, 16, 27)
    frames = animate(SMILE, timing, 30, np.random.default_rng(0))
    assert len(frames) == 30 and all(frame.keys() == SMILE.keys() for frame in frames)
    assert all(dict(frame) == SMILE for frame in frames[12:17])
    for frame in (*frames[:5], *frames[27:]):
        assert set(frame.values()) == {(0.0, 0.0)}


def test_each_action_unit_stays_near_the_common_strength():
    timing = Timing(4, 12, 16, 27)
    frames = animate(SMILE, timing, 30, np.random.default_rng(0))
    common = timing.strength(8)
    shares = {unit: frames[8][unit][0] / SMILE[unit][0] for unit in SMILE}
    assert len(set(shares.values())) == len(SMILE)
    assert all(common**MAX_TIMING_EXPONENT <= share <= common ** (1 / MAX_TIMING_EXPONENT) for share in shares.values())
    assert all(frames[8][unit][1] / SMILE[unit][1] == pytest.approx(shares[unit]) for unit in SMILE)


@pytest.mark.parametrize("seed", range(5))
def test_head_poses_are_small_and_smooth(seed):
    poses = sample_head_poses(60, np.random.default_rng(seed))
    assert poses.shape == (60, 3) and np.abs(poses).max() <= MAX_TURN + MAX_SWAY
    assert (np.ptp(poses, axis=0) > 0.1 * MAX_SWAY).all() and (np.ptp(poses, axis=0) <= 2 * MAX_SWAY).all()
    assert np.abs(np.diff(poses, axis=0)).max() < MAX_SWAY / 5
    assert not np.allclose(poses, sample_head_poses(60, np.random.default_rng(seed + 1)))


def test_pose_rotates_about_the_pivot_and_adds_noise():
    points = np.random.default_rng(1).normal(0, 60, (2000, 3)) + PIVOT
    mesh = Mesh.build(points, np.array([[0, 1, 2]]))
    still, turned = (
        add_pose_and_noise(mesh, np.array([0, yaw, 0]), np.random.default_rng(2)) for yaw in (0.0, np.pi / 2)
    )
    assert (still.vertices - mesh.vertices).std() == pytest.approx(NOISE_MM, rel=0.05)
    x, y, z = (mesh.vertices - PIVOT).T
    assert np.abs(turned.vertices - PIVOT - np.stack([z, y, -x], axis=1)).max() < 6 * NOISE_MM
