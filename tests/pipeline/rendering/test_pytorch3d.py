"""The renderer for GPUs with PyTorch3D: its images, the room of its bins, and equally near faces."""

import importlib.util
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.shapes import card, cube, join, painted, sphere, with_flow
from helpers.triton_kernels import DEVICE, HAS_GPU, INTERPRETED, needs_triton
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig, View, build_views
from smile_pipe.pipeline.rendering.kernels.faces import LAST_FACE, NO_FACE

if importlib.util.find_spec("pytorch3d") is None:
    pytest.skip("PyTorch3D is not installed", allow_module_level=True)

from smile_pipe.pipeline.rendering import pytorch3d

if HAS_GPU or INTERPRETED:
    from smile_pipe.pipeline.rendering.kernels import cuda_vertices

VIEWS = (*build_views("3", 35.0), View(name="above", yaw=-15.0, pitch=20.0))
RASTERISE = pytorch3d.rasterise


def textured_card() -> Mesh:
    texture = np.random.default_rng(4).integers(0, 256, (5, 9, 3), np.uint8)
    return card((-0.6, -0.7, 0.5), (1.2, 0.3, -0.7), (0.0, 1.3, 0.2), 2, texture)


@needs_triton
@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_renderer_for_gpus_matches_the_one_for_cpus(projection):
    # The faces of one vertex of the sphere cannot be drawn.
    outlier = sphere(1, 0.4, (0.7, 0, 0))
    outlier.vertices[0, 0] = 1e7
    meshes = [with_flow(mesh) for mesh in (painted(cube(0.5), (200, 40, 90)), textured_card(), outlier)]
    rig = Rig.build(VIEWS, 24, projection)
    channels = ("rgb", "depth", "normal", "flow")
    rendered = pytorch3d.PyTorch3DRenderer(DEVICE).render_quantised(meshes, [rig] * 3, channels)
    expected = pytorch3d.PyTorch3DCpuRenderer().render_quantised(meshes, [rig] * 3, channels)
    for ours, theirs in zip(rendered, expected, strict=True):
        assert ours.is_visible and theirs.is_visible
        # A GPU rounds differently at outlines.
        differ = (ours.pixels["depth"] > 0) != (theirs.pixels["depth"] > 0)
        assert differ.sum() <= (3 if HAS_GPU else 0)
        for channel in channels:
            off = np.abs(ours.pixels[channel].astype(int) - theirs.pixels[channel])[~differ]
            assert np.quantile(off, 0.999) <= 1, channel


class ArbitraryOrder:
    """A rasteriser that keeps any of the equally near faces, as a GPU with bins does; without bins the first ones."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def __call__(self, packed: "pytorch3d.PackedMeshes", size: int, bin_size: int, most: int, perspective: bool):
        num_kept = pytorch3d.CANDIDATES
        with mock.patch.object(pytorch3d, "CANDIDATES", 16):
            face, depth = RASTERISE(packed, size, 0, 0, perspective)
        assert (face[..., -1] < 0).all()
        if bin_size:
            z = torch.where(face < 0, torch.inf, depth.double())
            kept = (z + 1e-9 * torch.from_numpy(self.random.random(face.shape))).argsort(dim=-1)[..., :num_kept]
            # PyTorch3D sorts what it keeps by depth, then by face.
            kept = kept.sort(dim=-1).values
            face, depth = face.gather(-1, kept), depth.gather(-1, kept)
        return face[..., :num_kept], depth[..., :num_kept]


def fan(num: int) -> Mesh:
    """Faces around a vertex, each of them twice."""
    angles = 2 * np.pi * np.arange(num) / num
    rim = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    faces = np.array([(0, 1 + n, 1 + (n + 1) % num) for n in range(num)])
    return Mesh.build(np.concatenate([np.zeros((1, 3)), rim]), np.concatenate([faces, faces[::-1]]))


# The diagonal of a square is on the centres of pixels: two faces are equally near, which needs no second drawing.
SQUARE = card((-0.5, -0.5, 0), (1, 0, 0), (0, 1, 0))


@pytest.mark.parametrize(
    ("mesh", "is_tied"), [(sphere(1, 0.5, (0.03, 0.02, 0)), False), (SQUARE, False), (fan(3), True), (fan(5), True)]
)
def test_order_of_equally_near_faces_does_not_decide_the_image(monkeypatch, mesh, is_tied):
    # An odd size: the centre of the image, where the first view sees the vertex of a fan, is the centre of a pixel.
    rig = Rig.build(VIEWS[:1], 15)
    packed = pytorch3d.pack_view(mesh, rig, 0, np.ones(len(mesh.vertices), bool))
    monkeypatch.setattr(pytorch3d.PyTorch3DRenderer, "_bins", lambda renderer, drawing: (8, len(mesh.faces)))
    renderer, found = pytorch3d.PyTorch3DRenderer("cpu"), set()
    for seed in range(8):
        monkeypatch.setattr(pytorch3d, "rasterise", ArbitraryOrder(seed))
        drawing = SimpleNamespace(
            ndc=packed.ndc, surface=packed, size=15, is_perspective=True, status=torch.zeros(2, dtype=torch.int32)
        )
        zbuffer = renderer.find_faces(drawing, exactly=False)
        assert bool(drawing.status[1]) == is_tied
        if is_tied:
            zbuffer = renderer.find_faces(drawing, exactly=True)
        found.add(zbuffer.numpy().tobytes())
    (keys,) = found
    expected = np.empty((15, 15), np.int64)
    monkeypatch.undo()
    pytorch3d.PyTorch3DCpuRenderer().find_faces(np.zeros((len(mesh.vertices), 3), np.int32), mesh, rig, 0, expected)
    assert np.array_equal(np.frombuffer(keys, np.int64).reshape(15, 15), expected) and (expected != NO_FACE).any()


@needs_triton
def test_tied_faces_are_found_again(monkeypatch):
    calls = []

    def find_faces(renderer, drawing, exactly):
        calls.append(exactly)
        drawing.status[1] = not exactly
        return torch.full((1, 15, 15), 0 if exactly else LAST_FACE)

    monkeypatch.setattr(pytorch3d.PyTorch3DRenderer, "find_faces", find_faces)
    rig = Rig.build(VIEWS[:1], 15)
    (images,) = pytorch3d.PyTorch3DRenderer(DEVICE).render_quantised([sphere(0, 0.5)], [rig], ("depth",))
    assert calls == [False, True] and not images.pixels["depth"].any()


def faces_by_bin(ndc: np.ndarray, faces: np.ndarray, size: int, bin_size: int) -> np.ndarray:
    """Faces that PyTorch3D's coarse pass keeps in each bin of a view, with its float32 arithmetic."""
    corners = ndc[faces]
    margin = np.float32(np.sqrt(np.float32(pytorch3d.EDGE_MARGIN)))
    low, high = corners.min(axis=1) - margin, corners.max(axis=1) + margin
    num_bins = -(-size // bin_size)
    half = np.float32(1) / np.float32(size)
    first = np.arange(num_bins) * bin_size
    centers = [(np.float32(2) * n.astype(np.float32) + np.float32(1)) / np.float32(size) - np.float32(1)
               for n in (first, first + bin_size - 1)]  # fmt: skip
    start, stop = centers[0] - half, centers[1] + half
    overlaps = [(low[:, c, None] <= stop) & (start < high[:, c, None]) for c in (0, 1)]
    is_drawn = corners[:, :, 2].min(axis=1) >= 1e-8
    return (overlaps[1][:, :, None] & overlaps[0][:, None, :] & is_drawn[:, None, None]).sum(axis=0)


def far_and_dense() -> Mesh:
    """A small far object of many faces in front of a few large ones."""
    return join(
        sphere(6 if HAS_GPU else 3, 0.05, (0.31, -0.22, -2.0)), cube(0.7), card((-9, -9, -3), (18, 0, 0), (0, 18, 0), 1)
    )


@needs_triton
@pytest.mark.parametrize(
    ("mesh", "size"), [(far_and_dense(), 224), (sphere(4, 0.8), 100), (cube(3.0), 64), (sphere(2, 0.01), 16)]
)
def test_no_bin_has_more_faces_than_are_counted(mesh, size):
    rig = Rig.build(VIEWS, size)
    bin_size = pytorch3d.bin_size_of(size)
    renderer = pytorch3d.PyTorch3DRenderer(DEVICE)
    drawing = renderer._begin(renderer._stage(mesh), rig, slice(0, len(VIEWS)), 0)
    counts = cuda_vertices.count_faces_in_bins(drawing.ndc, drawing.surface.faces, size, bin_size).cpu().numpy()
    for ndc, counted in zip(drawing.ndc.cpu().numpy(), counts, strict=True):
        kept = faces_by_bin(ndc, mesh.faces, size, bin_size)
        assert kept.max() > 0 and (counted >= kept).all()
        # The margin is small: it adds few faces.
        assert counted.max() <= 1.3 * kept.max() + 8
    if HAS_GPU:
        assert int(drawing.prepared.wait()["most"]) == counts.max()


def test_bins_have_room_for_the_most_faces_and_too_large_a_table_is_not_used(monkeypatch):
    def bins_of(size: int, most: int) -> tuple[int, int]:
        copied = SimpleNamespace(wait=lambda: {"most": np.array(most)})
        drawing = SimpleNamespace(prepared=copied, size=size, cameras=range(3))
        return pytorch3d.PyTorch3DRenderer._bins(SimpleNamespace(device=torch.device("cuda")), drawing)

    assert (bins_of(224, 500), bins_of(224, 0)) == ((11, 500), (11, 1))
    # 3 views of 21 x 21 bins.
    monkeypatch.setattr(pytorch3d, "MAX_BIN_TABLE", 3 * 21 * 21 * 500)
    assert (bins_of(224, 500), bins_of(224, 501)) == ((11, 500), (0, 0))


@pytest.mark.skipif(not HAS_GPU, reason="bins are used on a GPU")
@pytest.mark.parametrize("mesh", [far_and_dense(), sphere(7, 0.8)])
def test_no_face_is_dropped_on_a_gpu_and_runs_are_equal(mesh):
    rig = Rig.build(VIEWS, 224)
    renderer = pytorch3d.PyTorch3DRenderer()
    drawing = renderer._begin(renderer._stage(mesh), rig, slice(0, len(VIEWS)), 0)
    exact = renderer.find_faces(drawing, exactly=True)
    assert not torch.equal(exact, torch.zeros_like(exact))
    for _ in range(10):
        assert torch.equal(renderer.find_faces(drawing, exactly=False), exact)


@given(st.integers(1, 8192))
def test_number_of_bins_is_within_the_rasterisers_limit(size):
    assert 1 + (size - 1) // pytorch3d.bin_size_of(size) < 22
