"""Coordinates far from 0, as in surveys, keep their precision in every format that has it."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.shapes import sphere
from helpers.small_gltf import SmallGltf
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.files import read_scan
from smile_pipe.pipeline.meshes.bnt import write_bnt
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.sequences.flow import displacement

BALL = sphere(2, 0.1)
ORIGIN = np.array([500000.123, -4649776.25, 88.5])
POINTS = BALL.vertices.astype(np.float64) + ORIGIN
NEAR = {"rtol": 0, "atol": 2e-8}  # of a ball with a radius of 0.1; float32 has steps of 0.03 to 0.5 there


def rows(prefix: str, values: np.ndarray, end: str = "\n") -> str:
    return "".join(f"{prefix}{' '.join(map(repr, row))}{end}" for row in values.tolist())


def text_of(form: str, points: np.ndarray = POINTS) -> str:
    triangles, count = rows("3 ", BALL.faces), f"{len(points)} {len(BALL.faces)}"
    if form == "obj":
        return rows("v ", points) + rows("f ", BALL.faces + 1)
    if form == "off":
        return f"OFF\n{count} 0\n" + rows("", points) + triangles
    if form == "ply":
        header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
        header += "".join(f"property double {axis}\n" for axis in "xyz")
        header += f"element face {len(BALL.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
        return header + rows("", points) + triangles
    if form == "stl":
        corners = [f"facet normal 0 0 1\n{rows('vertex ', points[face])}endfacet\n" for face in BALL.faces]
        return "solid f\n" + "".join(corners) + "endsolid\n"
    polygons = rows("", BALL.faces, " -1\n")
    coordinates = f"coord Coordinate {{ point [\n{rows('', points)}] }} coordIndex [\n{polygons}]"
    return f"#VRML V2.0 utf8\nShape {{ geometry IndexedFaceSet {{ {coordinates} }} }}\n"


def write(form: str, path: Path) -> None:
    if form == "npz":
        np.savez(path, vertices=POINTS, faces=BALL.faces)
    elif form == "binary.ply":
        header = text_of("ply").partition("end_header")[0].replace("ascii", "binary_little_endian") + "end_header\n"
        faces = b"".join(struct.pack("<B3i", 3, *face) for face in BALL.faces.tolist())
        path.write_bytes(header.encode() + POINTS.astype("<f8").tobytes() + faces)
    elif form == "moved.wrl":
        moved = text_of("wrl", BALL.vertices.astype(float)).replace(
            "Shape", f"Transform {{ translation {rows('', ORIGIN[None], ' ')} children Shape", 1
        )
        path.write_text(moved + "}\n")
    elif form == "glb":
        gltf = SmallGltf()
        indices = gltf.array(BALL.faces.ravel(), "u4")
        gltf.show({"indices": indices}, {"translation": ORIGIN.tolist()}, POSITION=gltf.array(BALL.vertices))
        gltf.write(path)
    else:
        path.write_text(text_of(form))


FORMS = ["obj", "ply", "off", "stl", "wrl", "npz", "binary.ply", "moved.wrl", "glb"]


@pytest.mark.parametrize("form", FORMS)
def test_precision_is_kept(tmp_path, form):
    path = tmp_path / f"f.{form}"
    write(form, path)
    mesh = read_mesh(path)
    assert mesh.vertices.dtype == np.float32 and np.abs(mesh.vertices).max() < 1
    np.testing.assert_allclose((mesh.vertices + np.array(mesh.origin))[mesh.faces], POINTS[BALL.faces], **NEAR)


def test_precision_of_a_range_image_is_kept(tmp_path):
    x, y = np.meshgrid(np.arange(5.0), np.arange(4.0))
    points = np.stack([x, y, 0.1 * x * y], axis=2) / 50 + ORIGIN
    write_bnt(tmp_path / "f.bnt", points, np.stack([x / 4, y / 3], axis=2), "f.png")
    mesh = read_mesh(tmp_path / "f.bnt")
    np.testing.assert_allclose(mesh.vertices + np.array(mesh.origin), points.reshape(-1, 3), **NEAR)


def test_seventeen_digits_are_more_than_float32(tmp_path):
    points = BALL.vertices.astype(np.float64) + np.array([np.pi * 1e6, -np.e * 1e6, 1e5 / 3])
    for form in ("obj", "off", "ply", "wrl"):
        (tmp_path / f"f.{form}").write_text(text_of(form, points))
        mesh = read_mesh(tmp_path / f"f.{form}")
        np.testing.assert_allclose(mesh.vertices + np.array(mesh.origin), points, **NEAR)


def test_coordinates_near_zero_are_those_of_the_file(tmp_path):
    for shift in (0.0, 5.0):
        (tmp_path / "f.obj").write_text(text_of("obj", BALL.vertices.astype(np.float64) + shift))
        mesh = read_mesh(tmp_path / "f.obj")
        assert mesh.origin == (0, 0, 0)
        assert np.array_equal(mesh.vertices, (BALL.vertices.astype(np.float64) + shift).astype(np.float32))


def test_vertices_that_no_face_uses_and_debris_do_not_hide_the_distance(tmp_path):
    more = np.concatenate([POINTS, np.zeros((500, 3))])
    (tmp_path / "f.obj").write_text(rows("v ", more) + rows("f ", BALL.faces + 1) + "f 601 602 603\n")
    mesh = read_mesh(tmp_path / "f.obj")
    np.testing.assert_allclose(mesh.vertices[: len(POINTS)] + np.array(mesh.origin), POINTS, **NEAR)


@pytest.mark.parametrize("suffix", [".bnd", ".npz"])
def test_landmarks_and_frame_are_those_of_the_file(tmp_path, suffix):
    landmarks = POINTS[:20]
    if suffix == ".npz":
        np.savez(tmp_path / "f.npz", vertices=POINTS, faces=BALL.faces, landmarks=landmarks)
        mesh = read_mesh(tmp_path / "f.npz")
    else:
        (tmp_path / "f.obj").write_text(text_of("obj"))
        (tmp_path / "f.bnd").write_text(
            "".join(f"{i} {x!r} {y!r} {z!r}\n" for i, (x, y, z) in enumerate(landmarks.tolist()))
        )
        mesh = read_scan(tmp_path / "f.obj", tmp_path / "f.bnd")
    np.testing.assert_allclose(mesh.landmarks + np.array(mesh.origin), landmarks, **NEAR)
    frame = canonical_frame(mesh, "x,z,-y")
    placed = apply_frame(mesh, frame)
    assert placed.origin == (0, 0, 0)
    np.testing.assert_allclose(placed.vertices, frame.scale * POINTS @ frame.R + frame.T, atol=1e-6)
    np.testing.assert_allclose(placed.landmarks, placed.vertices[:20], atol=1e-6)
    near = apply_frame(BALL, canonical_frame(BALL, "x,z,-y"))
    np.testing.assert_allclose(placed.vertices, near.vertices, atol=1e-6)


def test_frames_of_a_sequence_may_have_other_origins():
    onset = Mesh.build(POINTS, BALL.faces)
    later = Mesh.build(POINTS[::-1] + np.array([0.5, 0, 0]), len(POINTS) - 1 - BALL.faces[1:])
    assert onset.origin != later.origin
    frame = canonical_frame(onset)
    moved = apply_frame(later, frame).vertices[::-1] - apply_frame(onset, frame).vertices
    np.testing.assert_allclose(moved, np.tile([0.5 * frame.scale, 0, 0], (len(POINTS), 1)), atol=1e-5)
    # Not in correspondence: from the vertices of one to the nearest of the other.
    assert displacement(onset, later) == pytest.approx(
        displacement(BALL, replace(BALL, vertices=BALL.vertices[::-1] + np.float32([0.5, 0, 0]), faces=later.faces)),
        rel=1e-4,
    )
