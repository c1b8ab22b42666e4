"""Files that meshes refer to: each is a recorded input of its scan, and a change renders the scans that use it."""

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
from smile_pipe.pipeline.meshes.vrml import write_wrl
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.reading import SourceReader
from smile_pipe.shards.index import read_index

OPTIONS = {"size": 16, "channels": ("rgb",), "samples_per_shard": 8}
FACE = "v -50 -50 0\nv 50 -50 0\nv 0 50 10\nvt 0 0\nvt 1 0\nvt .5 1\nf 1/1 2/2 3/3\n"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render in this process, which is faster."""
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


def gltf(path: Path, uri: str, image_uri: str = "skin.png") -> None:
    small = SmallGltf()
    points = np.array([[-0.05, -0.05, 0], [0.05, -0.05, 0], [0, 0.05, 0.01]], np.float32)
    image = small.add("images", uri=image_uri)
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
    """The files that meshes refer to, by sample."""
    rows = read_index(root.parent / "out/index.parquet", "index")
    return {row.key: [file.path for file in row.sources if file.named] for row in rows}


def to_render(root: Path) -> list[str]:
    return [sample.key for task in render.plan(config(root)).tasks for sample in task.samples]


def test_every_opened_file_is_recorded(root):
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
def test_changed_sidecar_rerenders_only_its_scan(root, path, key):
    render.run(config(root))
    (root / path).write_bytes((root / path).read_bytes() + b"\n")
    assert to_render(root) == [key]
    render.run(config(root))
    assert render.plan(config(root)).is_done


def test_changed_texture_of_material_is_rendered(root):
    render.run(config(root))
    before = (root.parent / "out/shards/000000.tar").read_bytes()
    (root / "parts/skin.mtl").write_text("newmtl skin\nmap_Kd two.png\n")
    render.run(config(root))
    assert (root.parent / "out/shards/000000.tar").read_bytes() != before
    assert named(root)["marked"] == ["parts/skin.mtl", "parts/two.png"]


def test_added_sidecar_rerenders_its_scan(root):
    (root / "parts/skin.mtl").rename(root / "parts/later.mtl")
    (root / "gltf/face.bin").rename(root / "gltf/later.bin")
    assert render.run(config(root)).num_failures == 1
    assert named(root)["marked"] == ["parts/skin.mtl", "skin.mtl"] and render.plan(config(root)).is_done
    (root / "parts/later.mtl").rename(root / "parts/skin.mtl")
    assert to_render(root) == ["marked"]
    (root / "gltf/later.bin").rename(root / "gltf/face.bin")
    assert sorted(to_render(root)) == ["gltf-face", "marked"]


def read(root: Path, scan: ScanFiles) -> tuple[int | None, list[str]]:
    """The grey of the texture, and the files that were recorded."""
    with open_data_dir(root) as files:
        reader = SourceReader(files)
        mesh = reader.read(scan)
    return None if mesh.texture is None else int(mesh.texture[0, 0, 0]), list(reader.sources)


class TestOrder:
    """The image that the mesh names, then one of the name of the mesh; one of a labels table before both."""

    @pytest.mark.parametrize("suffix", [".obj", ".wrl", ".ply", ".gltf"])
    def test_named_image_comes_before_one_of_the_same_name(self, root, suffix):
        mesh = textured_meshes(root)[suffix]
        picture(root / "same-name.png", 50)
        assert read(root, ScanFiles(mesh, "same-name.png"))[0] == 200
        assert read(root, ScanFiles(mesh, "same-name.png", is_texture_chosen=True))[0] == 50
        (root / "two.png").unlink()
        assert read(root, ScanFiles(mesh, "same-name.png")) == (50, [mesh, "same-name.png", *named_by(mesh), "two.png"])
        assert read(root, ScanFiles(mesh))[0] is None

    def test_chosen_image_replaces_an_embedded_one(self, root):
        small = SmallGltf()
        uvs = small.array([[0, 0], [1, 0], [0.5, 1]])
        small.show(
            {"material": small.image(np.full((4, 4, 3), 9, np.uint8))}, POSITION=small.array(np.eye(3)), TEXCOORD_0=uvs
        )
        small.write(root / "face.glb")
        np.savez(
            root / "face.npz",
            vertices=np.eye(3),
            faces=[[0, 1, 2]],
            uvs=np.eye(3)[:, :2],
            face_uvs=[[0, 1, 2]],
            texture=np.full((4, 4, 3), 9, np.uint8),
        )
        picture(root / "same-name.png", 50)
        for mesh in ("face.glb", "face.npz"):
            assert read(root, ScanFiles(mesh, "same-name.png"))[0] == 9
            assert read(root, ScanFiles(mesh, "same-name.png", is_texture_chosen=True))[0] == 50

    def test_labels_table_chooses_only_in_its_own_column(self, root):
        picture(root / "marked.png", 50)
        (sample,) = (sample for sample in find_samples(root, "folder").samples if sample.key == "marked")
        assert sample.frames[0] == ScanFiles("marked.obj", "marked.png")
        (root / "labels.csv").write_text("path,subject,expression,texture\nmarked.obj,a,HA,marked.png\n")
        (sample,) = find_samples(root, "folder").samples
        assert sample.frames[0] == ScanFiles("marked.obj", "marked.png", is_texture_chosen=True)

    def test_choice_of_an_image_renders_again(self, root):
        picture(root / "marked.png", 50)
        render.run(config(root))
        text = (root / "labels.csv").read_text().replace("expression", "expression,texture")
        (root / "labels.csv").write_text(text.replace("marked.obj,a,HA", "marked.obj,a,HA,marked.png"))
        assert to_render(root) == ["marked"]


def textured_meshes(root: Path) -> dict[str, str]:
    """A mesh of each format that names two.png, of grey 200."""
    picture(root / "two.png", 200)
    (root / "two.mtl").write_text("newmtl skin\nmap_Kd two.png\n")
    (root / "two.obj").write_text("mtllib two.mtl\nusemtl skin\n" + FACE)
    (root / "two.ply").write_text(
        "ply\nformat ascii 1.0\ncomment TextureFile two.png\nelement vertex 3\n"
        + "".join(f"property float {name}\n" for name in "xyzst")
        + "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
        + "0 0 0 0 0\n1 0 0 1 0\n0 1 0 0 1\n3 0 1 2\n"
    )
    write_wrl(root / "two.wrl", read_mesh(root / "two.obj"), "two.png")
    gltf(root / "two.gltf", "face.bin", "two.png")
    return {path.suffix: path.name for path in root.glob("two.*") if path.suffix not in (".png", ".mtl")}


def named_by(mesh: str) -> list[str]:
    """The file that a mesh needs to name its image or its points."""
    return {"two.obj": ["two.mtl"], "two.gltf": ["face.bin"]}.get(mesh, [])


def test_shape_needs_buffers_but_no_materials(root):
    with open_data_dir(root) as files:
        reader = SourceReader(files)
        reader.read_shape(ScanFiles("marked.obj"))
        reader.read_shape(ScanFiles("gltf/face.gltf"))
    assert list(reader.sources) == ["marked.obj", "gltf/face.gltf", "gltf/face.bin"]


class TestFinding:
    @pytest.mark.parametrize("name", ["../skin.mtl", "/etc/passwd", "a/../../skin.mtl", "http://x/y", "", "a\0b", "."])
    def test_names_outside_the_mesh_folder_are_not_looked_up(self, tmp_path, name):
        report: list[str] = []
        (tmp_path / "a").mkdir()
        assert SidecarFiles(tmp_path, "a/face.obj", report.append).find(name) is None
        assert report == []

    @pytest.mark.parametrize(("name", "path"), [("b.mtl", "a/b.mtl"), ("x\\b.mtl", "a/x/b.mtl"), ("./b", "a/b")])
    def test_on_access_is_called_before_the_lookup(self, tmp_path, name, path):
        report: list[str] = []
        assert SidecarFiles(tmp_path, "a/face.obj", report.append).find(name) == tmp_path / path
        assert report == [path]

    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("skin.png", "a/skin.png"),
            ("maps/eyes.png", "a/maps/eyes.png"),
            ("maps\\EYES.Png", "a/maps/eyes.png"),
            ("../up.png", "up.png"),
            ("../UP.png", "up.png"),
            ("C:\\scans\\Skin.PNG", "a/skin.png"),
            ("/home/me/skin.png", "a/skin.png"),
            ("\\\\server\\share\\skin.png", "a/skin.png"),
            ("http://localhost/skin.png", "a/skin.png"),
            ("gone/skin.png", "a/skin.png"),
            ("../../outside/skin.png", "a/skin.png"),
            ("two.png", "a/TWO.png"),
            ("eyes.png", None),
            ("../../outside/secret.png", None),
            ("link.png", None),
            ("LINK.png", None),
            ("maps", None),
            ("data:image/png;base64,AA/skin.png", None),
            ("a\0b", None),
            ("", None),
            ("..", None),
        ],
    )
    def test_images_are_found_by_names_of_other_machines(self, tmp_path, name, found):
        root = tmp_path / "data"
        for path in ("a/skin.png", "a/maps/eyes.png", "up.png", "a/TWO.png", "a/tWo.png", "../outside/secret.png"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
        (root / "a/link.png").symlink_to(tmp_path / "outside/secret.png")
        report: list[str] = []
        assert SidecarFiles(root, "a/face.obj", report.append).search(name) == found
        assert report[-1:] == [found] if found else "outside" not in "".join(report)

    def test_single_mesh_finds_files_in_its_folder(self, root):
        assert read_mesh(root / "marked.obj").texture_name == "parts/one.png"
        assert len(read_mesh(root / "gltf/face.gltf").vertices) == 3

    def test_missing_buffer_is_named(self, root):
        (root / "gltf/face.bin").unlink()
        with pytest.raises(MeshError, match=r"buffer 'face\.bin': cannot be read"):
            read_mesh(root / "gltf/face.gltf")


def test_embedded_buffers_are_not_sidecars(root):
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
