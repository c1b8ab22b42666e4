"""A texture that cannot be read is a problem only for images that show colours."""

import numpy as np
import pytest

from helpers.small_gltf import TRIANGLE, SmallGltf
from helpers.trees import table
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.meshes.bnt import write_bnt
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.meshes.vrml import write_wrl
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.process import read_meshes

OBJ = "mtllib face.mtl\nusemtl skin\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"


PLY = (
    "ply\nformat ascii 1.0\ncomment TextureFile skin.tga\nelement vertex 3\n"
    + "".join(f"property float {name}\n" for name in "xyzst")
    + "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    + "0 0 0 0 0\n1 0 0 1 0\n0 1 0 0 1\n3 0 1 2\n"
)


@pytest.fixture(params=["obj", "wrl", "ply", "bnt", "glb", "npz", "column"])
def data_dir(tmp_path, request):
    """A scan whose texture, named by its material, embedded or named by the table, is no image."""
    (tmp_path / "skin.tga").write_bytes(b"no image")
    (tmp_path / "face.mtl").write_text("newmtl skin\nmap_Kd skin.tga\n")
    (tmp_path / "face.obj").write_text(OBJ)
    gltf = SmallGltf()
    image = gltf.add("images", bufferView=gltf.view(b"no image"), mimeType="image/png")
    material = gltf.material(gltf.add("textures", source=image))
    uvs = gltf.array([[0, 0], [1, 0], [0, 1]])
    gltf.show({"material": material}, POSITION=gltf.array(TRIANGLE), TEXCOORD_0=uvs)
    gltf.write(tmp_path / "face.glb")
    (tmp_path / "face.ply").write_text(PLY)
    write_wrl(tmp_path / "face.wrl", read_mesh(tmp_path / "face.obj"), "skin.tga")
    grid = np.stack([*np.meshgrid(np.arange(4.0), np.arange(4.0)), np.zeros((4, 4))], axis=-1)
    write_bnt(tmp_path / "face.bnt", grid, grid[..., :2] / 4, "skin.tga")
    mesh = read_mesh(tmp_path / "face.ply")
    # An image without pixels.
    arrays = {"uvs": mesh.uvs, "face_uvs": mesh.face_uvs, "texture": np.zeros((0, 4, 3), np.uint8)}
    np.savez(tmp_path / "face.npz", vertices=mesh.vertices, faces=mesh.faces, **arrays)
    row = f"face.{request.param},s,HA" if request.param != "column" else "face.glb,s,HA,skin.tga"
    return table(tmp_path, f"path,subject,expression{',texture' * (row.count(',') > 2)}\n{row}\n")


def read(data_dir, channels: str, needs_colors: bool = True) -> Mesh:
    config = RenderConfig(data_dir=data_dir, out=data_dir / "out", channels=channels.split(","))
    (sample,) = find_samples(data_dir, "folder").samples
    settings = config.resolve().model_copy(update={"needs_colors": needs_colors})
    (mesh,), _ = read_meshes(sample, config.data_dir, settings)
    return mesh


def test_depth_and_normals_need_no_texture(data_dir):
    mesh = read(data_dir, "depth,normal")
    assert mesh.texture is None and len(mesh.faces) >= 1


def test_colours_that_only_people_see_need_no_texture(data_dir):
    assert read(data_dir, "rgb,depth", needs_colors=False).texture is None


def test_colours_need_the_texture(data_dir):
    with pytest.raises(MeshError, match=r"not a readable JPEG, PNG, BMP, TIFF image|invalid texture size"):
        read(data_dir, "rgb,depth")
