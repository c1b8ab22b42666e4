"""Images show the textures and colours that a scan describes, and what is missing is named for each scan."""

import io
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.small_gltf import SmallGltf
from helpers.trees import table, upload
from smile_pipe.cli.commands.render import _failures
from smile_pipe.cli.main import app
from smile_pipe.pipeline.meshes.mesh import Material, Mesh
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.vrml import write_wrl
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.shards.index import IndexRow, read_index
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import PathLike

SIZE = 48
COLORS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 200, 30))
"""Of the quarters of the image, row by row."""


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render in this process, which is faster."""
    monkeypatch.setattr(render, "_in_process", lambda config: True)


def quarters() -> np.ndarray:
    return np.array(COLORS, np.uint8).reshape(2, 2, 3).repeat(32, 0).repeat(32, 1)


def card() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points, texture coordinates and faces of a card of 140 x 200 mm with a bump."""
    x, y = np.meshgrid(np.linspace(-70, 70, 9), np.linspace(-100, 100, 9))
    points = np.stack([x, y, 25 * np.exp(-(x**2 + y**2) / 500)], axis=-1).reshape(-1, 3)
    uvs = np.stack([(x + 70) / 140, (y + 100) / 200], axis=-1).reshape(-1, 2)
    at = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    return points, uvs, np.concatenate([np.stack([at, at + 1, at + 10], 1), np.stack([at, at + 10, at + 9], 1)])


def write_obj(path: Path, uvs: np.ndarray, materials: str = "mtllib m.mtl", faces: np.ndarray | None = None) -> None:
    points, _, own = card()
    lines = [materials, *("v {:g} {:g} {:g}".format(*point) for point in points)]
    lines += ["vt {:.6f} {:.6f}".format(*uv) for uv in uvs]
    corner = "{0}/{0}" if len(uvs) else "{0}"
    for number, face in enumerate(own if faces is None else faces):
        lines += [f"usemtl m{number % 2}"] if faces is None else []
        lines.append("f " + " ".join(corner.format(vertex + 1) for vertex in face))
    path.write_text("\n".join(lines) + "\n")


def run(root: PathLike, out: Path, *names: str) -> dict[str, IndexRow]:
    """Render scans; the data directory is at a URL or on a disk."""
    if isinstance(root, Path):
        table(root, "path,subject,expression\n" + "".join(f"{name},s,HA\n" for name in names))
    render.run(RenderConfig(data_dir=root, out=out, size=SIZE, channels=("rgb",)))
    return {row.key: row for row in read_index(out / "index.parquet")}


def front(out: Path, key: str) -> np.ndarray:
    shards = ShardSet.open(str(out))
    sample = shards.read(next(row for row in shards.rows if row.key == key))
    return np.asarray(Image.open(io.BytesIO(sample.images["front", "rgb"])))


def notes(out: Path, key: str) -> str:
    shards = ShardSet.open(str(out))
    return shards.read(next(row for row in shards.rows if row.key == key)).record.notes


def seen(out: Path, key: str) -> list[int]:
    """Which of `COLORS` is closest in each quarter of the face."""
    image = front(out, key).astype(int)
    half = SIZE // 2
    pixels = [image[half + dy, half + dx] for dy in (-6, 6) for dx in (-5, 5)]
    return [int(np.abs(np.array(COLORS) - pixel).sum(axis=1).argmin()) for pixel in pixels]


@pytest.mark.parametrize("moved", [(0, 0), (1, 0), (0, -1), (-3, 2)])
@pytest.mark.parametrize("suffix", ["obj", "wrl", "ply", "glb"])
def test_textures_repeat_beyond_their_edges(tmp_path, suffix, moved):
    points, uvs, faces = card()
    root = tmp_path / "data"
    root.mkdir()
    Image.fromarray(quarters()).save(root / "t.png")
    (root / "m.mtl").write_text("newmtl m0\nmap_Kd t.png\nnewmtl m1\nmap_Kd t.png\n")
    uvs = uvs + np.array(moved)
    mesh = Mesh.build(points, faces, uvs, faces, materials=(Material(("t.png",)),))
    if suffix == "obj":
        write_obj(root / "a.obj", uvs)
    elif suffix == "wrl":
        write_wrl(root / "a.wrl", mesh, "t.png")
    elif suffix == "ply":
        header = "".join(f"property float {name}\n" for name in ("x", "y", "z", "s", "t"))
        (root / "a.ply").write_text(
            f"ply\nformat ascii 1.0\ncomment TextureFile t.png\nelement vertex {len(points)}\n{header}"
            f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
            + "".join("{} {} {} {} {}\n".format(*point, *uv) for point, uv in zip(points, uvs, strict=True))
            + "".join("3 {} {} {}\n".format(*face) for face in faces)
        )
    else:
        gltf = SmallGltf()
        material, indices = gltf.image(quarters()), gltf.array(faces.ravel(), "u2")
        arrays = {"POSITION": gltf.array(points / 1000), "TEXCOORD_0": gltf.array(uvs * [1, -1] + [0, 1])}
        gltf.show({"material": material, "indices": indices}, **arrays)
        gltf.write(root / "a.glb")
    assert run(root, tmp_path / "out", f"a.{suffix}")["a"].surface == "texture"
    assert seen(tmp_path / "out", "a") == [0, 1, 2, 3]


def test_each_part_shows_its_own_image_or_colour(tmp_path):
    points, uvs, faces = card()
    (tmp_path / "data").mkdir()
    for number, color in enumerate(COLORS[:2]):
        Image.new("RGB", (8, 8), color).save(tmp_path / f"data/{number}.png")
    kd = " ".join(f"{value / 255}" for value in COLORS[2])
    maps = "newmtl a\nmap_Kd 0.png\nKd 1 1 1\nnewmtl b\nmap_Kd 1.png\n"
    (tmp_path / "data/m.mtl").write_text(f"{maps}newmtl c\nKd {kd}\n")
    is_up, is_left = points[faces].mean(axis=1)[:, 1] > 0, points[faces].mean(axis=1)[:, 0] < 0
    write_obj(tmp_path / "data/a.obj", uvs, faces=())
    text = (tmp_path / "data/a.obj").read_text()
    for name, part in (("a", is_up & is_left), ("b", is_up & ~is_left), ("c", ~is_up)):
        text += f"usemtl {name}\n" + "".join("f {0}/{0} {1}/{1} {2}/{2}\n".format(*face) for face in faces[part] + 1)
    (tmp_path / "data/a.obj").write_text(text)
    run(tmp_path / "data", tmp_path / "out", "a.obj")
    assert seen(tmp_path / "out", "a") == [0, 1, 2, 2]


def test_missing_image_is_named_for_its_scan_until_it_is_there(tmp_path):
    root, out = tmp_path / "data", tmp_path / "out"
    root.mkdir()
    (root / "m.mtl").write_text("newmtl m0\nKd 0 0 0\nmap_Kd C:\\scans\\Gone.png\n")
    for name in ("a.obj", "b.obj"):
        write_obj(root / name, card()[1], "mtllib m.mtl" if name == "a.obj" else "")
    rows = run(root, out, "a.obj", "b.obj")
    assert [row.surface for row in rows.values()] == ["plain", "plain"]
    note = "a.obj: the image C:/scans/Gone.png is missing"
    assert note in notes(out, "a") and "missing" not in notes(out, "b")
    assert note in " ".join(CliRunner().invoke(app, ["inspect", str(out), "--key", "a"]).stdout.split())
    Image.fromarray(quarters()).save(root / "Gone.png")
    channels = ("--channels", "rgb")
    text = CliRunner().invoke(app, ["render", str(root), "--out", str(out), "--size", str(SIZE), *channels]).stdout
    assert "1 sample: source files changed" in text and "is missing" not in text
    assert seen(out, "a") == [0, 1, 2, 3]


def test_render_names_missing_files(tmp_path):
    (tmp_path / "data").mkdir()
    write_obj(tmp_path / "data/a.obj", card()[1], "mtllib skin.mtl")
    table(tmp_path / "data", "path,subject,expression\na.obj,s,HA\n")
    result = CliRunner().invoke(app, ["render", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--size", "16"])
    assert result.exit_code == 0
    assert "note: a.obj: the material file skin.mtl is missing or cannot be read\n" in result.stdout


def test_an_image_that_is_not_shown_is_no_surface(tmp_path):
    (tmp_path / "data").mkdir()
    Image.fromarray(quarters()).save(tmp_path / "data/a.png")
    write_obj(tmp_path / "data/a.obj", np.empty((0, 2)), "")
    assert run(tmp_path / "data", tmp_path / "out", "a.obj")["a"].surface == "plain"


def test_names_are_searched_under_a_url_as_on_a_disk(tmp_path):
    root = tmp_path / "data"
    (root / "a").mkdir(parents=True)
    (root / "up.mtl").write_text("newmtl m0\nmap_Kd /other/SKIN.png\nnewmtl m1\nmap_Kd a/skin.PNG\n")
    Image.fromarray(quarters()).save(root / "a/Skin.png")
    write_obj(root / "a/a.obj", card()[1], "mtllib ..\\UP.mtl")
    row = run(root, tmp_path / "out", "a/a.obj")["a-a"]
    assert (
        row.surface == "texture"
        and "missing" not in notes(tmp_path / "out", "a-a")
        and seen(tmp_path / "out", "a-a") == [0, 1, 2, 3]
    )
    url = upload(root, f"memory://{uuid.uuid4().hex}")
    again = run(str(url), tmp_path / "other")["a-a"]
    assert [file.path for file in again.sources] == [file.path for file in row.sources]
    assert again.digest == row.digest


def test_failures_are_counted_once_a_shard_is_written(tmp_path):
    (tmp_path / "data").mkdir()
    write_obj(tmp_path / "data/a.obj", card()[1], "")
    (tmp_path / "data/b.obj").write_text("no mesh")
    table(tmp_path / "data", "path,subject,expression\na.obj,s,HA\nb.obj,s,HA\n")
    states: list[render.RenderProgress] = []
    render.run(RenderConfig(data_dir=tmp_path / "data", out=tmp_path / "out", size=16), states.append)
    assert _failures(states[0]) == "" and states[-2].num_done == 2 and _failures(states[-2]) == ""
    assert _failures(states[-1]) == "1 failed in 1 finished shard"


def test_embedded_linear_colours_become_srgb(tmp_path):
    points, _, faces = card()
    gltf = SmallGltf()
    colors = gltf.array(np.full((len(points), 3), 0.5))
    gltf.show({"indices": gltf.array(faces.ravel(), "u2")}, POSITION=gltf.array(points / 1000), COLOR_0=colors)
    (tmp_path / "data").mkdir()
    gltf.write(tmp_path / "data/a.glb")
    assert (read_mesh(tmp_path / "data/a.glb").colors == 188).all()
    assert run(tmp_path / "data", tmp_path / "out", "a.glb")["a"].surface == "vertex-colors"
