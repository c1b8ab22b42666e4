"""Variations of shape: bounded, of a person, the same for all meshes of it, and equal on any machine."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from helpers.shapes import card, sphere
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.meshes.variation import Variation, smooth

BALL = replace(sphere(3, 1.0), landmarks=np.array([[0, 0, 1], [0.5, 0.2, 0.8]], np.float32))


def test_people_and_variants_differ_and_equal_ones_are_equal():
    shapes = [Variation.of(*who).apply(BALL).vertices for who in (("F1", 1), ("F1", 2), ("F2", 1))]
    assert np.array_equal(shapes[0], Variation.of("F1", 1).apply(BALL).vertices)
    for one, other in pairwise([*shapes, shapes[0]]):
        assert np.abs(one - other).max() > 0.05


def test_shape_is_that_of_every_machine():
    vertices = Variation.of("F1", 1).apply(BALL).vertices
    assert vertices.dtype == np.float32
    expected = [
        [-0.5477729439735413, 0.9421402812004089, -0.03476922586560249],
        [0.8553851246833801, -0.2893970310688019, 0.43980398774147034],
    ]
    assert vertices[[0, 100]].tolist() == expected


def test_points_move_as_the_formula_says():
    variation = Variation.of("F3", 1)
    points = BALL.vertices.astype(float)
    expected = points @ variation.matrix
    turns = points @ variation.waves.T + variation.phases
    part = (turns + 0.5) % 1 - 0.5
    expected += (8 * part * (1 - 2 * np.abs(part))) @ variation.moves
    found = replace(variation, rounds=0).apply(BALL)
    np.testing.assert_allclose(found.vertices, expected, atol=1e-6)
    lone = replace(BALL, vertices=BALL.landmarks, faces=np.zeros((1, 3), np.int32), landmarks=BALL.vertices)
    np.testing.assert_allclose(variation.apply(lone).landmarks, expected, atol=1e-6)


def test_changes_are_those_of_heads_and_not_of_other_things():
    moves, volumes, rounds = [], [], set()
    for number in range(100):
        variation = Variation.of(f"F{number}", 1)
        rounds.add(variation.rounds)
        shape = replace(variation, rounds=0).apply(BALL)
        assert np.linalg.det(variation.matrix) > 0.4
        # No triangle turns inside out.
        a, b, c = (shape.vertices[BALL.faces[:, corner]].astype(float) for corner in range(3))
        normals = np.cross(b - a, c - a)
        assert ((normals * (a + b + c)).sum(axis=1) > 0).all()
        moves.append(np.linalg.norm(shape.vertices - BALL.vertices, axis=1).mean())
        volumes.append((a * normals).sum() / 6)
    # In units of 90 mm: centimetres, on average.
    assert 0.06 < np.mean(moves) < 0.2 and np.max(moves) < 0.45
    assert 0.05 < np.std(volumes) / np.mean(volumes) < 0.3
    assert rounds == {0, 2, 6, 14}


def test_smoothing_is_the_mean_with_the_neighbours():
    rng = np.random.default_rng(0)
    flat = card((0, 0, 0), (1, 0, 0), (0, 1, 0), num_cells=4)
    vertices = rng.normal(size=flat.vertices.shape)
    found = smooth(vertices, flat.faces, 2)
    edges = [(face[i], face[j]) for face in flat.faces.tolist() for i in range(3) for j in range(3) if i != j]
    expected = vertices
    for _ in range(2):
        means = [np.mean([expected[to] for to, own in edges if own == v], axis=0) for v in range(len(vertices))]
        expected = (expected + means) / 2
    np.testing.assert_allclose(found, expected)
    assert np.array_equal(smooth(vertices, flat.faces, 0), vertices)


def test_smoothing_flattens_noise_and_leaves_lone_vertices():
    rng = np.random.default_rng(0)
    rough = BALL.vertices + rng.normal(0, 0.01, BALL.vertices.shape)
    rough = np.concatenate([rough, [[9.0, 9.0, 9.0]]])
    found = smooth(rough, BALL.faces, 6)
    spread = [np.std(np.linalg.norm(points[:-1], axis=1)) for points in (rough, found)]
    assert spread[1] < 0.4 * spread[0] and found[-1].tolist() == [9, 9, 9]


@pytest.mark.parametrize("landmarks", [None, np.full((2, 3), np.nan, np.float32)])
def test_absent_landmarks_stay_absent(landmarks):
    varied = Variation.of("F1", 1).apply(replace(BALL, landmarks=landmarks))
    assert varied.landmarks is None if landmarks is None else np.isnan(varied.landmarks).all()
    assert isinstance(varied, Mesh) and varied.faces is BALL.faces
