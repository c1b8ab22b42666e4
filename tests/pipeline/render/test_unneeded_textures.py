"""A texture that cannot be read is a problem only for images that show colours."""

import pytest

from helpers.small_gltf import TRIANGLE, SmallGltf
from helpers.trees import table
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.process import read_meshes

OBJ = "mtllib face.mtl\nusemtl skin\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n"


@pytest.fixture(params=["obj", "glb", "column"])
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
    row = {"obj": "face.obj,s,HA", "glb": "face.glb,s,HA", "column": "face.glb,s,HA,skin.tga"}[request.param]
    return table(tmp_path, f"path,subject,expression{',texture' * (row.count(',') > 2)}\n{row}\n")


def read(data_dir, channels: str) -> Mesh:
    config = RenderConfig(data_dir=data_dir, out=data_dir / "out", channels=channels.split(","))
    (sample,) = find_samples(data_dir, "folder").samples
    (mesh,) = read_meshes(sample, config.data_dir, config.resolve())
    return mesh


def test_depth_and_normals_need_no_texture(data_dir):
    mesh = read(data_dir, "depth,normal")
    assert mesh.texture is None and len(mesh.faces) == 1


def test_colours_need_the_texture(data_dir):
    with pytest.raises(MeshError, match="not a readable JPEG, PNG, BMP, TIFF image"):
        read(data_dir, "rgb,depth")
