"""Agreement of the renderers `zbuffer` and `pytorch3d`: on an ico-sphere and on a face scan.

The figures in `pipeline/rendering/README.md` come from `PYTHONPATH=tests python` with this file.
"""

import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest

from helpers.shapes import sphere, with_flow
from helpers.shared_faces import ICT_FILE, MISSING, load_smiling_face
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import ViewImages
from smile_pipe.pipeline.rendering.cameras import Projection, Rig, View, build_views
from smile_pipe.pipeline.rendering.choose_backend import build_renderer

if importlib.util.find_spec("pytorch3d") is None:
    pytest.skip("PyTorch3D is not installed", allow_module_level=True)

from smile_pipe.pipeline.rendering import pytorch3d

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
    mesh = with_flow(mesh)
    a, b = (build_renderer(name).render([mesh], [rig])[0] for name in ("zbuffer", "pytorch3d"))
    return Parity.of(a, b)


@pytest.fixture(scope="module")
def face() -> Mesh:
    if not ICT_FILE.is_file():
        pytest.skip(MISSING)
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
def test_depth_of_pytorch3d_matches_ours(projection):
    # The renderer takes only faces from PyTorch3D; their depths show that both see the same surface.
    rig, mesh = Rig.build(VIEWS, 48, projection), sphere(3, 0.8)
    (images,) = build_renderer("pytorch3d").render([mesh], [rig])
    for v in range(len(VIEWS)):
        packed = pytorch3d.pack_view(mesh, rig, v, np.ones(len(mesh.vertices), bool))
        face, depth = pytorch3d.rasterise(packed, rig.size, 0, 0, rig.is_perspective)
        is_covered = (face[0, ..., 0] >= 0).numpy()
        assert is_covered.any() and np.array_equal(is_covered, images.depth[v] > 0)
        assert np.abs(depth[0, ..., 0].numpy() - images.depth[v])[is_covered].max() < 1e-5


if __name__ == "__main__":
    for title, shape in (("sphere", sphere(3, 0.8)), ("face", load_smiling_face())):
        for kind in ("perspective", "orthographic"):
            parity = compare(shape, 96, kind)
            print(
                f"{title}, {len(shape.faces):,} faces, 96 px, {kind}:",
                *(f"{k}={v:.2g}" for k, v in vars(parity).items()),
            )
