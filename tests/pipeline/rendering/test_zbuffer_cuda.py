"""The z-buffer for GPUs against the one for CPUs: on the GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.shapes import card, cube, join, painted, sphere, with_flow
from helpers.triton_kernels import DEVICE, HAS_GPU, INTERPRETED, needs_triton
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Projection, Rig, build_views, jitter_views
from smile_pipe.pipeline.rendering.kernels import faces, vertices
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

pytest.importorskip("triton")
if HAS_GPU or INTERPRETED:
    from smile_pipe.pipeline.rendering.gpu import NUM_IN_WORK
    from smile_pipe.pipeline.rendering.kernels import cuda_faces, cuda_vertices
    from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

SIZE = 40 if HAS_GPU else 24
# The interpreter warns about lanes whose results are masked.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


def build_rig(projection: Projection) -> Rig:
    """Three views; pixels are not square, and the origin is not in the centre."""
    rig = Rig.build(build_views("3", 30.0), SIZE, projection)
    K = np.diag([1.125, 0.875, 1.0]) @ rig.intrinsics[0] + [[0, 0, -1.5], [0, 0, 1.25], [0, 0, 0]]
    changes = {"K": K.tolist(), "T": (0.05, -0.1, 5.25)}
    return Rig(tuple(camera.model_copy(update=changes) for camera in rig.cameras), SIZE)


def exact_rig(projection: Projection) -> Rig:
    """The view from the front with numbers without rounding errors; at a depth of 1, a unit is 16 pixels wide."""
    camera = Rig.build(build_views("3", 30.0)[:1], 16, projection).cameras[0]
    return Rig((camera.model_copy(update={"K": [[16, 0, 8], [0, 8, 8], [0, 0, 1]]}),), 16)


RIGS = {projection: build_rig(projection) for projection in ("perspective", "orthographic")}


@pytest.fixture(params=RIGS)
def rig(request) -> Rig:
    return RIGS[request.param]


def textured_card() -> Mesh:
    texture = np.random.default_rng(4).integers(0, 256, (64, 48, 3), np.uint8)
    return card((-0.6, -0.7, 0.5), (1.2, 0.3, -0.7), (0.0, 1.3, 0.2), 3, texture)


MESHES = {
    "small faces": painted(sphere(3, 0.8), (200, 90, 60)),
    "large faces": join(painted(sphere(0, 0.9), (90, 200, 60)), painted(cube(0.6), (20, 60, 220))),
    "a texture": textured_card(),
    "two faces over all": card((-3, -3, 0), (6, 0, 0), (0, 6, -2)),
    "depth beyond what is stored": card((-1, -1, 3), (2, 0, 0), (0, 2, -6)),
}


def project_all(mesh: Mesh, rig: Rig) -> tuple[np.ndarray, np.ndarray]:
    screen = np.empty((len(rig.cameras), len(mesh.vertices), 3), np.float32)
    snapped = np.zeros(screen.shape, np.int32)
    for v in range(len(rig.cameras)):
        R, T, K = rig.rotations[v], rig.translations[v], rig.intrinsics[v]
        vertices.project(mesh.vertices, R, T, K, rig.is_perspective, screen[v], snapped[v])
    return screen, snapped


def check_zbuffer(mesh: Mesh, rig: Rig) -> None:
    _, snapped = project_all(mesh, rig)
    expected = np.empty((len(snapped), rig.size, rig.size), np.int64)
    for v, view in enumerate(snapped):
        faces.rasterise(view, mesh.faces, rig.is_perspective, expected[v])
    tensors = (torch.from_numpy(array).to(DEVICE) for array in (snapped, mesh.faces))
    zbuffer = cuda_faces.rasterise(*tensors, rig.size, rig.is_perspective).cpu().numpy()
    assert (expected != faces.NO_FACE).any() and np.array_equal(zbuffer, expected)


def check_projection(mesh: Mesh, rig: Rig) -> np.ndarray:
    """Compare with the CPU, and return which vertices can be drawn, [V, N]."""
    expected_screen, expected = project_all(mesh, rig)
    renderer = ZBufferCudaRenderer(DEVICE)
    drawing = renderer._begin(renderer._stage(mesh), rig, slice(0, len(rig.cameras)), 0)
    if HAS_GPU:
        torch.cuda.synchronize()
    snapped, is_drawn = drawing.snapped.cpu().numpy(), expected[..., 0] != vertices.OFFSCREEN
    assert np.array_equal(snapped[..., 0], expected[..., 0]) and np.array_equal(snapped[is_drawn], expected[is_drawn])
    assert is_drawn.any() and np.array_equal(drawing.screen.cpu().numpy()[is_drawn], expected_screen[is_drawn])
    return is_drawn


class CountBytes(TorchDispatchMode):
    """Adds up the bytes of all new tensors with at least `num_values` values."""

    def __init__(self, num_values: int) -> None:
        super().__init__()
        self.num_values, self.bytes = num_values, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        is_new = func._schema.name in ("aten::empty", "aten::empty_like", "aten::full")
        if is_new and out.numel() >= self.num_values:
            self.bytes += out.nbytes
        return out


@needs_triton
@pytest.mark.parametrize("name", MESHES)
def test_zbuffer_matches_the_cpu(name, rig):
    check_zbuffer(MESHES[name], rig)


@needs_triton
@pytest.mark.parametrize("num_rows", [6, 8, 10])
def test_faces_with_as_many_pixels_as_a_lane_draws_match_the_cpu(num_rows):
    # A face has 8 columns and `num_rows` rows; a lane draws up to `MAX_SMALL_FACE` = 64 pixels.
    check_zbuffer(card((-0.5, -1, 0), (1, 0, 0), (0, num_rows / 4, 0), 2), exact_rig("orthographic"))


@needs_triton
def test_offscreen_and_zero_area_faces_are_not_drawn(rig):
    mesh = sphere(1, 0.5)
    _, snapped = project_all(mesh, rig)
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
def test_projection_matches_the_cpu(name, rig):
    check_projection(MESHES[name], rig)


@needs_triton
@pytest.mark.parametrize("projection", ["perspective", "orthographic"])
def test_halves_of_subpixels_and_vertices_that_cannot_be_drawn_match_the_cpu(projection):
    halves = np.arange(-5, 6)[:, None] / [8192, 4096, np.inf] + [0, 0, 4]
    # At and behind the camera, nearer than `NEAR`, and outside the guard band in one coordinate.
    others = [[0, 0, 5], [0, 0, 9], [0, 0, 4.9995], [1e7, 0, 0], [-1e7, 0, 0], [0, 1e7, 0], [0, -1e7, 0]]
    mesh = replace(sphere(0, 1.0), vertices=np.concatenate([halves, others]).astype(np.float32))
    is_drawn = check_projection(mesh, exact_rig(projection))
    assert is_drawn[0, : len(halves)].all() and not is_drawn[0, len(halves) :].any()


@needs_triton
@pytest.mark.parametrize("offset", [0, 1e7])
@pytest.mark.parametrize("name", MESHES)
def test_vertex_normals_match_the_cpu_in_any_order_of_faces(name, offset):
    mesh = replace(MESHES[name], vertices=MESHES[name].vertices.copy())
    # One vertex is an outlier, whose faces do not count.
    mesh.vertices[0, 0] += offset
    order = np.random.default_rng(5).permutation(len(mesh.faces))
    corners, shuffled = (torch.from_numpy(array).to(DEVICE) for array in (mesh.vertices, mesh.faces[order]))
    normals = cuda_vertices.vertex_normals(corners, shuffled)
    assert np.abs(normals.cpu().numpy() - vertices.vertex_normals(mesh.vertices, mesh.faces)).max() < 1e-5
    assert torch.equal(normals, cuda_vertices.vertex_normals(corners, torch.from_numpy(mesh.faces).to(DEVICE)))


@needs_triton
@pytest.mark.parametrize("name", MESHES)
def test_images_match_the_cpu_renderer(name, rig):
    mesh = with_flow(MESHES[name])
    (rendered,) = ZBufferCudaRenderer(DEVICE).render([mesh], [rig])
    (expected,) = ZBufferRenderer().render([mesh], [rig])
    assert (expected.depth > 0).any() and np.array_equal(rendered.depth > 0, expected.depth > 0)
    assert np.abs(rendered.depth - expected.depth).max() < 1e-6
    assert np.abs(rendered.normal - expected.normal).max() < 1e-5
    assert np.abs(rendered.flow - expected.flow).max() < 1e-6
    off = np.abs(rendered.rgb.astype(int) - expected.rgb)
    assert off.max() <= 1 and (off > 0).mean() < 0.001


@needs_triton
@pytest.mark.parametrize(
    ("name", "memory", "samples_per_pixel"),
    [("small faces", 1, 1), ("a texture", 1, 4), ("depth beyond what is stored", 1 << 30, 4)],
)
def test_quantised_images_match_the_cpu_renderer(name, memory, samples_per_pixel, rig):
    mesh = with_flow(MESHES[name])
    # Some of it is beyond what is stored.
    mesh = replace(mesh, flow=3 * mesh.flow)
    channels = ("rgb", "depth", "normal", "flow")
    given = ([mesh], [rig], channels, samples_per_pixel)
    (rendered,) = ZBufferCudaRenderer(DEVICE, memory).render_quantised(*given)
    (expected,) = ZBufferRenderer().render_quantised(*given)
    assert rendered.is_visible and tuple(rendered.pixels) == channels
    for channel in channels:
        ours, theirs = rendered.pixels[channel], expected.pixels[channel]
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        off = np.abs(ours.astype(int) - theirs)
        assert off.max() <= 1 and (off > 0).mean() < 0.001, channel


@needs_triton
def test_only_the_given_channels_are_computed_and_an_invisible_mesh_is_noticed():
    rig = RIGS["perspective"]
    behind = sphere(1, 0.5)
    behind.vertices[:, 2] += 50
    seen, unseen = ZBufferCudaRenderer(DEVICE).render_quantised([sphere(1, 0.5), behind], [rig] * 2, ("normal",))
    assert list(seen.pixels) == ["normal"] and seen.is_visible and not unseen.is_visible
    assert (unseen.pixels["normal"] == 128).all()
    with pytest.raises(ValueError, match="no flow"):
        ZBufferCudaRenderer(DEVICE).render_quantised([behind], [rig], ("flow",))


@needs_triton
def test_many_meshes_keep_their_order_and_use_their_own_rigs():
    meshes = [painted(sphere(0, 0.3 + 0.1 * n), (40 * n, 9, 9)) for n in range(NUM_IN_WORK + 1)]
    rigs = [Rig.build(jitter_views(build_views("3", 30.0)[:2], 20.0, n), SIZE) for n in range(len(meshes))]
    given = (meshes, rigs, ("rgb", "depth"))
    rendered, expected = (each.render_quantised(*given) for each in (ZBufferCudaRenderer(DEVICE), ZBufferRenderer()))
    for ours, theirs in zip(rendered, expected, strict=True):
        for channel in ("rgb", "depth"):
            off = np.abs(ours.pixels[channel].astype(int) - theirs.pixels[channel])
            assert off.max() <= 1, channel


@needs_triton
def test_only_the_views_that_fit_in_memory_are_drawn_together(monkeypatch):
    num_views, find_faces = [], ZBufferCudaRenderer.find_faces

    def count(renderer, drawing, exactly):
        num_views.append(len(drawing.cameras))
        return find_faces(renderer, drawing, exactly)

    monkeypatch.setattr(ZBufferCudaRenderer, "find_faces", count)
    rig, seen_in_one_view = RIGS["perspective"], sphere(0, 0.1, (0, 0, 3))
    memory = NUM_IN_WORK * 2 * SIZE**2 * ZBufferCudaRenderer.bytes_per_pixel
    for given, expected in ((memory - 1, [1, 1, 1]), (memory, [2, 1])):
        num_views.clear()
        rendered = ZBufferCudaRenderer(DEVICE, given).render_quantised([seen_in_one_view], [rig], ("depth",))
        assert num_views == expected and rendered[0].is_visible
        assert rendered[0].pixels["depth"].any(axis=(1, 2)).tolist() == [True, False, False]


@needs_triton
def test_device_memory_of_the_images_is_within_the_estimate():
    rig = RIGS["perspective"]
    # Tensors by the number of pixels: all that are as large as an image of the views.
    num_pixels = len(rig.cameras) * SIZE * SIZE
    with CountBytes(num_pixels) as counter:
        ZBufferCudaRenderer(DEVICE).render_quantised(
            [with_flow(textured_card())], [rig], ("rgb", "depth", "normal", "flow")
        )
    # The copies in host memory are as large as the quantised images.
    assert 0.9 < (counter.bytes / num_pixels - 14) / ZBufferCudaRenderer.bytes_per_pixel <= 1


# Compiles each kernel for the arguments with which a renderer launches it.
COMPILE = """if True:
    import sys
    import torch
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile
    from triton.runtime.jit import JITFunction
    from dataclasses import replace
    import numpy as np
    from helpers.shapes import card, sphere
    from smile_pipe.pipeline.rendering.cameras import Rig, build_views
    from smile_pipe.pipeline.rendering.kernels.cuda_vertices import count_faces_in_bins, project
    from smile_pipe.pipeline.rendering.zbuffer_cuda import ZBufferCudaRenderer

    SIZE = 32
    TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64"}
    TYPES |= {torch.uint8: "*u8", torch.int16: "*i16"}
    compiled = {}

    def compile_only(kernel, *args, grid, warmup, **options):
        fusion = options.pop("enable_fp_fusion", True)
        named = dict(zip(kernel.arg_names, args)) | options
        constants, kinds = {}, {}
        for parameter in kernel.params:
            value = named[parameter.name]
            if parameter.is_constexpr or value is None:
                constants[parameter.name], kinds[parameter.name] = value, "constexpr"
            elif isinstance(value, torch.Tensor):
                kinds[parameter.name] = TYPES[value.dtype]
            else:
                kinds[parameter.name] = "i32" if isinstance(value, int) else "fp32"
        source = ASTSource(kernel, kinds, constants)
        made = compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": fusion})
        assert made.asm["cubin"] and (fusion or not any(f"fma.rn.{t}" in made.asm["ptx"] for t in ("f32", "f64")))
        compiled.setdefault(kernel.__name__, set()).add(tuple(constants.values()))

    JITFunction.run = compile_only
    for projection in ("perspective", "orthographic"):
        rig = Rig.build(build_views("3", 30.0), SIZE, projection)
        textured = card((0, 0, 0), (1, 0, 0), (0, 1, 0), 2, np.zeros((8, 8, 3), np.uint8))
        for plain, samples in ((textured, 1), (sphere(1, 0.5), 4)):
            mesh = replace(plain, flow=np.zeros_like(plain.vertices))
            channels = ("rgb", "depth", "normal", "flow")
            ZBufferCudaRenderer("cpu").render_quantised([mesh], [rig], channels, samples)
            cameras = torch.zeros(3, 16, dtype=torch.float64)
            _, _, ndc = project(torch.from_numpy(mesh.vertices), cameras, SIZE, rig.is_perspective, as_ndc=True)
            count_faces_in_bins(ndc, torch.from_numpy(mesh.faces), SIZE, 16)
    print({name: len(constants) for name, constants in sorted(compiled.items())})
"""


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
def test_kernels_compile_for_a_gpu_without_a_gpu():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    kernels = {"_count_faces_in_bins": 1, "_normalise": 1, "_project": 4, "_rasterise": 2, "_reduce": 2, "_shade": 4}
    assert process.stdout.strip() == str({**kernels, "_sum_normals": 1})


@pytest.mark.slow
@pytest.mark.skipif(HAS_GPU or INTERPRETED, reason="runs on the GPU, or in the interpreter already")
def test_suite_passes_in_the_triton_interpreter():
    # In a new process, because Triton reads the variable at import and may be imported already.
    files = [__file__, str(Path(__file__).with_name("test_pytorch3d.py"))]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rs", *files]
    process = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert process.returncode == 0 and "no GPU" not in process.stdout, process.stdout
