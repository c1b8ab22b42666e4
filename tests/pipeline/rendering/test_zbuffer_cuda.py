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
from smile_pipe.pipeline.rendering.cameras import Rig, jittered, views_of
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
on_triton = pytest.mark.skipif(not (HAS_GPU or INTERPRETED), reason="no GPU; runs in the interpreter, by the last test")
# Of lanes that the interpreter computes for nothing.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(params=["perspective", "orthographic"])
def rig(request) -> Rig:
    return Rig.build(views_of("3", 30.0), SIZE, request.param)


def board() -> Mesh:
    texture = np.random.default_rng(4).integers(0, 256, (64, 48, 3), np.uint8)
    return card((-0.6, -0.7, 0.5), (1.2, 0.3, -0.7), (0.0, 1.3, 0.2), 3, texture)


MESHES = {
    "small faces": painted(sphere(3, 0.8), (200, 90, 60)),
    "large faces": join(painted(sphere(0, 0.9), (90, 200, 60)), painted(cube(0.6), (20, 60, 220))),
    "a texture": board(),
    "two faces over all": card((-3, -3, 0), (6, 0, 0), (0, 6, -2)),
}


def snapped(mesh: Mesh, rig: Rig) -> np.ndarray:
    screen = np.empty((len(rig.cameras), len(mesh.vertices), 3), np.float32)
    found = np.zeros(screen.shape, np.int32)
    for v in range(len(rig.cameras)):
        R, T, K = rig.rotations[v], rig.translations[v], rig.intrinsics[v]
        vertices.project(mesh.vertices, R, T, K, rig.is_perspective, screen[v], found[v])
    return found


@on_triton
@pytest.mark.parametrize("name", MESHES)
def test_words_are_those_of_the_processor(name, rig):
    mesh = MESHES[name]
    at = snapped(mesh, rig)
    expected = np.empty((len(at), SIZE, SIZE), np.int64)
    for v, view in enumerate(at):
        faces.rasterise(view, mesh.faces, rig.is_perspective, expected[v])
    put = (torch.from_numpy(array).to(DEVICE) for array in (at, mesh.faces))
    words = cuda_faces.rasterise(*put, SIZE, rig.is_perspective).cpu().numpy()
    assert (expected != faces.NO_FACE).any() and np.array_equal(words, expected)


@on_triton
def test_faces_of_nowhere_and_without_area_are_not_drawn(rig):
    mesh = sphere(1, 0.5)
    at = snapped(mesh, rig)
    at[:, 7, 0] = vertices.NOWHERE
    odd = np.concatenate([mesh.faces, [[0, 0, 1], [3, 3, 3]]]).astype(np.int32)
    words = cuda_faces.rasterise(
        torch.from_numpy(at).to(DEVICE), torch.from_numpy(odd).to(DEVICE), SIZE, rig.is_perspective
    )
    seen = np.unique(faces.LAST_FACE - (words[words != faces.NO_FACE].cpu().numpy() & faces.LAST_FACE))
    assert (
        len(seen) > 10 and not np.isin(seen, np.nonzero((odd == 7).any(axis=1))[0]).any() and seen.max() < len(odd) - 2
    )


@on_triton
@pytest.mark.parametrize("name", MESHES)
def test_images_are_those_of_the_processor(name, rig):
    mesh = MESHES[name]
    mesh = replace(mesh, flow=(0.5 * np.sin(5 * mesh.vertices[:, [1, 2, 0]])).astype(np.float32))
    (ours,) = ZBufferCudaRenderer(DEVICE).render([mesh], [rig])
    (expected,) = ZBufferRenderer().render([mesh], [rig])
    assert (expected.depth > 0).any() and np.array_equal(ours.depth > 0, expected.depth > 0)
    assert np.abs(ours.depth - expected.depth).max() < 1e-5
    assert np.abs(ours.normal - expected.normal).max() < 1e-4
    assert np.abs(ours.flow - expected.flow).max() < 1e-4
    off = np.abs(ours.rgb.astype(int) - expected.rgb)
    assert off.max() <= 1 and (off > 0).mean() < 0.01


@on_triton
def test_each_mesh_has_its_own_rig():
    meshes = [sphere(1, 0.6), cube(0.5)]
    rigs = [Rig.build(jittered(views_of("3", 30.0), 20.0, seed), SIZE) for seed in (1, 2)]
    together = ZBufferCudaRenderer(DEVICE).render(meshes, rigs)
    for mesh, rig, images in zip(meshes, rigs, together, strict=True):
        (expected,) = ZBufferRenderer().render([mesh], [rig])
        assert images.flow is None and np.abs(images.depth - expected.depth).max() < 1e-5


NUM_INTERPRETED = 2 * 4 + 2 + 2 * 4 + 1
COMPILE = """if True:
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from smile_pipe.pipeline.rendering.kernels.cuda_faces import BLOCK, FEW, _rasterise
    kinds = dict.fromkeys(("snapped", "faces"), "*i32") | {"words": "*i64"}
    kinds |= dict.fromkeys(("num_faces", "num_vertices", "size"), "i32")
    kinds |= dict.fromkeys(("flip", "block", "few"), "constexpr")
    for flip in (0, -1):
        source = ASTSource(_rasterise, kinds, {"flip": flip, "block": BLOCK, "few": FEW})
        made = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
        assert "atom.global" in made.asm["ptx"] and "fma.rn.f64" not in made.asm["ptx"]
    print("compiled", len(made.asm["cubin"]))
"""


@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
def test_it_compiles_for_a_gpu_also_where_there_is_none():
    told = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("compiled")


@pytest.mark.skipif(HAS_GPU or INTERPRETED, reason="runs on the GPU, or in the interpreter already")
def test_all_of_it_in_the_interpreter():
    # In a process of its own: Triton looks at the variable when it is imported, which others here may have done.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    told = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert told.returncode == 0 and f"{NUM_INTERPRETED} passed, 2 skipped" in told.stdout, told.stdout
