"""The files that meshes name: each is a source of its scan, there or not, and changing one renders what uses it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.small_gltf import SmallGltf, data_uri
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import ScanFiles
from smile_pipe.pipeline.datasets.data_dir import open_data_dir
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.reading import SourceReader
from smile_pipe.shards.index import read_index

OPTIONS = {"size": 16, "channels": ("rgb",), "samples_per_shard": 8}
FACE = "v -50 -50 0\nv 50 -50 0\nv 0 50 10\nvt 0 0\nvt 1 0\nvt .5 1\nf 1/1 2/2 3/3\n"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render in this process, which is quicker."""
    monkeypatch.setattr(render, "_in_process", lambda config: True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An OBJ with a material, a glTF with a buffer and an image, and a plain OBJ; each texture is grey."""
    root = tmp_path / "data"
    (root / "gltf").mkdir(parents=True)
    (root / "marked.obj").write_text("mtllib parts/skin.mtl\nusemtl skin\n" + FACE)
    (root / "plain.obj").write_text(FACE)
    (root / "parts").mkdir()
    (root / "parts/skin.mtl").write_text("newmtl skin\nmap_Kd one.png\n")
    for name, grey in (("parts/one.png", 100), ("parts/two.png", 200), ("gltf/skin.png", 100)):
        picture(root / name, grey)
    gltf(root / "gltf/face.gltf", "face.bin")
    rows = ["path,subject,expression", "marked.obj,a,HA", "plain.obj,a,SA", "gltf/face.gltf,b,HA"]
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def picture(path: Path, grey: int) -> None:
    Image.fromarray(np.full((8, 8, 3), grey, np.uint8)).save(path)


def gltf(path: Path, uri: str) -> None:
    small = SmallGltf()
    points = np.array([[-0.05, -0.05, 0], [0.05, -0.05, 0], [0, 0.05, 0.01]], np.float32)
    image = small.add("images", uri="skin.png")
    material = small.material(small.add("textures", source=image))
    small.show(
        {"material": material},
        POSITION=small.array(points),
        TEXCOORD_0=small.array([[0, 0], [1, 0], [0.5, 1]]),
    )
    small.write(path, uri)
    (path.parent / "face.bin").write_bytes(small.binary)


def config(root: Path) -> RenderConfig:
    return RenderConfig(data_dir=root, out=root.parent / "out", **OPTIONS)


def named(root: Path) -> dict[str, list[str]]:
    """The files that meshes name, by sample."""
    rows = read_index(root.parent / "out/index.parquet", "index")
    return {row.key: [file.path for file in row.sources if file.named] for row in rows}


def to_render(root: Path) -> list[str]:
    return [sample.key for task in render.plan(config(root)).tasks for sample in task.samples]


def test_every_file_that_is_opened_is_recorded(root):
    render.run(config(root))
    assert named(root) == {
        "gltf-face": ["gltf/face.bin", "gltf/skin.png"],
        "marked": ["parts/one.png", "parts/skin.mtl"],
        "plain": [],
    }
    assert render.plan(config(root)).is_done


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("parts/skin.mtl", "marked"),
        ("parts/one.png", "marked"),
        ("gltf/face.bin", "gltf-face"),
        ("gltf/skin.png", "gltf-face"),
    ],
)
def test_changing_one_renders_the_scan_that_uses_it(root, path, key):
    render.run(config(root))
    (root / path).write_bytes((root / path).read_bytes() + b"\n")
    assert to_render(root) == [key]
    render.run(config(root))
    assert render.plan(config(root)).is_done


def test_another_texture_in_a_material_is_shown(root):
    render.run(config(root))
    before = (root.parent / "out/shards/000000.tar").read_bytes()
    (root / "parts/skin.mtl").write_text("newmtl skin\nmap_Kd two.png\n")
    render.run(config(root))
    assert (root.parent / "out/shards/000000.tar").read_bytes() != before
    assert named(root)["marked"] == ["parts/skin.mtl", "parts/two.png"]


def test_the_arrival_of_a_missing_one_is_noticed(root):
    (root / "parts/skin.mtl").rename(root / "parts/later.mtl")
    (root / "gltf/face.bin").rename(root / "gltf/later.bin")
    assert render.run(config(root)).num_failures == 1
    assert named(root)["marked"] == ["parts/skin.mtl"] and render.plan(config(root)).is_done
    (root / "parts/later.mtl").rename(root / "parts/skin.mtl")
    assert to_render(root) == ["marked"]
    (root / "gltf/later.bin").rename(root / "gltf/face.bin")
    assert sorted(to_render(root)) == ["gltf-face", "marked"]


def test_a_material_counts_only_where_no_texture_is_known(root):
    picture(root / "marked.png", 50)
    render.run(config(root))
    assert named(root)["marked"] == []


def test_the_shape_alone_needs_buffers_and_no_materials(root):
    with open_data_dir(root) as files:
        reader = SourceReader(files)
        reader.read_shape(ScanFiles("marked.obj"))
        reader.read_shape(ScanFiles("gltf/face.gltf"))
    assert list(reader.sources) == ["marked.obj", "gltf/face.gltf", "gltf/face.bin"]


class TestFinding:
    @pytest.mark.parametrize("name", ["../skin.mtl", "/etc/passwd", "a/../../skin.mtl", "http://x/y", "", "a\0b", "."])
    def test_nothing_beyond_the_folder_of_the_mesh_is_looked_for(self, tmp_path, name):
        told: list[str] = []
        (tmp_path / "a").mkdir()
        assert SidecarFiles(tmp_path, "a/face.obj", told.append).find(name) is None
        assert told == []

    @pytest.mark.parametrize(("name", "path"), [("b.mtl", "a/b.mtl"), ("x\\b.mtl", "a/x/b.mtl"), ("./b", "a/b")])
    def test_who_asked_to_be_told_is_told_before_it_is_looked_for(self, tmp_path, name, path):
        told: list[str] = []
        assert SidecarFiles(tmp_path, "a/face.obj", told.append).find(name) == tmp_path / path
        assert told == [path]

    def test_a_mesh_that_is_read_by_itself_finds_those_beside_it(self, root):
        assert read_mesh(root / "marked.obj").texture_name == "parts/one.png"
        assert len(read_mesh(root / "gltf/face.gltf").vertices) == 3

    def test_a_buffer_that_is_missing_is_named(self, root):
        (root / "gltf/face.bin").unlink()
        with pytest.raises(MeshError, match=r"buffer at 'face\.bin', which cannot be read"):
            read_mesh(root / "gltf/face.gltf")


def test_buffers_inside_the_file_are_no_companions(root):
    gltf(root / "gltf/face.gltf", "face.bin")
    text = (root / "gltf/face.gltf").read_text()
    inside = data_uri((root / "gltf/face.bin").read_bytes())
    (root / "gltf/face.gltf").write_text(text.replace('"face.bin"', f'"{inside}"'))
    (root / "gltf/skin.png").unlink()
    (sample,) = [sample for sample in find_samples(root, "folder").samples if sample.key == "gltf-face"]
    with open_data_dir(root) as files:
        reader = SourceReader(files)
        reader.read(sample.frames[0])
    assert list(reader.sources) == ["gltf/face.gltf", "gltf/skin.png"]
