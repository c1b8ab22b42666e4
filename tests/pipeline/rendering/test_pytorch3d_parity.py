"""Agreement of the renderers `zbuffer` and `pytorch3d`: on an ico-sphere, a face scan and batches of unequal meshes.

The figures in `pipeline/rendering/README.md` come from `PYTHONPATH=tests python` with this file.
"""

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.paths import REPOSITORY
from helpers.shapes import card, cube, painted, sphere
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import Projection, Rig, View, build_views
from smile_pipe.pipeline.rendering.choose_backend import build_renderer
from smile_pipe.pipeline.rendering.kernels.vertices import vertex_normals

if importlib.util.find_spec("pytorch3d") is None:
    pytest.skip("PyTorch3D is not installed", allow_module_level=True)

import torch

from smile_pipe.pipeline.rendering import pytorch3d, torch_shading

FACES = Path(os.environ.get("SMILE_PIPE_FACES", REPOSITORY.parent / "shared" / "faces"))
VIEWS = (*build_views("3", 35.0), View(name="above", yaw=-15.0, pitch=20.0))


@dataclass(frozen=True)
class Parity:
    """Differences between two renderers' images of one mesh; depth and flow in frame units, angles in degrees."""

    iou: float
    depth_99: float
    normal_median: float
    normal_99: float
    rgb_median: float
    rgb_99: float
    flow_99: float

    @classmethod
    def of(cls, a: ViewImages, b: ViewImages) -> "Parity":
        """Compare the covered pixels; all measures but `iou` use pixels that both images cover."""
        in_a, in_b = a.depth > 0, b.depth > 0
        both = in_a & in_b
        # From the chord, because the cosine of float32 normals does not resolve angles under 0.03 degrees.
        angles = np.degrees(2 * np.arcsin(np.linalg.norm((a.normal - b.normal)[both], axis=-1) / 2))
        levels = np.abs(a.rgb.astype(int) - b.rgb).max(axis=-1)[both]
        return cls(
            iou=float(both.sum() / (in_a | in_b).sum()),
            depth_99=float(np.quantile(np.abs(a.depth - b.depth)[both], 0.99)),
            normal_median=float(np.median(angles)),
            normal_99=float(np.quantile(angles, 0.99)),
            rgb_median=float(np.median(levels)),
            rgb_99=float(np.quantile(levels, 0.99)),
            flow_99=float(np.quantile(np.linalg.norm((a.flow - b.flow)[both], axis=-1), 0.99)),
        )


def compare(mesh: Mesh, size: int, projection: Projection) -> Parity:
    rig = Rig.build(VIEWS, size, projection)
    mesh = replace(mesh, flow=wavy_flow(mesh))
    a, b = (build_renderer(name).render([mesh], [rig])[0] for name in ("zbuffer", "pytorch3d"))
    return Parity.of(a, b)


def wavy_flow(mesh: Mesh) -> np.ndarray:
    """A sinusoidal flow of up to half a frame unit along each axis."""
    return (0.5 * np.sin(5 * mesh.vertices[:, [1, 2, 0]] + [0, 1, 2])).astype(np.float32)


def load_smiling_face() -> Mesh:
    """A smiling face with open mouth, a texture and 68 landmarks, in the canonical frame."""
    data = np.load(FACES / "ict_facekit.npz", allow_pickle=False)
    names = data["expression_names"].tolist()
    shapes = [names.index(name) for name in ("jawOpen", "mouthSmile_L", "mouthSmile_R")]
    vertices = data["neutral"] + np.tensordot([0.5, 0.6, 0.6], data["expression"][shapes].astype(np.float32), axes=1)
    front = data["face_part"] != data["part_names"].tolist().index("head_neck")
    coarse = np.random.default_rng(3).integers(60, 230, (16, 16, 3)).astype(np.uint8)
    mesh = Mesh.build(vertices, data["faces"][front], data["uv"], data["faces_uv"][front])
    mesh = replace(mesh, texture=coarse.repeat(8, axis=0).repeat(8, axis=1), landmarks=vertices[data["landmarks68"]])
    return apply_frame(mesh, canonical_frame(mesh))


@pytest.fixture(scope="module")
def face() -> Mesh:
    if not (FACES / "ict_facekit.npz").is_file():
        pytest.skip(f"no face scans in {FACES}; set SMILE_PIPE_FACES")
    return load_smiling_face()


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_renderers_agree_on_a_sphere(projection):
    parity = compare(sphere(3, 0.8), 96, projection)
    assert parity.iou >= 0.995 and parity.depth_99 <= 1e-3 * 0.8
    assert parity.normal_99 <= 1.0 and parity.rgb_99 <= 2 and parity.flow_99 <= 1e-4


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_renderers_agree_on_a_face(face, projection):
    parity = compare(face, 48, projection)
    assert parity.iou >= 0.995 and parity.depth_99 <= 1e-3
    assert parity.normal_median <= 1.0 and parity.rgb_median <= 2 and parity.flow_99 <= 1e-4


@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
@pytest.mark.parametrize("memory", [pytorch3d.DEFAULT_MEMORY, 800_000, 1])
def test_batch_of_unequal_meshes_matches_single_renders(memory, projection):
    texture = np.random.default_rng(4).integers(0, 256, (5, 9, 3), np.uint8)
    tilted = card((-0.6, -0.7, 0.5), (1.2, 0.3, -0.7), (0.0, 1.3, 0.2), 2, texture)
    meshes = [
        sphere(2, 0.7),
        painted(cube(0.5), (200, 40, 90)),
        tilted,
        sphere(0, 0.9),
        painted(sphere(3, 0.4), (9, 99, 9)),
    ]
    meshes[1:4:2] = [replace(mesh, flow=wavy_flow(mesh)) for mesh in meshes[1:4:2]]
    rig = Rig.build(VIEWS, 32, projection)
    together = pytorch3d.PyTorch3DRenderer(memory=memory).render(meshes, [rig] * len(meshes))
    for mesh, images in zip(meshes, together, strict=True):
        (alone,) = pytorch3d.PyTorch3DRenderer().render([mesh], [rig])
        assert (alone.depth > 0).any()
        for channel in ("rgb", "depth", "normal"):
            assert np.array_equal(getattr(images, channel), getattr(alone, channel))
        assert (images.flow is None) == (mesh.flow is None)
        assert mesh.flow is None or np.array_equal(images.flow, alone.flow)


@given(
    num_faces=st.lists(st.integers(1, 200_000), max_size=20),
    num_views=st.integers(1, 9),
    size=st.integers(16, 512),
    memory=st.integers(1, 1 << 31),
)
def test_batches_cover_each_view_once_in_order_within_memory(num_faces, num_views, size, memory):
    batches = list(pytorch3d.plan_batches(num_faces, num_views, size, memory))
    drawn = [(m, view) for batch in batches for m, views in batch for view in range(num_views)[views]]
    assert drawn == [(m, view) for m in range(len(num_faces)) for view in range(num_views)]
    for batch in batches:
        num_images = sum(views.stop - views.start for _, views in batch)
        largest = max(pytorch3d._image_bytes(num_faces[m], size) for m, _ in batch)
        assert num_images == 1 or num_images * largest <= memory


def test_bins_have_room_for_the_largest_mesh_of_a_call(monkeypatch):
    capacities = []

    def spy(packed, **settings):
        capacities.append((settings["max_faces_per_bin"], int(packed.num_faces_per_mesh().max())))
        return rasterize(packed, **settings)

    rasterize = pytorch3d.rasterize_meshes
    monkeypatch.setattr(pytorch3d, "rasterize_meshes", spy)
    pytorch3d.PyTorch3DRenderer().render([sphere(1, 0.5), sphere(3, 0.5), sphere(2, 0.5)], [Rig.build(VIEWS, 16)] * 3)
    assert capacities == [(1280, 1280)]


@given(st.integers(1, 4096))
def test_number_of_bins_is_within_the_rasterisers_limit(size):
    assert 1 + (size - 1) // pytorch3d._bin_size(size) < 22


@pytest.mark.parametrize("mesh", [sphere(2, 0.6), cube(0.5), card((0, 0, 0), (1, 0, 0.2), (0, 2, 0), 3)])
def test_renderers_compute_the_same_vertex_normals(mesh):
    normals = torch_shading.vertex_normals(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces).long())
    assert np.abs(normals.numpy() - vertex_normals(mesh.vertices, mesh.faces)).max() < 1e-5


def test_vertex_normals_do_not_depend_on_face_order():
    mesh = sphere(3, 0.6)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces).long()
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(5))
    assert torch.equal(
        torch_shading.vertex_normals(vertices, faces), torch_shading.vertex_normals(vertices, faces[order])
    )


if __name__ == "__main__":
    for title, shape in (("sphere", sphere(3, 0.8)), ("face", load_smiling_face())):
        for kind in ("perspective", "orthographic"):
            parity = compare(shape, 96, kind)
            print(
                f"{title}, {len(shape.faces):,} faces, 96 px, {kind}:",
                *(f"{k}={v:.2g}" for k, v in vars(parity).items()),
            )
