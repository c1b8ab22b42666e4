"""Fingerprints of settings: shards that exist are rendered again only if their images would change."""

from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.rendering.cameras import build_views


def settings(**changes) -> RenderSettings:
    values = {
        "data_version": 4,
        "renderer": "zbuffer",
        "renderer_version": "1",
        "views": build_views("3", 30.0),
        "size": 224,
        "projection": "perspective",
        "channels": ("rgb", "depth", "normal"),
        "prompts": load_bank(None),
    }
    return RenderSettings(**(values | changes))


def test_fingerprint_is_that_of_shards_that_exist():
    assert settings().images_fingerprint == "4eb0b6f42ebf241ca7944da380623ca6"


def test_jpeg_on_a_gpu_has_another_fingerprint():
    assert settings(jpeg="gpu").images_fingerprint != settings().images_fingerprint
