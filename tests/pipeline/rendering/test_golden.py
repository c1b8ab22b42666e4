"""Regression test: rendered images match the reviewed images in `golden/`.

`PYTHONPATH=tests python` with this file renders them again; review them before committing.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.shapes import card, cube, join, painted, sphere
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig, build_views
from smile_pipe.pipeline.rendering.choose_backend import build_renderer
from smile_pipe.pipeline.rendering.encoding import quantise_views
from smile_pipe.shards.images import decode_image, encode_image

FOLDER = Path(__file__).parent / "golden"
SIZE = 64
CHANNELS = ("rgb", "depth", "normal", "flow")


def solids() -> Mesh:
    """A coloured sphere in front of a coloured cube, with flow that moves them apart."""
    ball, box = painted(sphere(2, 0.45, (0.3, 0.25, 0.5)), (220, 60, 50)), painted(cube(0.55), (60, 110, 210))
    mesh = join(ball, box)
    flow = np.where(np.arange(len(mesh.vertices))[:, None] < len(ball.vertices), (0.3, 0.2, 0), (-0.4, 0, 0.1))
    return replace(mesh, flow=flow.astype(np.float32))


def checkerboard() -> Mesh:
    """A tilted checkerboard whose texture is finer than the pixels at its far end."""
    cells = np.indices((16, 16)).sum(axis=0) % 2
    texture = np.stack([235 - 150 * cells, 200 - 90 * cells, 60 + 120 * cells], axis=-1).astype(np.uint8)
    texture = texture.repeat(16, axis=0).repeat(16, axis=1)
    mesh = card((-0.9, -0.9, 1.0), (1.8, 0.1, -0.4), (0.1, 1.6, -2.4), 6, texture)
    return replace(mesh, flow=np.zeros_like(mesh.vertices))


SCENES = {"solids": solids, "checkerboard": checkerboard}


def render_scene(renderer: str, scene: str) -> dict[str, NDArray]:
    """The quantised channels of a scene, its views side by side: [H, V W] or [H, V W, 3]."""
    (images,) = build_renderer(renderer).render([SCENES[scene]()], [Rig.build(build_views("3", 30.0), SIZE)])
    return {channel: np.concatenate(list(views), axis=1) for channel, views in quantise_views(images, CHANNELS).items()}


def golden_path(scene: str, channel: str) -> Path:
    return FOLDER / f"{scene}.{channel}.png"


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("renderer", ["zbuffer", "pytorch3d"])
def test_images_match_golden_files(renderer, scene):
    if renderer == "pytorch3d" and importlib.util.find_spec("pytorch3d") is None:
        pytest.skip("PyTorch3D is not installed")
    rendered = render_scene(renderer, scene)
    covered = rendered["depth"] > 0
    # `rgb` is stored like a normal (PNG) here, because JPEG is lossy.
    golden = {c: decode_image("normal" if c == "rgb" else c, golden_path(scene, c).read_bytes()) for c in CHANNELS}
    assert (covered != (golden["depth"] > 0)).sum() <= 3
    both_covered = covered & (golden["depth"] > 0)
    for channel, most in (("rgb", 2), ("depth", 4), ("normal", 1), ("flow", 4)):
        off = np.abs(rendered[channel].astype(int) - golden[channel])[both_covered]
        assert np.quantile(off, 0.995) <= most, channel
        both_uncovered = ~covered & (golden["depth"] == 0)
        assert np.array_equal(rendered[channel][both_uncovered], golden[channel][both_uncovered])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in SCENES:
        for channel, pixels in render_scene("zbuffer", name).items():
            golden_path(name, channel).write_bytes(encode_image("normal" if channel == "rgb" else channel, pixels))
