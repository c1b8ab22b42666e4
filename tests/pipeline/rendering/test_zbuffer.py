"""Quantised images of the z-buffer for CPUs: in parts of the views, supersampled, and of what is not visible."""

import numpy as np
import pytest

from helpers.shapes import painted, sphere
from smile_pipe.pipeline.rendering import zbuffer
from smile_pipe.pipeline.rendering.cameras import Rig, build_views
from smile_pipe.pipeline.rendering.downsample import downsample
from smile_pipe.pipeline.rendering.encoding import quantise_views
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer

RIG = Rig.build(build_views("5", 30.0), 24)
CHANNELS = ("rgb", "depth", "normal")


@pytest.mark.parametrize("samples_per_pixel", [1, 4])
@pytest.mark.parametrize("num_together", [1, 2, 5])
def test_quantised_images_do_not_depend_on_how_views_are_divided(monkeypatch, num_together, samples_per_pixel):
    mesh = painted(sphere(2, 0.7, (0.2, 0.1, 0)), (200, 90, 60))
    view_bytes = RIG.size**2 * samples_per_pixel * zbuffer.BYTES_PER_PIXEL
    monkeypatch.setattr(zbuffer, "MEMORY", num_together * view_bytes)
    (quantised,) = ZBufferRenderer().render_quantised([mesh], [RIG], CHANNELS, samples_per_pixel)
    (images,) = ZBufferRenderer().render([mesh], [RIG.supersampled(samples_per_pixel)])
    expected = quantise_views(downsample(images, samples_per_pixel), CHANNELS)
    assert quantised.is_visible and list(quantised.pixels) == list(CHANNELS)
    for channel in CHANNELS:
        assert np.array_equal(quantised.pixels[channel], expected[channel])


def test_a_mesh_out_of_sight_is_not_visible_and_one_without_flow_has_none():
    behind = sphere(1, 0.5, (0, 0, 50))
    (images,) = ZBufferRenderer().render_quantised([behind], [RIG], ("rgb",))
    assert not images.is_visible
    with pytest.raises(ValueError, match="no flow"):
        ZBufferRenderer().render_quantised([behind], [RIG], ("flow",))
