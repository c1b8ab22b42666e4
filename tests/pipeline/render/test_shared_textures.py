"""Textures that many scans share are decoded once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile_pipe.pipeline.datasets.adapter import ScanFiles
from smile_pipe.pipeline.datasets.data_dir import DataDir
from smile_pipe.pipeline.render import reading
from smile_pipe.pipeline.render.reading import SourceReader

QUAD = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """A list that gets the name of each decoded texture; the cache is empty at first."""
    names: list[str] = []
    read = reading.read_texture

    def noted(path: Path) -> np.ndarray:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(reading, "read_texture", noted)
    monkeypatch.setattr(reading, "_TEXTURES", {})
    return names


def scan(root: Path, name: str, texture: str) -> ScanFiles:
    (root / f"{name}.obj").write_text(QUAD)
    return ScanFiles(f"{name}.obj", texture)


def picture(root: Path, name: str, value: int, side: int = 4) -> str:
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(root / name)
    return name


def test_scans_with_equal_textures_share_the_pixels(tmp_path, decoded):
    names = [picture(tmp_path, "a.png", 10), picture(tmp_path, "b.png", 20), picture(tmp_path, "copy.png", 10)]
    scans = [scan(tmp_path, str(n), names[n % 3]) for n in range(6)]
    meshes = [SourceReader(DataDir(tmp_path)).read(files) for files in scans]
    assert decoded == ["a.png", "b.png"]
    assert [mesh.texture[0, 0, 0] for mesh in meshes] == [10, 20, 10, 10, 20, 10]
    assert not any(mesh.texture.flags.writeable for mesh in meshes)


def test_a_changed_texture_is_decoded_again(tmp_path, decoded):
    files = scan(tmp_path, "face", picture(tmp_path, "a.png", 10))
    assert SourceReader(DataDir(tmp_path)).read(files).texture[0, 0, 0] == 10
    picture(tmp_path, "a.png", 30)
    assert SourceReader(DataDir(tmp_path)).read(files).texture[0, 0, 0] == 30


def test_the_texture_cache_is_bounded(tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(reading, "MAX_TEXTURES_BYTES", 2 * 4 * 4 * 3)
    names = [picture(tmp_path, f"{n}.png", n) for n in range(3)] + [picture(tmp_path, "large.png", 9, side=40)]
    scans = [scan(tmp_path, f"face{n}", name) for n, name in enumerate(names)]
    for number in (0, 1, 2, 1, 2, 3, 3, 0):
        SourceReader(DataDir(tmp_path)).read(scans[number])
    assert decoded == ["0.png", "1.png", "2.png", "large.png", "large.png", "0.png"]
    assert sum(texture.nbytes for texture in reading._TEXTURES.values()) == 96
