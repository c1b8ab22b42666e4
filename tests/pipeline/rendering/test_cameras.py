"""Camera rigs: built-in rigs, jitter and supersampling."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.testing import CliRunner

from helpers.shapes import card, sphere
from smile_pipe.cli.main import app
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.rendering.backend import BACKGROUND, ViewImages
from smile_pipe.pipeline.rendering.cameras import (
    MAX_PITCH,
    SPHERE_MAX_ANGLE,
    Rig,
    View,
    build_views,
    jitter_views,
    project,
)
from smile_pipe.pipeline.rendering.downsample import downsample
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet

FRONT = (View(name="front"),)


def camera_directions(views: tuple[View, ...]) -> np.ndarray:
    """Unit vectors to the cameras, [V, 3]."""
    return -np.array([np.array(camera.R)[:, 2] for camera in Rig.build(views, 32).cameras])


class TestSphere:
    @pytest.mark.parametrize("num", [1, 2, 12, 40, 99])
    def test_views_are_spread_evenly_in_front_of_the_face(self, num):
        views = build_views(f"sphere:{num}", 30.0)
        at = camera_directions(views)
        assert len({view.name for view in views}) == num and (views[0].yaw, views[0].pitch) == (0, 0)
        reach = np.cos(np.radians(SPHERE_MAX_ANGLE))
        assert (at[:, 2] > reach - 1e-6).all()
        if num >= 12:
            # Rings of equal area have equal numbers of views, and no two views are close.
            rings = np.histogram(at[:, 2], bins=4, range=(reach, 1))[0]
            assert rings.max() - rings.min() <= 2
            nearest = np.degrees(np.arccos(np.clip(np.sort(at @ at.T, axis=1)[:, -2], -1, 1)))
            fair = np.degrees(np.sqrt(2 * np.pi * (1 - reach) / num))
            assert nearest.min() > 0.5 * fair and nearest.max() < 1.1 * fair

    @pytest.mark.parametrize("num", [0, 100])
    def test_zero_or_too_many_views_are_rejected(self, num):
        with pytest.raises(UsageError, match="number of views must be 1 to 99"):
            build_views(f"sphere:{num}", 30.0)


class TestJitter:
    @given(st.integers(0, 2**64 - 1), st.floats(0.1, 30))
    def test_offsets_are_bounded_and_determined_by_the_seed(self, seed, degrees):
        views = (*build_views("9", 60.0), View(name="back", yaw=179.0, pitch=88.0))
        moved = jitter_views(views, degrees, seed)
        assert [view.name for view in moved] == [view.name for view in views]
        for before, after in zip(views, moved, strict=True):
            off = (after.yaw - before.yaw + 180) % 360 - 180
            assert abs(off) <= degrees + 1e-5 and abs(after.pitch - before.pitch) <= degrees + 1e-5
            assert -180 <= after.yaw <= 180 and abs(after.pitch) <= MAX_PITCH
        assert moved != views and moved == jitter_views(views, degrees, seed) != jitter_views(views, degrees, seed ^ 1)

    def test_each_sample_has_its_own_reproducible_cameras(self, faces_dir, tmp_path, monkeypatch):
        monkeypatch.setattr(render, "_in_process", lambda config: True)

        def cameras(name: str, **options) -> dict[str, list]:
            config = {"data_dir": faces_dir, "out": tmp_path / name, "size": 32, "limit": 4} | options
            render.run(RenderConfig.model_validate(config))
            shards = ShardSet.open(str(tmp_path / name))
            return {row.key: shards.read(row).record.cameras for row in shards.of_subjects(shards.subjects)}

        plain, moved = cameras("plain"), cameras("moved", jitter_deg=5)
        assert len({json.dumps([c.model_dump() for c in own]) for own in moved.values()}) == 4
        assert moved == cameras("again", jitter_deg=5) != cameras("other", jitter_deg=5, jitter_seed=1)
        for key in plain:
            for before, after in zip(plain[key], moved[key], strict=True):
                cosine = np.array(before.R)[:, 2] @ np.array(after.R)[:, 2]
                assert 0 < np.degrees(np.arccos(cosine)) < 5 * np.sqrt(2)
        # A model gets the directions of the rig without jitter.
        for name in ("plain", "moved"):
            reader = FaceDataset(ShardSet.open(str(tmp_path / name)), DecodeSpec(("rgb",), 32), 0)
            rows = reader.shards.of_subjects(reader.shards.subjects)
            assert reader.directions(rows).numpy() == pytest.approx(camera_directions(build_views("3", 30.0)), abs=1e-6)

    def test_seed_is_ignored_without_jitter(self, faces_dir, tmp_path):
        settings = [RenderConfig(data_dir=faces_dir, out=tmp_path, jitter_seed=seed).resolve() for seed in (0, 1)]
        assert settings[0] == settings[1]


class TestSupersampling:
    def test_supersampled_rig_projects_points_to_scaled_pixels(self):
        points = np.random.default_rng(0).uniform(-1, 1, (20, 3))
        rig = Rig.build(build_views("5", 30.0), 48)
        for coarse, fine in zip(rig.cameras, rig.supersampled(9).cameras, strict=True):
            scaled = project(coarse, points) * (3, 3, 1)
            assert project(fine, points) == pytest.approx(scaled)
        assert rig.supersampled(9).size == 144 and rig.supersampled(1) is rig

    def test_colours_and_normals_are_means_and_depth_is_that_of_the_nearest_sample(self):
        draw = np.random.default_rng(1)
        large = ViewImages(
            rgb=draw.integers(0, 256, (2, 6, 9, 3), np.uint8),
            depth=np.where(draw.random((2, 6, 9)) < 0.4, 0, draw.uniform(3, 7, (2, 6, 9))).astype(np.float32),
            normal=draw.normal(size=(2, 6, 9, 3)).astype(np.float32),
            flow=draw.normal(size=(2, 6, 9, 3)).astype(np.float32),
        )
        large.depth[:, :3, :3] = 0
        small = downsample(large, 9)

        def samples(image: np.ndarray) -> np.ndarray:
            """[V, H, W, 9, ...]"""
            cut = image.reshape(2, 2, 3, 3, 3, *image.shape[3:]).swapaxes(2, 3)
            return cut.reshape(2, 2, 3, 9, *image.shape[3:])

        assert np.abs(small.rgb - samples(large.rgb).mean(axis=3)).max() <= 0.5
        assert small.normal == pytest.approx(samples(large.normal).mean(axis=3), abs=1e-6)
        depth = np.where(samples(large.depth) > 0, samples(large.depth), np.inf)
        expected = depth.min(axis=3)
        assert (
            np.array_equal(small.depth, np.where(np.isfinite(expected), expected, 0)) and not small.depth[:, 0, 0].any()
        )
        nearest = np.take_along_axis(samples(large.flow), depth.argmin(axis=3)[..., None, None], axis=3)[..., 0, :]
        assert np.array_equal(small.flow, nearest)

    def test_outlines_are_smooth(self):
        # Coverage of each pixel by an edge that is tilted by one pixel in eight.
        mesh = card((-3, -3, 0), (3.15, 0, 0), (0.75, 6, 0))
        rig = Rig.build(FRONT, 32, "orthographic")

        def share(samples_per_pixel: int) -> np.ndarray:
            (images,) = ZBufferRenderer().render([mesh], [rig.supersampled(samples_per_pixel)])
            rgb = downsample(images, samples_per_pixel).rgb[0, ..., 0].astype(float)
            return (rgb - rgb.min()) / (BACKGROUND[0] - rgb.min())

        exact = share(16)
        jagged, smooth = share(1), share(4)
        assert set(np.unique(jagged)) <= {0, 1} and len(np.unique(smooth)) > 2
        assert np.abs(smooth - exact).max() < 0.3 < np.abs(jagged - exact).max()

    def test_sphere_keeps_its_position(self):
        rig = Rig.build(build_views("3", 30.0), 48)
        (one,) = ZBufferRenderer().render([sphere(3, 0.8)], [rig])
        (many,) = ZBufferRenderer().render([sphere(3, 0.8)], [rig.supersampled(4)])
        many = downsample(many, 4)
        both = (one.depth > 0) & (many.depth > 0)
        assert both.sum() / ((one.depth > 0) | (many.depth > 0)).sum() > 0.93
        assert np.median(np.abs(one.rgb.astype(int) - many.rgb)[both]) <= 1
        assert np.median(np.abs(one.depth - many.depth)[both]) < 0.02

    def test_drawn_size_is_limited(self, tmp_path):
        RenderConfig(data_dir=tmp_path, out=Path("out"), size=2048, supersample=4)
        with pytest.raises(ValidationError, match="draws over 4096 pixels a side"):
            RenderConfig(data_dir=tmp_path, out=Path("out"), size=2048, supersample=9)

    def test_old_option_name_is_an_alias(self, tmp_path):
        arguments = ["render", str(tmp_path), "--out", "out", "--size", "2048", "--samples", "9"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2 and "--supersample 9: draws over" in " ".join(result.output.split())

    def test_render_stage_supersamples(self, faces_dir, tmp_path, monkeypatch):
        monkeypatch.setattr(render, "_in_process", lambda config: True)
        images = []
        for num in (1, 4):
            config = RenderConfig(data_dir=faces_dir, out=tmp_path / str(num), size=32, limit=1, supersample=num)
            render.run(config)
            shards = ShardSet.open(str(config.out))
            (row,) = shards.of_subjects(shards.subjects)
            sample = shards.read(row)
            assert np.array(sample.record.cameras[0].K)[0, 2] == 16
            images.append(sample.images)
        assert images[0].keys() == images[1].keys() and images[0] != images[1]


def test_supersampling_keeps_flow():
    mesh = sphere(2, 0.7)
    mesh = replace(mesh, flow=np.tile(np.float32([0.1, -0.2, 0.3]), (len(mesh.vertices), 1)))
    rig = Rig.build(FRONT, 32)
    (images,) = ZBufferRenderer().render([mesh], [rig.supersampled(4)])
    small = downsample(images, 4)
    covered = small.depth > 0
    assert small.flow[covered] == pytest.approx(np.tile([0.1, -0.2, 0.3], (covered.sum(), 1)), abs=1e-5)
