"""Textures: four formats, detected by content, with a size limit that is checked before decoding."""

import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile_pipe.pipeline.meshes import paths
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.texture import read_texture, resolve_texture_name

_PIXELS = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_formats_keep_pixels(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(_PIXELS).save(tmp_path / f"t.{suffix}")
    texture = read_texture(tmp_path / f"t.{suffix}")
    assert texture.dtype == np.uint8 and np.array_equal(texture, _PIXELS)


def test_format_is_detected_by_content(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 16, 3), 90, np.uint8)).save(tmp_path / "t.bmp", format="JPEG")
    assert abs(read_texture(tmp_path / "t.bmp").astype(int) - 90).max() <= 2
    assert read_texture(tmp_path / "t.bmp").shape == (8, 16, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(_PIXELS).convert(mode)
    image.save(tmp_path / "t.tif")
    assert np.array_equal(read_texture(tmp_path / "t.tif"), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_high_byte(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256, 65535]], np.uint16)).save(tmp_path / "t.png")
    assert read_texture(tmp_path / "t.png").tolist() == [[[0] * 3, [1] * 3, [255] * 3]]


def test_declared_huge_image_is_rejected(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 8193, 8192, 8, 2, 0, 0, 0)
    pixels_and_end = chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "t.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels_and_end)
    with pytest.raises(MeshError, match="image too large: 8193 x 8192 pixels; the limit is 67108864"):
        read_texture(tmp_path / "t.png")
    header = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    (tmp_path / "t.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels_and_end)
    with pytest.raises(MeshError, match=r"t\.png: "):
        read_texture(tmp_path / "t.png")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "jpg"])
def test_too_large_file_is_rejected_before_reading(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    Image.fromarray(_PIXELS).save(path)
    os.truncate(path, paths.MAX_BYTES + 1)
    tracemalloc.start()
    with pytest.raises(MeshError, match=f"file too large: {paths.MAX_BYTES + 1} bytes; the limit is {paths.MAX_BYTES}"):
        read_texture(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


class TestLarge:
    """Textures finer than any view are downscaled."""

    @pytest.fixture(autouse=True)
    def small_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("smile_pipe.pipeline.meshes.texture.MAX_KEPT_PIXELS", 16 * 16)

    @staticmethod
    def means(pixels: np.ndarray, side: int) -> np.ndarray:
        """The mean of each square of `side` pixels."""
        height, width = pixels.shape[0] // side, pixels.shape[1] // side
        return pixels.reshape(height, side, width, side, 3).mean(axis=(1, 3))

    @pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "npz"])
    @pytest.mark.parametrize(
        ("shape", "side"), [((16, 16), 1), ((8, 32), 1), ((18, 16), 2), ((32, 32), 2), ((33, 33), 3)]
    )
    def test_pixel_is_mean_of_replaced_pixels(
        self, tmp_path: Path, suffix: str, shape: tuple[int, int], side: int
    ) -> None:
        pixels = np.random.default_rng(2).integers(0, 256, (*shape, 3), np.uint8)
        path = tmp_path / f"t.{suffix}"
        if suffix == "npz":
            faces = np.array([[0, 1, 2]])
            np.savez(path, vertices=np.eye(3), faces=faces, texture=pixels, uvs=np.eye(3)[:, :2], face_uvs=faces)
            texture = read_mesh(path).texture
        else:
            Image.fromarray(pixels).save(path)
            texture = read_texture(path)
        assert texture.dtype == np.uint8 and abs(texture - self.means(pixels, side)).max() < 0.6
        assert side > 1 or np.array_equal(texture, pixels)

    @pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
    def test_other_modes_become_rgb_first(self, tmp_path: Path, mode: str) -> None:
        pixels = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
        image = Image.fromarray(pixels).convert(mode)
        image.save(tmp_path / "t.tif")
        assert abs(read_texture(tmp_path / "t.tif") - self.means(np.asarray(image.convert("RGB")), 2)).max() <= 0.5

    def test_sixteen_bit_grey(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(4).integers(0, 65536, (32, 32), np.uint16)
        Image.fromarray(pixels).save(tmp_path / "t.png")
        expected = self.means(np.repeat((pixels >> 8)[..., None], 3, axis=2), 2)
        assert abs(read_texture(tmp_path / "t.png") - expected).max() <= 0.5

    @pytest.mark.parametrize(("side", "kept"), [(16, 16), (18, 9), (31, 16), (32, 16), (48, 12), (64, 16)])
    def test_jpeg_is_decoded_at_reduced_size(self, tmp_path: Path, side: int, kept: int) -> None:
        ramp = np.linspace(0, 255, side).astype(np.uint8)
        Image.fromarray(np.stack([np.tile(ramp, (side, 1))] * 3, axis=2)).save(tmp_path / "t.jpg", quality=95)
        texture = read_texture(tmp_path / "t.jpg")
        assert texture.shape == (kept, kept, 3)
        assert abs(texture[:, :, 0] - np.linspace(0, 255, kept)).max() < 12


def test_large_texture_takes_bounded_memory(tmp_path: Path) -> None:
    Image.new("RGB", (8192, 8192), (90, 80, 70)).save(tmp_path / "t.jpg")
    code = """
import sys
from pathlib import Path
from smile_pipe.pipeline.meshes.texture import read_texture
def most():
    return next(int(line.split()[1]) >> 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
before, kept = most(), []
for _ in range(4):
    kept.append(read_texture(Path(sys.argv[1])))
print(kept[0].shape, most() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "t.jpg")], capture_output=True, text=True, timeout=60
    )
    shape, _, megabytes = done.stdout.rpartition(" ")
    assert shape == "(4096, 4096, 3)", done.stderr
    assert int(megabytes) < 4 * 48 + 150


def test_damaged_missing_and_other_files_are_mesh_errors(tmp_path: Path) -> None:
    Image.fromarray(_PIXELS).save(tmp_path / "good.png")
    Image.fromarray(_PIXELS).save(tmp_path / "foreign.gif")
    (tmp_path / "cut.png").write_bytes((tmp_path / "good.png").read_bytes()[:-40])
    (tmp_path / "empty.png").touch()
    for name in ("cut.png", "empty.png", "foreign.gif", "missing.png", "."):
        with pytest.raises(MeshError) as caught:
            read_texture(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "jpg"])
def test_damaged_image_gives_pixels_or_mesh_error(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(_PIXELS.repeat(4, 0)).save(tmp_path / f"t.{suffix}")
    good = (tmp_path / f"t.{suffix}").read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        bad = bytearray(good[: rng.integers(1, len(good) + 1)])
        for _ in range(rng.integers(0, 4)):
            bad[rng.integers(len(bad))] = rng.integers(256)
        (tmp_path / f"bad.{suffix}").write_bytes(bad)
        try:
            texture = read_texture(tmp_path / f"bad.{suffix}")
        except MeshError:
            continue
        assert texture.dtype == np.uint8 and texture.shape[2:] == (3,)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """root/ with a mesh at a/b/face.obj; skin.png in its folder, one folder up and at the top; secret.png outside."""
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    for path in ("root/a/b/skin.png", "root/a/skin.png", "root/skin.png", "root/a/b/my skin.png", "secret.png"):
        (tmp_path / path).touch()
    (tmp_path / "rooted").mkdir()
    (tmp_path / "rooted" / "secret.png").touch()
    return root


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("skin.png", "a/b/skin.png"),
        ("./skin.png", "a/b/skin.png"),
        ("my skin.png", "a/b/my skin.png"),
        ("../skin.png", "a/skin.png"),
        ("..\\..\\skin.png", "skin.png"),
        (".//../b\\skin.png", "a/b/skin.png"),
        ("gone.png", "a/b/gone.png"),
        ("gone/../skin.png", "a/b/skin.png"),
        ("tex/gone.png", "a/b/tex/gone.png"),
        ("..skin.png", "a/b/..skin.png"),
        ("größe.png", "a/b/größe.png"),
    ],
)
def test_texture_name_is_relative_to_the_mesh(data_dir: Path, name: str, found: str) -> None:
    assert resolve_texture_name(data_dir, "a/b/face.obj", name) == found


def test_texture_name_of_mesh_at_the_top(data_dir: Path) -> None:
    assert resolve_texture_name(data_dir, "face.obj", "skin.png") == "skin.png"
    assert resolve_texture_name(data_dir, "face.obj", "../root/skin.png") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../",
        "../../..",
        "../../../secret.png",
        "..\\..\\..\\secret.png",
        "../../../rooted/secret.png",
        "../../../root/skin.png",
        "x/../../../../secret.png",
        "/etc/passwd",
        "\\\\server\\share\\skin.png",
        "C:\\skin.png",
        "c:skin.png",
        "http://example.org/skin.png",
        "file:skin.png",
        "data:image/png;base64,AAAA",
        "skin.png\0",
        "\0",
        "\ud800.png",
        "x" * 5000,
    ],
)
def test_texture_name_cannot_leave_the_data_directory(data_dir: Path, name: str) -> None:
    assert resolve_texture_name(data_dir, "a/b/face.obj", name) is None


def test_links_must_stay_inside_the_data_directory(data_dir: Path) -> None:
    run_in_background = data_dir / "a" / "b"
    (run_in_background / "in.png").symlink_to(data_dir / "skin.png")
    (run_in_background / "out.png").symlink_to(data_dir.parent / "secret.png")
    (run_in_background / "dangling.png").symlink_to(data_dir.parent / "gone.png")
    (run_in_background / "loop.png").symlink_to("loop.png")
    (run_in_background / "up").symlink_to(data_dir.parent)
    names = ("in.png", "out.png", "dangling.png", "loop.png", "up/secret.png", "up/root/skin.png")
    found = [resolve_texture_name(data_dir, "a/b/face.obj", name) for name in names]
    assert found == ["a/b/in.png", None, None, None, None, "a/b/up/root/skin.png"]


def test_data_directory_may_be_a_link(data_dir: Path) -> None:
    link = data_dir.parent / "link"
    link.symlink_to(data_dir)
    assert resolve_texture_name(link, "a/b/face.obj", "skin.png") == "a/b/skin.png"


def test_only_regular_files_are_textures(data_dir: Path) -> None:
    os.mkfifo(data_dir / "a" / "b" / "pipe.png")
    (data_dir / "a" / "b" / "skin.png").chmod(0)
    assert resolve_texture_name(data_dir, "a/b/face.obj", "pipe.png") is None
    assert resolve_texture_name(data_dir, "a/b/face.obj", "../b") is None
    assert resolve_texture_name(data_dir, "a/b/face.obj", "skin.png") == "a/b/skin.png"
