"""Landmark files: rows of numbers, or names with points."""

from pathlib import Path

import numpy as np
import pytest

from smile_pipe.pipeline.landmarks.files import LM3_NAMES, read_landmarks, read_landmarks_2d, write_bnd, write_lm3
from smile_pipe.pipeline.meshes.mesh import MeshError


def _read(tmp_path: Path, name: str, text: str) -> np.ndarray:
    (tmp_path / name).write_text(text)
    return read_landmarks(tmp_path / name)


def test_round_trip(tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(0, 90, (83, 3))
    write_bnd(tmp_path / "f.bnd", np.arange(83) * 7, points)
    again = read_landmarks(tmp_path / "f.bnd")
    assert again.dtype == np.float32 and again.shape == (83, 3)
    np.testing.assert_allclose(again, points, atol=5.01e-5)
    assert (tmp_path / "f.bnd").read_text().splitlines()[2].startswith("14 ")


def test_indices_and_points_must_match(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        write_bnd(tmp_path / "f.bnd", [1], np.zeros((2, 3)))


def test_bnd_rows_start_with_the_vertex(tmp_path: Path) -> None:
    points = _read(tmp_path, "f.bnd", "12\t1.5 -2 3e1\r\n\n13 \t4 5 6\n")
    assert points.tolist() == [[1.5, -2, 30], [4, 5, 6]]


def test_text_rows_are_points_and_may_be_missing(tmp_path: Path) -> None:
    points = _read(tmp_path, "f_lmk68.TXT", "1 2 3\nnan nan nan\n")
    np.testing.assert_array_equal(points, [[1, 2, 3], [np.nan] * 3])


def test_lm3_points_have_a_fixed_order(tmp_path: Path) -> None:
    text = "# Bosphorus\n2 landmarks:\nChin middle\n1 2 3\n\nOuter left eye brow\n-4 5.5 6\nLeft ear lobe\n7 7 7\n"
    points = _read(tmp_path, "f.lm3", text)
    assert points.shape == (22, 3)
    assert points[[0, 21]].tolist() == [[-4, 5.5, 6], [1, 2, 3]]
    assert np.isnan(points[1:21]).all()


def test_each_of_22_names_has_its_position(tmp_path: Path) -> None:
    assert len(set(LM3_NAMES)) == 22
    points = np.random.default_rng(0).normal(0, 90, (22, 3))
    points[[3, 17]] = np.nan
    shuffled = np.random.default_rng(1).permutation(22)
    write_lm3(tmp_path / "f.lm3", points[shuffled], [LM3_NAMES[i] for i in shuffled])
    np.testing.assert_allclose(read_landmarks(tmp_path / "f.lm3"), points, atol=5.01e-5)
    assert (tmp_path / "f.lm3").read_text().startswith("20 landmarks:\n")


def test_filler_words_in_names_are_optional(tmp_path: Path) -> None:
    points = _read(tmp_path, "f.lm3", "Middle left eyebrow\n1 2 3\nMIDDLE OF THE RIGHT EYE BROW\n4 5 6\n")
    assert points[[1, 4]].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_unknown_names_keep_the_file_order(tmp_path: Path) -> None:
    text = "recorded by 7\nsomebody\n3 landmarks:\nNose tip\n1 2 3\nWart\n-4 5.5 6\nRight ear lobe\nnan nan nan\n"
    points = _read(tmp_path, "f.lm3", text)
    np.testing.assert_array_equal(points, [[1, 2, 3], [-4, 5.5, 6], [np.nan] * 3])


@pytest.mark.parametrize(
    "text",
    [
        "Nose tip\n310.5 400\nChin middle\n300 600.25\n",
        "# image\n\n2 landmarks:\n\nLabels:\nNose tip\nChin middle\n\n2D coordinates:\n310.5 400\n300 600.25\n",
    ],
)
def test_lm2_points_after_each_name_or_after_all_names(tmp_path: Path, text: str) -> None:
    (tmp_path / "f.lm2").write_text(text)
    points = read_landmarks_2d(tmp_path / "f.lm2")
    assert points.shape == (22, 2) and points.dtype == np.float32
    assert points[[13, 21]].tolist() == [[310.5, 400], [300, 600.25]]
    assert np.isnan(np.delete(points, [13, 21], axis=0)).all()


def test_lm2_round_trip(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 1000, (22, 2))
    write_lm3(tmp_path / "f.lm2", points)
    np.testing.assert_allclose(read_landmarks_2d(tmp_path / "f.lm2"), points, atol=1e-4)


def test_image_landmarks_are_not_scan_landmarks(tmp_path: Path) -> None:
    write_lm3(tmp_path / "f.lm2", np.zeros((22, 2)))
    with pytest.raises(MeshError, match=r"f\.lm2: not landmarks of a scan: .* use read_landmarks_2d"):
        read_landmarks(tmp_path / "f.lm2")
    with pytest.raises(MeshError, match=r"f\.lm3: unknown format of landmarks in an image"):
        read_landmarks_2d(tmp_path / "f.lm3")


def test_names_and_points_must_match(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        write_lm3(tmp_path / "f.lm3", np.zeros((2, 3)), ["Nose tip"])


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("f.bnd", "1 2 3 4\n1 2 3\n", "line 2: '1 2 3' is not 4 numbers"),
        ("f.txt", "1 2 3\n\n1 2 x\n", "line 3: '1 2 x' is not 3 numbers"),
        ("f.txt", "1 2 inf\n", "line 1: '1 2 inf' is not 3 numbers"),
        ("f.txt", "1 2 1e39\n", "line 1: '1 2 1e39' is not 3 numbers"),
        ("f.txt", "\n \n", "no landmarks"),
        ("f.txt", "", "empty file: 0 bytes"),
        ("f.lm3", "nose\n1 2\n", "line 2: '1 2' is not 3 numbers"),
        ("f.lm3", "nose\n1 2 3\n4 5 6\n", "line 3: missing name before the point"),
        ("f.lm3", "nose\n1 2 3\nchin\n", "truncated file: no point for the name 'chin'"),
        ("f.lm3", "Nose tip\n1 2 3\nnose tip\n4 5 6\n", "line 4: duplicate name 'nose tip'"),
        ("f.lm3", "2 landmarks:\n", "no landmarks"),
        ("f.csv", "1 2 3\n", r"unknown landmark format; supported suffixes are .bnd, .txt, .lm3"),
        ("f.txt", "1 2 3\n" * 200_000, "file too large: 1200000 bytes; the limit for landmarks is"),
        ("f.bnd", "\x00\xff\x00", "line 1"),
    ],
)
def test_malformed_file_is_described_with_its_line(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(MeshError, match=problem) as caught:
        _read(tmp_path, name, text)
    assert str(caught.value).startswith(str(tmp_path / name))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match=r"f\.bnd: cannot be read: No such file"):
        read_landmarks(tmp_path / "f.bnd")
