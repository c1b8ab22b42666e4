"""Landmark files: rows of numbers, or names with points."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.meshes.landmarks import read_landmarks, write_bnd
from pipeline.meshes.mesh import MeshError


def _read(tmp_path: Path, name: str, text: str) -> np.ndarray:
    (tmp_path / name).write_text(text)
    return read_landmarks(tmp_path / name)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(0, 90, (83, 3))
    write_bnd(tmp_path / "f.bnd", np.arange(83) * 7, points)
    again = read_landmarks(tmp_path / "f.bnd")
    assert again.dtype == np.float32 and again.shape == (83, 3)
    np.testing.assert_allclose(again, points, atol=5.01e-5)
    assert (tmp_path / "f.bnd").read_text().splitlines()[2].startswith("14 ")


def test_indices_and_points_must_be_as_many(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        write_bnd(tmp_path / "f.bnd", [1], np.zeros((2, 3)))


def test_bnd_rows_begin_with_the_vertex(tmp_path: Path) -> None:
    points = _read(tmp_path, "f.bnd", "12\t1.5 -2 3e1\r\n\n13 \t4 5 6\n")
    assert points.tolist() == [[1.5, -2, 30], [4, 5, 6]]


def test_text_rows_are_points_and_may_be_missing(tmp_path: Path) -> None:
    points = _read(tmp_path, "f_lmk68.TXT", "1 2 3\nnan nan nan\n")
    np.testing.assert_array_equal(points, [[1, 2, 3], [np.nan] * 3])


def test_lm3_has_a_name_before_each_point(tmp_path: Path) -> None:
    text = "# Bosphorus\n2 landmarks:\nOuter left eye corner\n1 2 3\n\nNose tip\n-4 5.5 6\n"
    assert _read(tmp_path, "f.lm3", text).tolist() == [[1, 2, 3], [-4, 5.5, 6]]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("f.bnd", "1 2 3 4\n1 2 3\n", "line 2: '1 2 3' is not 4 numbers"),
        ("f.txt", "1 2 3\n\n1 2 x\n", "line 3: '1 2 x' is not 3 numbers"),
        ("f.txt", "1 2 inf\n", "line 1: '1 2 inf' is not 3 numbers"),
        ("f.txt", "1 2 1e39\n", "line 1: '1 2 1e39' is not 3 numbers"),
        ("f.txt", "\n \n", "has no landmarks"),
        ("f.txt", "", "is empty"),
        ("f.lm3", "nose\n1 2\n", "line 2: '1 2' is not 3 numbers"),
        ("f.lm3", "nose\n1 2 3\n4 5 6\n", "line 3: a point has no name before it"),
        ("f.lm3", "nose\n1 2 3\nchin\n", "ends after the name 'chin'"),
        ("f.csv", "1 2 3\n", r"has no suffix of landmarks; those are .bnd, .txt, .lm3"),
        ("f.txt", "1 2 3\n" * 200_000, "is 1200000 bytes; landmarks take at most"),
        ("f.bnd", "\x00\xff\x00", "line 1"),
    ],
)
def test_a_malformed_file_says_what_is_wrong_and_where(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(MeshError, match=problem) as caught:
        _read(tmp_path, name, text)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match=r"f\.bnd: cannot be read: No such file"):
        read_landmarks(tmp_path / "f.bnd")
