"""What the surface says about alignment: debris, landmarks of something else, and scans that look turned."""

from dataclasses import replace

import numpy as np
import pytest

from helpers.shapes import sphere
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.axes import UPRIGHT, matrix_of_axes, parse_axes, resolve_axes
from smile_pipe.pipeline.landmarks.surface import landmarks_problem, main_piece, orientation_problem
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.shards.errors import UsageError

RNG = np.random.default_rng(0)
COLUMNS, ROWS = 41, 51


def mask(step: float = 4.0) -> Mesh:
    """A face as a height field of 160 x 200 mm that bulges to +z."""
    x, y = np.meshgrid(np.arange(-80, 80.1, step), np.arange(-100, 100.1, step))
    points = np.stack([x, y, 60 * np.exp(-(x**2 / 4000 + y**2 / 6000))], axis=2).reshape(-1, 3)
    width = x.shape[1]
    corner = (np.arange(x.shape[0] - 1)[:, None] * width + np.arange(width - 1)).ravel()
    a, b, c, d = corner, corner + 1, corner + width + 1, corner + width
    return Mesh.build(points, np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)]))


MASK = mask()


def with_pieces(mesh: Mesh, *pieces: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(one.vertices) for one in (mesh, *pieces))])
    faces = [one.faces + start for one, start in zip((mesh, *pieces), starts, strict=False)]
    return Mesh.build(np.concatenate([one.vertices for one in (mesh, *pieces)]), np.concatenate(faces))


def moved(mesh: Mesh, *shift: float) -> Mesh:
    return replace(mesh, vertices=mesh.vertices + np.float32(shift))


class TestDebris:
    CRUMB = sphere(2, 20.0)  # 162 vertices, a tenth of the mask

    @pytest.mark.parametrize("distance", [300.0, 3000.0, 1e6])
    def test_frame_is_that_of_the_face(self, distance):
        crumbs = [moved(self.CRUMB, *(distance * RNG.normal(size=3))) for _ in range(4)]
        assert canonical_frame(with_pieces(MASK, *crumbs)) == canonical_frame(MASK)

    def test_a_small_piece_with_many_vertices_is_debris(self):
        crumb = moved(sphere(4, 20.0), 500, 0, 0)
        assert len(crumb.vertices) > len(MASK.vertices)
        assert main_piece(with_pieces(MASK, crumb)).nonzero()[0].tolist() == list(range(len(MASK.vertices)))

    def test_debris_hides_more_debris(self):
        pieces = with_pieces(MASK, moved(self.CRUMB, 0, 1e6, 0), moved(self.CRUMB, 400, 0, 0))
        assert main_piece(pieces).nonzero()[0].tolist() == list(range(len(MASK.vertices)))

    def test_separate_triangles_of_a_face_are_one_piece(self):
        corners = MASK.vertices[MASK.faces].reshape(-1, 3)
        soup = Mesh.build(corners, np.arange(len(corners)).reshape(-1, 3))
        assert main_piece(soup).all()
        assert main_piece(with_pieces(soup, moved(self.CRUMB, 900, 0, 0))).sum() == len(corners)

    def test_coarse_faces_are_one_piece(self):
        coarse = mask(40.0)
        assert main_piece(coarse).all()

    def test_large_pieces_and_pieces_at_the_face_are_kept(self):
        eyes = [moved(sphere(2, 12.0), x, 30, 40) for x in (-33, 33)]
        assert main_piece(with_pieces(MASK, *eyes)).all()
        assert main_piece(with_pieces(MASK, moved(MASK, 500, 0, 0))).all()


class TestLandmarks:
    POINTS = MASK.vertices[RNG.choice(len(MASK.vertices), 68, replace=False)]

    def problem(self, landmarks: np.ndarray, mesh: Mesh = MASK) -> str:
        return landmarks_problem(replace(mesh, landmarks=landmarks.astype(np.float32)))

    def test_those_of_the_surface_have_none(self):
        assert self.problem(self.POINTS) == ""
        assert self.problem(self.POINTS + RNG.normal(0, 3, self.POINTS.shape)) == ""
        missing = self.POINTS.copy()
        missing[::2] = np.nan
        assert self.problem(missing) == ""
        assert self.problem(np.full((68, 3), np.nan)) == ""

    def test_coarse_surface(self):
        coarse = mask(20.0)
        between = coarse.vertices[coarse.faces].mean(axis=1)[::3]
        assert self.problem(between, coarse) == ""

    @pytest.mark.parametrize(
        "change",
        [
            lambda points: points / 1000,
            lambda points: points * 1000,
            lambda points: points / 10,
            lambda points: points[:, [0, 2, 1]],
            lambda points: points[:, [1, 0, 2]] * [1, -1, 1] + [0, 0, 15],
            lambda points: points * [1, -1, -1],
            lambda points: np.add(points, [0, 150, 0]),
            lambda points: np.add(points, [0, 0, -20]),
        ],
    )
    def test_other_units_axes_or_places(self, change):
        assert "landmarks are not used: " in self.problem(change(self.POINTS))

    def test_other_units_at_the_same_point(self):
        # All are near the tip, which is at 0.
        tip = moved(MASK, 0, 0, -60)
        assert "times as large as their spread; check their unit" in self.problem(
            (self.POINTS - [0, 0, 60]) / 1000, tip
        )


class TestOrientation:
    @pytest.mark.parametrize(
        ("axes", "faces"), [("x,-y,-z", "-z"), ("-x,y,-z", "-z"), ("x,z,-y", "-y"), ("x,-z,y", "y"), ("z,y,-x", "-x")]
    )
    @pytest.mark.parametrize("is_inside_out", [False, True])
    def test_turned_scan_is_noticed_and_the_axes_turn_it_back(self, axes, faces, is_inside_out):
        matrix = matrix_of_axes(axes)
        turned = replace(MASK, vertices=(MASK.vertices @ matrix.T).astype(np.float32))
        if is_inside_out:
            turned = replace(turned, faces=turned.faces[:, ::-1])
        assert orientation_problem(turned, np.eye(3)).startswith(f"looks turned: its surface faces {faces} in")
        assert orientation_problem(turned, matrix) == ""
        placed = apply_frame(turned, canonical_frame(turned, axes))
        np.testing.assert_allclose(placed.vertices, apply_frame(MASK, canonical_frame(MASK)).vertices, atol=0.01)

    def test_scan_on_its_side_is_wider_than_high(self):
        turned = replace(mask(), vertices=MASK.vertices[:, [1, 0, 2]] * np.float32([1.2, -1, 1]))
        assert orientation_problem(turned, np.eye(3)).startswith("looks turned: it is wider than high")

    def test_upright_and_closed_surfaces_have_no_problem(self):
        assert orientation_problem(MASK, np.eye(3)) == "" and orientation_problem(mask(20.0), np.eye(3)) == ""
        assert orientation_problem(sphere(3, 90.0), np.eye(3)) == ""

    def test_left_handed_axes_mirror_and_keep_surfaces_outside(self):
        mirrored = replace(MASK, vertices=MASK.vertices * np.float32([1, -1, 1]), faces=MASK.faces[:, ::-1])
        placed = apply_frame(mirrored, canonical_frame(mirrored, "x,-y,z"))
        expected = apply_frame(MASK, canonical_frame(MASK))
        np.testing.assert_allclose(placed.vertices, expected.vertices, atol=0.01)
        assert np.array_equal(placed.faces, expected.faces)


class TestAxes:
    @pytest.mark.parametrize(
        ("text", "axes"),
        [
            ("y", UPRIGHT),
            ("z", "x,z,-y"),
            ("-y", "x,-y,-z"),
            ("X, -Y, Z", "x,-y,z"),
            ("x +z -y", "x,z,-y"),
            ("-x", "y,-x,z"),
        ],
    )
    def test_three_axes_or_the_one_that_points_up(self, text, axes):
        assert parse_axes(text) == axes

    @pytest.mark.parametrize("text", ["", "w", "x,y", "x,x,z", "x,y,z,x", "--y", "x,y,-", "up"])
    def test_anything_else_is_rejected(self, text):
        with pytest.raises(ValueError, match="not axes; write those that point to the subject's left, up"):
            parse_axes(text)

    @pytest.mark.parametrize("up", ["x", "-x", "y", "-y", "z", "-z"])
    def test_one_axis_is_a_turn(self, up):
        matrix = matrix_of_axes(parse_axes(up))
        assert np.linalg.det(matrix) == 1
        point = np.zeros(3)
        point["xyz".index(up[-1])] = -1.0 if up[0] == "-" else 1.0
        assert (point @ matrix).tolist() == [0, 1, 0]

    def test_two_options_exclude_each_other(self):
        assert resolve_axes("z", None) == "x,z,-y" and resolve_axes("y", "x,-y,z") == "x,-y,z"
        with pytest.raises(UsageError, match="use either `up=z` or this") as error:
            resolve_axes("z", "x,-y,z")
        assert error.value.field == "axes"
