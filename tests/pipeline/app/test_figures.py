"""Figures of the page: colours and size of the face, and the values of bars and lines."""

import numpy as np
import pytest

from helpers.shapes import card, sphere
from smile_pipe.pipeline.app import figures
from smile_pipe.pipeline.app.figures import (
    face_figure,
    probabilities_figure,
    probabilities_over_time_figure,
    vertex_colors,
)
from smile_pipe.pipeline.meshes.mesh import Mesh


def test_a_vertex_has_the_colour_of_the_texture_at_its_uv():
    texture = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8)
    mesh = card((0, 0, 0), (1, 0, 0), (0, 1, 0), texture=texture)
    assert mesh.uvs is not None
    inside = mesh.uvs * 0.9
    moved = Mesh(**{**vars(mesh), "uvs": inside})
    found = {tuple(vertex[:2]): tuple(color) for vertex, color in zip(mesh.vertices, vertex_colors(moved), strict=True)}
    # Row 0 of a texture is its top: v = 1.
    assert found[0.0, 0.0] == (0, 0, 255)
    assert vertex_colors(Mesh(**{**vars(mesh), "uvs": np.float32([0.1, 0.99]) * np.ones_like(inside)}))[0].tolist() == [
        255,
        0,
        0,
    ]


def test_vertex_colours_are_kept_and_missing_ones_are_plain():
    mesh = sphere(1, 1.0)
    assert len(np.unique(vertex_colors(mesh), axis=0)) == 1
    own = np.random.default_rng(0).integers(0, 255, (len(mesh.vertices), 3)).astype(np.uint8)
    assert (vertex_colors(Mesh(**{**vars(mesh), "colors": own})) == own).all()


def test_the_face_is_upright_and_seen_from_the_front():
    figure = face_figure(sphere(2, 1.0))
    camera = figure.layout.scene.camera
    assert (camera.up.y, camera.eye.x, camera.eye.y) == (1, 0, 0) and camera.eye.z > 0
    assert len(figure.data[0].x) == 162 and len(figure.data[0].i) == 320


def test_a_large_mesh_is_simplified_and_keeps_its_surface(monkeypatch):
    monkeypatch.setattr(figures, "MAX_FACES", 2000)
    surface = face_figure(sphere(5, 1.0)).data[0]
    points = np.stack([surface.x, surface.y, surface.z], axis=1)
    assert 200 < len(surface.i) <= 2000
    assert np.linalg.norm(points, axis=1) == pytest.approx(1, abs=1e-3)
    assert len(surface.vertexcolor) == len(points) > max(map(max, (surface.i, surface.j, surface.k)))


def test_bars_are_sorted_and_labelled():
    bars = probabilities_figure({"anger": 0.2, "joy": 0.7, "fear": 0.1}).data[0]
    assert list(bars.y) == ["fear", "anger", "joy"] and list(bars.text) == ["10.0 %", "20.0 %", "70.0 %"]


def test_lines_are_drawn_over_seconds_with_a_mark_at_the_frame():
    shares = np.array([[0.25, 0.75], [0.5, 0.5]])
    figure = probabilities_over_time_figure([0.0, 0.4], shares, ["anger", "joy"], frame=1)
    assert [line.name for line in figure.data] == ["anger", "joy"]
    assert list(figure.data[1].x) == [0.0, 0.4] and list(figure.data[1].y) == [75, 50]
    assert figure.layout.shapes[0].x0 == 0.4
