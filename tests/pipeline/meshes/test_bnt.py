"""Bosphorus range images: meshed along the grid, without background and without triangles across steps in depth."""

import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from smile_pipe.pipeline.meshes.bnt import parse_bnt, write_bnt
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.source import Source
from smile_pipe.pipeline.meshes.triangulation import MAX_SLOPE, find_line_length


def _grid(rows: int, columns: int, spacing: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Points [R, C, 3] of a flat range image, first row at the top, and coordinates in an image with v downwards."""
    y, x = np.mgrid[0:rows, 0:columns] * spacing
    image = np.stack([x / x.max(), y / y.max()], axis=2)
    return np.stack([x, -y, np.zeros_like(x)], axis=2), image


def _face(rows: int = 30, columns: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """A bump with a hole and a rim of background."""
    points, image = _grid(rows, columns)
    offset = points[..., :2] - points[..., :2].mean(axis=(0, 1))
    points[..., 2] = 3.0 * np.exp(-(offset**2).sum(axis=2) / 30.0)
    points[:2, :, 2] = points[rows // 2, columns // 2, 2] = np.nan
    return points, image


def _write_and_read(tmp_path: Path, points: np.ndarray, image: np.ndarray) -> Mesh:
    write_bnt(tmp_path / "f.bnt", points, image, "bs000_N_N_0.png")
    return read_mesh(tmp_path / "f.bnt")


def _normals(mesh: Mesh) -> np.ndarray:
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    return np.cross(b - a, c - a)


def test_round_trip_drops_background(tmp_path: Path) -> None:
    points, image = _face()
    mesh = _write_and_read(tmp_path, points, image)
    kept = ~np.isnan(points[..., 2])
    assert np.array_equal(mesh.vertices, points[kept].astype(np.float32))
    assert mesh.texture_name == "bs000_N_N_0.png"
    # 29 x 19 cells of two triangles; the rim takes two rows of cells, and the hole leaves half of each of its four.
    assert len(mesh.faces) == 2 * 27 * 19 - 4
    assert np.array_equal(np.unique(mesh.faces), np.arange(len(mesh.vertices)))
    assert mesh.face_uvs is not None and np.array_equal(mesh.face_uvs, mesh.faces)


def test_written_bytes_follow_the_published_format(tmp_path: Path) -> None:
    points, image = _grid(2, 3)
    points[0, 0, 2] = np.nan
    write_bnt(tmp_path / "f.bnt", points, image, "a.png")
    data = (tmp_path / "f.bnt").read_bytes()
    assert struct.unpack_from("<HHdH", data) == (2, 3, -1e9, 5)
    assert data[14:19] == b"a.png" and struct.unpack_from("<I", data, 19) == (30,)
    x, y, z, u, v = np.frombuffer(data, "<f8", offset=23).reshape(5, 6)
    assert x.tolist() == [-1e9, 0.5, 1, 0, 0.5, 1] and y[3:].tolist() == [-0.5] * 3
    assert z.tolist() == [-1e9, 0, 0, 0, 0, 0]
    assert u[1:].tolist() == [0.5, 1, 0, 0.5, 1] and v[1:].tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("turn", ["as it is", "rows backwards", "columns backwards", "column by column"])
def test_grid_order_does_not_matter(tmp_path: Path, turn: str) -> None:
    points, image = _face()
    expected = _write_and_read(tmp_path, points, image)
    flip = {"rows backwards": np.s_[::-1], "columns backwards": np.s_[:, ::-1]}.get(turn, np.s_[:])
    points, image = points[flip], image[flip]
    write_bnt(tmp_path / "f.bnt", points, image, "")
    if turn == "column by column":
        write_bnt(tmp_path / "f.bnt", points.transpose(1, 0, 2), image.transpose(1, 0, 2), "")
        data = bytearray((tmp_path / "f.bnt").read_bytes())
        data[:4] = struct.pack("<HH", *points.shape[:2])
        (tmp_path / "f.bnt").write_bytes(data)
    mesh = read_mesh(tmp_path / "f.bnt")
    assert (_normals(mesh)[:, 2] > 0).all()
    assert mesh.faces.shape == expected.faces.shape
    assert np.linalg.norm(_normals(mesh), axis=1).sum() == pytest.approx(
        np.linalg.norm(_normals(expected), axis=1).sum(), rel=0.01
    )


def test_line_length_follows_point_distances() -> None:
    points = _grid(7, 4)[0].reshape(-1, 3)
    valid = np.ones(28, np.bool_)
    assert find_line_length(points, valid, (4, 7)) == find_line_length(points, valid, (7, 4)) == 4
    assert find_line_length(points, np.zeros(28, np.bool_), (7, 4)) == 7


def test_cell_is_cut_along_shorter_diagonal(tmp_path: Path) -> None:
    points, image = _grid(2, 2)
    for corner, diagonal in (((0, 0), {1, 2}), ((0, 1), {0, 3})):
        raised = points.copy()
        raised[corner][2] = 0.4
        faces = [set(face) for face in _write_and_read(tmp_path, raised, image).faces.tolist()]
        assert len(faces) == 2 and faces[0] & faces[1] == diagonal


@pytest.mark.parametrize("corner", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_cell_with_one_background_corner_gives_one_triangle(tmp_path: Path, corner: tuple[int, int]) -> None:
    points, image = _grid(2, 2)
    points[corner][2] = np.nan
    mesh = _write_and_read(tmp_path, points, image)
    assert mesh.faces.shape == (1, 3) and _normals(mesh)[0, 2] > 0
    points[1 - corner[0], 1 - corner[1], 2] = np.nan
    with pytest.raises(MeshError, match="0 vertices, 0 faces"):
        _write_and_read(tmp_path, points, image)


@pytest.mark.parametrize("spacing", [0.01, 0.5, 20.0])
def test_steps_are_open_but_slopes_are_meshed(tmp_path: Path, spacing: float) -> None:
    points, image = _grid(10, 10, spacing)
    for height, num_faces in ((MAX_SLOPE * spacing * 0.99, 2 * 81), (MAX_SLOPE * spacing * 1.01, 2 * 81 - 2 * 9)):
        points[:, 5:, 2] = height
        mesh = _write_and_read(tmp_path, points, image)
        assert len(mesh.faces) == num_faces and len(mesh.vertices) == 100
    points[3, 3, 2] = 100 * spacing  # a spike: its point goes with its six triangles, or seven, as the diagonals fall
    assert len(_write_and_read(tmp_path, points, image).vertices) == 99


def test_v_is_upwards_for_either_file_orientation(tmp_path: Path) -> None:
    points, image = _face()
    down = _write_and_read(tmp_path, points, image)
    up = _write_and_read(tmp_path, points, np.stack([image[..., 0], 1 - image[..., 1]], axis=2))
    assert down.uvs is not None and up.uvs is not None
    np.testing.assert_allclose(down.uvs, up.uvs, atol=1e-7)
    top = down.uvs[np.argmax(down.vertices[:, 1])]
    assert top[1] == pytest.approx(1 - 2 / 29, abs=1e-6) and down.uvs[-1].tolist() == [1, 0]


def _header(rows: int, columns: int, count: int, name: bytes = b"") -> bytes:
    return struct.pack("<HHdH", rows, columns, -1e9, len(name)) + name + struct.pack("<I", count)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\1", "truncated header"),
        (_header(2, 2, 20)[:14] + b"\0\0\0", "truncated header"),
        (struct.pack("<HHdH", 2, 2, 0, 60000) + bytes(100), "truncated header"),
        (_header(2, 2, 20) + bytes(159), "truncated data: the header declares 20 numbers of 8 bytes, 159 bytes follow"),
        (_header(2, 2, 21) + bytes(168), "inconsistent counts: 21 numbers for 2 x 2 points with 5 numbers each"),
        (_header(0, 2, 0), "unsupported grid size: 0 x 2 points"),
        (_header(65535, 65535, 0), "unsupported grid size: 65535 x 65535 points; from 1 to"),
        (_header(2, 2, 20) + np.array([1.0, np.nan] * 10).tobytes(), "point 1 is not finite"),
        (_header(2, 2, 20) + bytes(160), "0 vertices, 0 faces"),
        (_header(1, 4, 20) + bytes(160), "0 vertices, 0 faces"),
        (_header(4, 1, 20) + bytes(160), "0 vertices, 0 faces"),
    ],
)
def test_malformed_file_is_described(data: bytes, problem: str) -> None:
    with pytest.raises(MeshError, match=problem):
        parse_bnt(Source.from_bytes(data, Path("f.bnt")))


def test_coordinate_beyond_float32_is_rejected(tmp_path: Path) -> None:
    points, image = _grid(2, 2)
    with pytest.raises(MeshError, match="vertex 1 is not finite"):
        _write_and_read(tmp_path, points * 1e60, image)


def test_declared_points_are_not_allocated() -> None:
    source = Source.from_bytes(_header(2048, 2048, 5 << 22) + bytes(1000), Path("f.bnt"))
    tracemalloc.start()
    with pytest.raises(MeshError, match="declares 20971520 numbers of 8 bytes, 1000 bytes follow"):
        parse_bnt(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16


def test_write_bnt_rejects_too_large_grid_or_name(tmp_path: Path) -> None:
    points, image = _grid(2, 2)
    with pytest.raises(ValueError, match="too long for the format"):
        write_bnt(tmp_path / "f.bnt", points, image, "x" * 65536)
    with pytest.raises(ValueError, match="dimension"):
        write_bnt(tmp_path / "f.bnt", points, image[:1], "a.png")
    assert not (tmp_path / "f.bnt").exists()
