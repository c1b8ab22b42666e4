"""Small images that were looked at once, kept in `tests/golden`: what a renderer draws does not drift away from them.

`python -m tests.test_rendering_golden` draws them anew; look at them before they are committed.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.shapes import card, cube, join, painted, sphere
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.backend import build_renderer
from smile_pipe.pipeline.rendering.cameras import Rig, views_of
from smile_pipe.pipeline.rendering.encoding import quantise_views
from smile_pipe.shards.images import decode_image, encode_image

FOLDER = Path(__file__).parent / "golden"
SIZE = 64
CHANNELS = ("rgb", "depth", "normal", "flow")


def solids() -> Mesh:
    """A sphere before a cube, in colours, that move apart."""
    ball, box = painted(sphere(2, 0.45, (0.3, 0.25, 0.5)), (220, 60, 50)), painted(cube(0.55), (60, 110, 210))
    mesh = join(ball, box)
    flow = np.where(np.arange(len(mesh.vertices))[:, None] < len(ball.vertices), (0.3, 0.2, 0), (-0.4, 0, 0.1))
    return replace(mesh, flow=flow.astype(np.float32))


def board() -> Mesh:
    """A tilted chequered card whose texture is finer than the pixels at its far end."""
    cells = np.indices((16, 16)).sum(axis=0) % 2
    texture = np.stack([235 - 150 * cells, 200 - 90 * cells, 60 + 120 * cells], axis=-1).astype(np.uint8)
    texture = texture.repeat(16, axis=0).repeat(16, axis=1)
    mesh = card((-0.9, -0.9, 1.0), (1.8, 0.1, -0.4), (0.1, 1.6, -2.4), 6, texture)
    return replace(mesh, flow=np.zeros_like(mesh.vertices))


SCENES = {"solids": solids, "board": board}


def draw(renderer: str, scene: str) -> dict[str, NDArray]:
    """The quantised channels of a scene, its views side by side: [H, V W] or [H, V W, 3]."""
    (images,) = build_renderer(renderer).render([SCENES[scene]()], [Rig.build(views_of("3", 30.0), SIZE)])
    return {channel: np.concatenate(list(views), axis=1) for channel, views in quantise_views(images, CHANNELS).items()}


def kept(scene: str, channel: str) -> Path:
    return FOLDER / f"{scene}.{channel}.png"


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("renderer", ["zbuffer", "pytorch3d"])
def test_images_are_what_they_were(renderer, scene):
    if renderer == "pytorch3d" and importlib.util.find_spec("pytorch3d") is None:
        pytest.skip("PyTorch3D is not installed")
    found = draw(renderer, scene)
    covered = found["depth"] > 0
    # As `rgb` is a JPEG in shards, a normal's kind of PNG keeps its colours.
    before = {c: decode_image("normal" if c == "rgb" else c, kept(scene, c).read_bytes()) for c in CHANNELS}
    assert (covered != (before["depth"] > 0)).sum() <= 3
    both = covered & (before["depth"] > 0)
    for channel, most in (("rgb", 2), ("depth", 4), ("normal", 1), ("flow", 4)):
        off = np.abs(found[channel].astype(int) - before[channel])[both]
        assert np.quantile(off, 0.995) <= most, channel
        neither = ~covered & (before["depth"] == 0)
        assert np.array_equal(found[channel][neither], before[channel][neither])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in SCENES:
        for channel, pixels in draw("zbuffer", name).items():
            kept(name, channel).write_bytes(encode_image("normal" if channel == "rgb" else channel, pixels))
