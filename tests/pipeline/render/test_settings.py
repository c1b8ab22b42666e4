"""Fingerprints of settings: shards that exist are rendered again only if their images would change."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.render import config as render_config
from smile_pipe.pipeline.render import settings as settings_module
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.rendering.cameras import build_views
from smile_pipe.shards.errors import UsageError


def settings(**changes) -> RenderSettings:
    values = {
        "data_version": 4,
        "landmarks": "file",
        "renderer": "zbuffer",
        "renderer_version": "1",
        "libraries": {},
        "views": build_views("3", 30.0),
        "size": 224,
        "projection": "perspective",
        "channels": ("rgb", "depth", "normal"),
        "prompts": load_bank(None),
    }
    return RenderSettings(**(values | changes))


def test_fingerprint_is_that_of_shards_that_exist():
    assert settings().images_fingerprint == "66d2bc85936093159f63352e63917995"


def test_jpeg_on_a_gpu_has_another_fingerprint():
    assert settings(jpeg="gpu").images_fingerprint != settings().images_fingerprint


def test_variants_have_other_fingerprints(monkeypatch):
    fingerprints = [settings(variant=number).images_fingerprint for number in range(3)]
    assert len(set(fingerprints)) == 3
    monkeypatch.setattr(settings_module, "VARIATION_VERSION", 99)
    later = [settings(variant=number).images_fingerprint for number in range(3)]
    assert [old == new for old, new in zip(fingerprints, later, strict=True)] == [True, False, False]


def test_axes_have_another_fingerprint_and_may_be_given_by_the_one_that_points_up():
    assert resolve(renderer="zbuffer", up="z") == resolve(renderer="zbuffer", axes="x z -y")
    turned, upright = (resolve(renderer="zbuffer", **options) for options in ({"up": "-y"}, {}))
    assert (turned.axes, upright.axes) == ("x,-y,-z", "x,y,z")
    assert turned.images_fingerprint != upright.images_fingerprint
    with pytest.raises(ValidationError, match="not axes; write those that point"):
        resolve(axes="up")


def test_units_have_another_fingerprint_and_auto_that_of_earlier_versions():
    assert settings(units="auto").images_fingerprint == "66d2bc85936093159f63352e63917995"
    fingerprints = {settings(units=unit).images_fingerprint for unit in ("auto", "mm", "cm", "m", "in")}
    assert len(fingerprints) == 5
    assert resolve(renderer="zbuffer", units="in").units == "in"
    with pytest.raises(ValidationError, match="Input should be 'auto', 'mm', 'cm', 'm' or 'in'"):
        resolve(units="km")


def test_a_copy_does_not_keep_the_fingerprint_and_the_rig_of_the_original():
    original = settings()
    before = (original.images_fingerprint, original.rig_of("").size)
    copied = original.model_copy(update={"size": 48})
    assert (copied.images_fingerprint, copied.rig_of("").size) == (settings(size=48).images_fingerprint, 48)
    assert copied == settings(size=48) and (original.images_fingerprint, original.rig_of("").size) == before


def resolve(**options) -> RenderSettings:
    return RenderConfig(data_dir=Path("faces"), out=Path("out"), **options).resolve()


def test_jpeg_on_a_gpu_needs_a_renderer_on_a_gpu():
    with pytest.raises(UsageError, match="`renderer=zbuffer` uses no GPU") as error:
        resolve(renderer="zbuffer", jpeg="gpu")
    assert (error.value.field, error.value.value) == ("jpeg", "gpu")


@pytest.mark.parametrize(("channels", "jpeg"), [(("rgb", "depth"), "gpu"), (("depth",), "cpu")])
def test_where_jpegs_are_encoded_matters_only_if_there_are_jpegs(monkeypatch, channels, jpeg):
    monkeypatch.setattr(render_config, "choose_renderer", lambda name, has_gpu: name)
    monkeypatch.setattr(render_config, "renderer_version", lambda name: "1")
    assert resolve(renderer="zbuffer-cuda", jpeg="gpu", channels=channels).jpeg == jpeg


@pytest.mark.parametrize("name", ["imagecodecs", "numba", "pillow", "simplejpeg", "zlib-ng"])
def test_another_version_of_a_codec_or_compiler_is_another_render(monkeypatch, name):
    monkeypatch.setattr(settings_module, "version", lambda library: "2" if library == name else "1")
    settings_module.library_versions.cache_clear()
    after = resolve()
    monkeypatch.setattr(settings_module, "version", lambda _: "1")
    settings_module.library_versions.cache_clear()
    assert after.images_fingerprint != resolve().images_fingerprint
    settings_module.library_versions.cache_clear()
