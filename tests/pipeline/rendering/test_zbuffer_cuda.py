"""The z-buffer for GPUs against the one for CPUs: on the GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.shapes import card, cube, join, painted, sphere
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig, build_views, jitter_views
from smile_pipe.pipeline.rendering.kernels import faces, vertices
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

HAS_GPU = torch.cuda.is_available()
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytest.importorskip("triton")
if HAS_GPU or INTERPRETED:
    from smile_pipe.pipeline.rendering.kernels import cuda_faces
    from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

DEVICE = "cuda" if HAS_GPU else "cpu"
SIZE = 40
needs_triton = pytest.mark.skipif(
    not (HAS_GPU or INTERPRETED), reason="no GPU; the last test runs it in the interpreter"
)
# The interpreter warns about lanes whose results are masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(params=["perspective", "orthographic"])
def rig(request) -> Rig:
    return Rig.build(build_views("3", 30.0), SIZE, request.param)


def textured_card() -> Mesh:
    texture = np.random.default_rng(4).integers(0, 256, (64, 48, 3), np.uint8)
    return card((-0.6, -0.7, 0.5), (1.2, 0.3, -0.7), (0.0, 1.3, 0.2), 3, texture)


MESHES = {
    "small faces": painted(sphere(3, 0.8), (200, 90, 60)),
    "large faces": join(painted(sphere(0, 0.9), (90, 200, 60)), painted(cube(0.6), (20, 60, 220))),
    "a texture": textured_card(),
    "two faces over all": card((-3, -3, 0), (6, 0, 0), (0, 6, -2)),
}


def project_and_snap(mesh: Mesh, rig: Rig) -> np.ndarray:
    screen = np.empty((len(rig.cameras), len(mesh.vertices), 3), np.float32)
    snapped = np.zeros(screen.shape, np.int32)
    for v in range(len(rig.cameras)):
        R, T, K = rig.rotations[v], rig.translations[v], rig.intrinsics[v]
        vertices.project(mesh.vertices, R, T, K, rig.is_perspective, screen[v], snapped[v])
    return snapped


@needs_triton
@pytest.mark.parametrize("name", MESHES)
def test_zbuffer_matches_the_cpu(name, rig):
    mesh = MESHES[name]
    snapped = project_and_snap(mesh, rig)
    expected = np.empty((len(snapped), SIZE, SIZE), np.int64)
    for v, view in enumerate(snapped):
        faces.rasterise(view, mesh.faces, rig.is_perspective, expected[v])
    tensors = (torch.from_numpy(array).to(DEVICE) for array in (snapped, mesh.faces))
    zbuffer = cuda_faces.rasterise(*tensors, SIZE, rig.is_perspective).cpu().numpy()
    assert (expected != faces.NO_FACE).any() and np.array_equal(zbuffer, expected)


@needs_triton
def test_offscreen_and_zero_area_faces_are_not_drawn(rig):
    mesh = sphere(1, 0.5)
    snapped = project_and_snap(mesh, rig)
    snapped[:, 7, 0] = vertices.OFFSCREEN
    extended_faces = np.concatenate([mesh.faces, [[0, 0, 1], [3, 3, 3]]]).astype(np.int32)
    zbuffer = cuda_faces.rasterise(
        torch.from_numpy(snapped).to(DEVICE), torch.from_numpy(extended_faces).to(DEVICE), SIZE, rig.is_perspective
    )
    drawn_faces = np.unique(faces.LAST_FACE - (zbuffer[zbuffer != faces.NO_FACE].cpu().numpy() & faces.LAST_FACE))
    assert (
        len(drawn_faces) > 10
        and not np.isin(drawn_faces, np.nonzero((extended_faces == 7).any(axis=1))[0]).any()
        and drawn_faces.max() < len(extended_faces) - 2
    )


@needs_triton
@pytest.mark.parametrize("name", MESHES)
def test_images_match_the_cpu_renderer(name, rig):
    mesh = MESHES[name]
    mesh = replace(mesh, flow=(0.5 * np.sin(5 * mesh.vertices[:, [1, 2, 0]])).astype(np.float32))
    (rendered,) = ZBufferCudaRenderer(DEVICE).render([mesh], [rig])
    (expected,) = ZBufferRenderer().render([mesh], [rig])
    assert (expected.depth > 0).any() and np.array_equal(rendered.depth > 0, expected.depth > 0)
    assert np.abs(rendered.depth - expected.depth).max() < 1e-5
    assert np.abs(rendered.normal - expected.normal).max() < 1e-4
    assert np.abs(rendered.flow - expected.flow).max() < 1e-4
    off = np.abs(rendered.rgb.astype(int) - expected.rgb)
    assert off.max() <= 1 and (off > 0).mean() < 0.01


@needs_triton
def test_each_mesh_uses_its_own_rig():
    meshes = [sphere(1, 0.6), cube(0.5)]
    rigs = [Rig.build(jitter_views(build_views("3", 30.0), 20.0, seed), SIZE) for seed in (1, 2)]
    together = ZBufferCudaRenderer(DEVICE).render(meshes, rigs)
    for mesh, rig, images in zip(meshes, rigs, together, strict=True):
        (expected,) = ZBufferRenderer().render([mesh], [rig])
        assert images.flow is None and np.abs(images.depth - expected.depth).max() < 1e-5


NUM_INTERPRETED = 2 * 4 + 2 + 2 * 4 + 1
COMPILE = """if True:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from smile_pipe.pipeline.rendering.kernels.cuda_faces import BLOCK, MAX_SMALL_FACE, _rasterise
    kinds = dict.fromkeys(("snapped", "faces"), "*i32") | {"zbuffer": "*i64"}
    kinds |= dict.fromkeys(("num_faces", "num_vertices", "size"), "i32")
    kinds |= dict.fromkeys(("flip", "block", "max_small"), "constexpr")
    for flip in (0, -1):
        source = ASTSource(_rasterise, kinds, {"flip": flip, "block": BLOCK, "max_small": MAX_SMALL_FACE})
        made = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
        assert "atom.global" in made.asm["ptx"] and "fma.rn.f64" not in made.asm["ptx"]
    print("compiled", len(made.asm["cubin"]))
"""


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
def test_kernel_compiles_for_a_gpu_without_a_gpu():
    process = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("compiled")


@pytest.mark.slow
@pytest.mark.skipif(HAS_GPU or INTERPRETED, reason="runs on the GPU, or in the interpreter already")
def test_suite_passes_in_the_triton_interpreter():
    # In a new process, because Triton reads the variable at import and may be imported already.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    process = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert process.returncode == 0 and f"{NUM_INTERPRETED} passed, 2 skipped" in process.stdout, process.stdout
