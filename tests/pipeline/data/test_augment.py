"""Augmentation: a mirrored face equals the rendering of a mirrored head, and randomness is a function of seeds."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from torch import Tensor

from helpers.shapes import card, join, painted, sphere
from smile_pipe.model.config import DYNAMIC_TIME
from smile_pipe.model.packing import PackedFrames
from smile_pipe.pipeline.common.optimization import cosine_schedule
from smile_pipe.pipeline.data import augment as augmentation
from smile_pipe.pipeline.data.augment import augment, generator_for, mirror_order
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.rendering.cameras import Rig, View, build_views
from smile_pipe.pipeline.rendering.encoding import quantise_normal
from smile_pipe.pipeline.rendering.zbuffer import ZBufferRenderer
from smile_pipe.pipeline.sequences.dynamic_images import rank_pooling_weights

SIZE = 48


def directions(views: tuple[View, ...]) -> Tensor:
    """Unit vectors from the face to each camera, [V, 3]."""
    return torch.tensor([[-axis[2] for axis in camera.R] for camera in Rig.build(views, SIZE).cameras])


def batch(num: int = 8, num_views: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, num_views, 3, size, size), dtype=torch.uint8, generator=generator)


def to_bytes(views: Tensor) -> Tensor:
    """Views in [0, 1] as `augment` takes them."""
    return (views * 255).round().to(torch.uint8)


@pytest.fixture(params=["on the CPU", "on a device"], autouse=True)
def implementation(request, monkeypatch):
    """All tests check both implementations; operators for other devices also run on the CPU."""
    if request.param == "on a device":
        monkeypatch.setattr(augmentation, "warp", augmentation._warp_on_device)


def lopsided() -> Mesh:
    """A head with a red ear on its left, a blue cheek on its right and a fin: nothing like its mirror image."""
    return join(
        painted(sphere(4, 0.7), (200, 170, 150)),
        painted(sphere(3, 0.3, (0.61, 0.13, 0.07)), (220, 30, 40)),
        painted(sphere(3, 0.2, (-0.33, -0.31, 0.57)), (30, 60, 220)),
        painted(card((-0.4, 0.5, 0.3), (0.7, 0.4, -0.1), (0.1, 0.3, 0.4)), (40, 180, 60)),
    )


def mirror_image(mesh: Mesh) -> Mesh:
    return replace(mesh, vertices=mesh.vertices * np.float32([-1, 1, 1]), faces=mesh.faces[:, [0, 2, 1]].copy())


def render(mesh: Mesh, rig: str, channel: str) -> Tensor:
    """Views, uint8 [V, 3, H, W]."""
    (images,) = ZBufferRenderer().render([mesh], [Rig.build(build_views(rig, 30.0), SIZE)])
    pixels = images.rgb if channel == "rgb" else quantise_normal(images.normal)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.fixture
def only_mirrored(monkeypatch):
    """Augmentation that only mirrors."""
    for name in ("SHIFT", "ZOOM", "TURN", "BRIGHTNESS", "TINT"):
        monkeypatch.setattr(augmentation, name, 0.0)


class TestMirrorOrder:
    @pytest.mark.parametrize(
        ("rig", "order"), [("3", [0, 2, 1]), ("5", [0, 2, 1, 4, 3]), ("9", [0, 2, 1, 3, 5, 4, 6, 8, 7])]
    )
    def test_left_and_right_views_swap_in_a_symmetric_rig(self, rig, order):
        assert mirror_order(directions(build_views(rig, 30.0))) == order

    def test_views_in_the_middle_stay(self):
        middle = (View(name="up", pitch=20), View(name="front"), View(name="back", yaw=180))
        assert mirror_order(directions(middle)) == [0, 1, 2]

    @pytest.mark.parametrize("yaws", [(0, 30), (30, -25), (45,)])
    def test_asymmetric_rig_has_no_mirror_order(self, yaws):
        assert mirror_order(directions(tuple(View(name=f"v{n}", yaw=yaw) for n, yaw in enumerate(yaws)))) is None


class TestMirroring:
    @pytest.mark.parametrize("rig", ["3", "9"])
    @pytest.mark.parametrize("channel", ["rgb", "normal"])
    def test_mirrored_sample_equals_rendering_of_mirrored_mesh(self, only_mirrored, channel, rig):
        mesh = lopsided()
        as_is, mirrored = render(mesh, rig, channel), render(mirror_image(mesh), rig, channel)
        found = augment(
            as_is.expand(16, *as_is.shape),
            [channel],
            mirror_order(directions(build_views(rig, 30.0))),
            generator_for(0),
        )
        as_is, mirrored = as_is / 255, mirrored / 255
        is_mirrored = [bool((views - mirrored).abs().max() < (views - as_is).abs().max()) for views in found]
        assert 3 <= sum(is_mirrored) <= 13
        for views, chosen in zip(found, is_mirrored, strict=True):
            levels = ((views - (mirrored if chosen else as_is)) * 255).abs()
            assert levels.max() < 1.001

    def test_wrong_mirroring_is_detected(self):
        """Each wrong variant differs clearly: swapped views, negated x, missing flip."""
        mesh = lopsided()
        as_is, mirrored = render(mesh, "3", "normal") / 255, render(mirror_image(mesh), "3", "normal") / 255
        swapped = as_is[[0, 2, 1]].flip(-1)
        assert (swapped - mirrored).abs().max() > 0.3
        assert (as_is[[0, 2, 1]] - mirrored).abs().max() > 0.3
        assert (as_is.flip(-1) - mirrored).abs().max() > 0.3

    def test_views_of_an_asymmetric_rig_are_not_mirrored(self, only_mirrored):
        views = batch()
        torch.testing.assert_close(augment(views, ["normal"], None, generator_for(0)), views / 255, atol=1e-5, rtol=0)


def step_by_step(
    views: Tensor, channel: str, order: list[int] | None, generator: torch.Generator, frames: PackedFrames
) -> Tensor:
    """Reference of `augment`: mirror, then recolour, then move all images with operators of PyTorch."""
    num, num_views = len(frames.counts), views.shape[1]
    chosen = torch.zeros(len(views), dtype=torch.bool)
    if order is not None:
        chosen = frames.repeat_per_sample(torch.rand(num, generator=generator) < 0.5)
        views = torch.where(chosen[:, None, None, None, None], views[:, order].flip(-1), views)

    def drawn(limit: float, *shape: int) -> Tensor:
        return (torch.rand(num * num_views, *shape, generator=generator) * 2 - 1) * limit

    zoom, turn = 1 + drawn(augmentation.ZOOM), drawn(augmentation.TURN)
    shift = drawn(augmentation.SHIFT, 2)
    turned = zoom[:, None, None] * torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], 1).view(-1, 2, 2)
    theta = torch.cat([turned, shift[:, :, None]], dim=2)
    if channel in ("normal", "flow"):
        zero = torch.where(frames.is_dynamic | (channel == "flow"), 128 / 255, 0.5)[:, None, None, None, None]
        vectors = views[:, :, :2] - zero
        vectors[chosen, :, 0] *= -1
        # A turn of the picture by an angle: (x, y) -> (x cos - y sin, x sin + y cos), with x right and y up.
        turns = frames.repeat_per_sample(turn.unflatten(0, (num, num_views)) * torch.ones(num, 1))
        turns = turns[..., None, None]
        x, y = vectors.unbind(2)
        vectors = torch.stack([x * turns.cos() - y * turns.sin(), x * turns.sin() + y * turns.cos()], dim=2)
        views = torch.cat([(vectors + zero).clamp(0, 1), views[:, :, 2:]], dim=2)
    images = views.flatten(0, 1)
    theta = frames.repeat_per_sample(theta.unflatten(0, (num, num_views))).flatten(0, 1)
    if channel == "rgb":
        factors = (1 + drawn(augmentation.BRIGHTNESS, 1)) * (1 + drawn(augmentation.TINT, 3))
        factors = frames.repeat_per_sample(factors.unflatten(0, (num, num_views)))
        factors = torch.where(frames.is_dynamic[:, None, None], 1.0, factors)
        images = (images * factors.flatten(0, 1)[..., None, None]).clamp(max=1)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved.unflatten(0, (-1, num_views))


class TestStepByStep:
    @pytest.mark.parametrize("channel", ["rgb", "depth", "normal", "flow"])
    @pytest.mark.parametrize("order", [None, [0, 2, 1], [2, 1, 0]])
    def test_augment_equals_the_steps_one_by_one(self, channel, order):
        for seed, frames in enumerate((packed_frames([1] * 9), packed_frames([1, 3, 2, 3], dynamic=(3, 5, 8)))):
            views = torch.randint(0, 256, (9, 3, 3, 20, 14), dtype=torch.uint8, generator=generator_for(seed))
            generators = generator_for(seed, 1), generator_for(seed, 1)
            found = augment(views, [channel], order, generators[0], frames)
            expected = step_by_step(views / 255, channel, order, generators[1], frames)
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
            assert torch.equal(*(generator.get_state() for generator in generators))


class TestTurning:
    @pytest.mark.parametrize("mirrors", [False, True])
    def test_turned_normals_equal_rendering_of_turned_mesh(self, mirrors, monkeypatch):
        angle, mesh = 0.3, lopsided()
        cos, sin = np.cos(angle), np.sin(angle)
        # Counterclockwise in the picture. Augmentation mirrors before it turns.
        turned = mirror_image(mesh) if mirrors else mesh
        turned = replace(turned, vertices=turned.vertices @ np.float32([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]))
        theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=torch.float32).expand(1, 1, 2, 3).clone()
        theta[..., 0] *= -1 if mirrors else 1
        monkeypatch.setattr(augmentation, "_similarities", lambda *_: theta)
        found = augment(render(mesh, "sphere:1", "normal")[None], ["normal"], None, generator_for(0))[0, 0]
        found, expected = 2 * found - 1, render(turned, "sphere:1", "normal")[0] / 127.5 - 1
        cosines = functional.cosine_similarity(found, expected, dim=0)
        is_face = (expected.norm(dim=0) > 0.9) & (found.norm(dim=0) > 0.9)
        errors = torch.rad2deg(cosines[is_face].clamp(-1, 1).arccos())
        assert is_face.sum() > 500 and errors.median() < 1.0

    def test_turned_flow_keeps_its_length(self):
        flow = 128 + torch.tensor([30.0, 40.0, 20.0]).view(1, 1, 3, 1, 1).expand(32, 1, 3, 8, 8)
        x, y, z = (augment(flow.to(torch.uint8), ["flow"], None, generator_for(0)) * 255 - 128).unbind(2)
        torch.testing.assert_close(torch.hypot(x, y), torch.full_like(x, 50.0), atol=1e-3, rtol=0)
        torch.testing.assert_close(z, torch.full_like(z, 20.0), atol=1e-3, rtol=0)
        assert torch.rad2deg(torch.atan2(y, x)).std() > 2


class TestMoving:
    def test_shape_and_range_are_kept(self):
        for channel in ("rgb", "depth", "normal"):
            found = augment(batch(), [channel], [0, 2, 1], generator_for(1))
            assert found.shape == (8, 3, 3, 16, 16) and found.min() >= 0 and found.max() <= 1

    def test_channels_move_alike_and_as_each_alone(self):
        views = batch()
        both = augment(torch.cat([views, views], dim=2), ["depth", "normal"], [0, 2, 1], generator_for(1))
        assert both.shape == (8, 3, 6, 16, 16)
        for number, channel in enumerate(("depth", "normal")):
            alone = augment(views, [channel], [0, 2, 1], generator_for(1))
            assert torch.equal(both[:, :, 3 * number : 3 * number + 3], alone)

    def test_each_view_has_its_own_transform(self):
        views = batch(1, 1).expand(2, 3, -1, -1, -1)
        found = augment(views, ["depth"], None, generator_for(2)).flatten(0, 1)
        assert all((found[i] - found[j]).abs().max() > 0.01 for i in range(6) for j in range(i))

    def test_points_move_within_the_limits(self):
        size, reach = 64, 20
        views = torch.zeros(64, 1, 3, size, size, dtype=torch.uint8)
        views[..., size // 2 + reach, size // 2 + reach] = 255
        found = augment(views, ["depth"], None, generator_for(3))[:, 0, 0]
        rows, columns = (found.sum(dim=axis) @ torch.arange(float(size)) / found.sum(dim=(1, 2)) for axis in (2, 1))
        distance = torch.hypot(rows - size / 2 - reach, columns - size / 2 - reach)
        farthest = 2**0.5 * size / 2 * augmentation.SHIFT + reach * 2**0.5 * 0.15
        assert 1 < distance.max() < farthest

    def test_only_colour_images_change_their_colours(self):
        grey = torch.full((8, 3, 3, 16, 16), 0.4)
        torch.testing.assert_close(augment(to_bytes(grey), ["depth"], [0, 2, 1], generator_for(4)), grey)
        ratio = augment(to_bytes(grey), ["rgb"], [0, 2, 1], generator_for(4)).mean(dim=(-1, -2)) / 0.4
        assert 0.1 < ratio.std() < 0.3 and ratio.std(dim=2).min() > 0
        assert ratio.min() >= 0.7 * 0.9 and ratio.max() <= 1.3 * 1.1


def packed_frames(counts: list[int], dynamic: tuple[int, ...] = ()) -> PackedFrames:
    """Frames of samples with these counts; the indices in `dynamic` are dynamic images."""
    times = torch.zeros(sum(counts))
    times[list(dynamic)] = DYNAMIC_TIME
    return PackedFrames(torch.tensor(counts), times)


class TestSequences:
    def test_scans_are_augmented_equally_with_and_without_frames(self):
        for channel in ("rgb", "normal", "flow"):
            found = [
                augment(batch(), [channel], [0, 2, 1], generator_for(8), m) for m in (None, packed_frames([1] * 8))
            ]
            assert torch.equal(*found)

    @pytest.mark.parametrize("channel", ["rgb", "depth", "normal", "flow"])
    def test_frames_share_a_transform_and_views_do_not(self, channel):
        still = batch(4).repeat_interleave(5, dim=0)
        found = augment(still, [channel], [0, 2, 1], generator_for(9), packed_frames([5] * 4)).unflatten(0, (4, 5))
        for face in found:
            assert all(torch.equal(frame, face[0]) for frame in face)
        faces = [frame for face in found for frame in face[0]]
        assert all((faces[i] - faces[j]).abs().max() > 0.01 for i in range(12) for j in range(i))

    def test_transform_does_not_depend_on_the_lengths_of_other_samples(self):
        scans = batch(3)
        lone = augment(scans, ["rgb"], [0, 2, 1], generator_for(10))
        packed = augment(scans[[0, 1, 1, 1, 2]], ["rgb"], [0, 2, 1], generator_for(10), packed_frames([1, 3, 1]))
        assert torch.equal(packed, lone[[0, 1, 1, 1, 2]])

    def test_dynamic_image_at_rest_stays_at_rest(self):
        still = torch.full((8, 3, 3, 16, 16), 128, dtype=torch.uint8)
        for channel in ("rgb", "depth", "normal", "flow"):
            frames = packed_frames([1] * 8, dynamic=tuple(range(8)))
            torch.testing.assert_close(augment(still, [channel], [0, 2, 1], generator_for(11), frames), still / 255)

    def test_frames_are_recoloured_and_dynamic_images_are_not(self):
        grey = torch.full((16, 3, 3, 16, 16), 0.4)
        frames = packed_frames([2] * 8, dynamic=tuple(range(1, 16, 2)))
        found = augment(to_bytes(grey), ["rgb"], None, generator_for(12), frames)
        torch.testing.assert_close(found[1::2], grey[1::2])
        assert ((found[0::2] - 0.4).abs().amax(dim=(1, 2, 3, 4)) > 0.01).all()

    def test_mirroring_commutes_with_dynamic_images_of_normals(self, only_mirrored):
        frames = batch(6, seed=3).float()
        weights = torch.from_numpy(rank_pooling_weights(6)).float()

        def dynamic(views: Tensor) -> Tensor:
            total = torch.einsum("n,nvchw->vchw", weights, views)
            return ((total / 9).round() + 128).clamp(1, 255) / 255

        mirrored = frames[:, [0, 2, 1]].flip(-1)
        mirrored = torch.cat([255 - mirrored[:, :, :1], mirrored[:, :, 1:]], dim=2)
        as_is, expected = dynamic(frames), dynamic(mirrored)
        frames = packed_frames([1] * 16, dynamic=tuple(range(16)))
        found = augment(to_bytes(as_is).expand(16, *as_is.shape), ["normal"], [0, 2, 1], generator_for(0), frames)
        chosen = [bool((views - expected).abs().max() < (views - as_is).abs().max()) for views in found]
        assert 3 <= sum(chosen) <= 13
        for views, mirrors in zip(found, chosen, strict=True):
            # Halves are rounded to even: up on one side and down on the other.
            assert ((views - (expected if mirrors else as_is)) * 255).abs().max() < 0.01

    @pytest.mark.parametrize("dynamic", [(), tuple(range(16))])
    def test_mirrored_flow_is_negated_along_x_and_rest_stays_at_rest(self, only_mirrored, dynamic):
        displacement = torch.randint(-127, 128, (3, 3, 16, 16), generator=generator_for(1)).float()
        displacement[:, :, :4] = 0
        expected = displacement[[0, 2, 1]].flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
        views = (128 + displacement).to(torch.uint8).expand(16, -1, -1, -1, -1)
        found = augment(views, ["flow"], [0, 2, 1], generator_for(0), packed_frames([1] * 16, dynamic)) * 255 - 128
        close = [[bool((f - e).abs().max() < 0.01) for e in (displacement, expected)] for f in found]
        assert all(sum(pair) == 1 for pair in close) and 3 <= sum(pair[1] for pair in close) <= 13


class TestChance:
    def test_equal_generators_give_equal_images_for_any_global_seed(self):
        found = []
        for seed in (5, 6):
            torch.manual_seed(seed)
            found.append(augment(batch(), ["rgb"], [0, 2, 1], generator_for(0, 1, 2, 3)))
        assert torch.equal(*found)

    def test_each_number_changes_the_stream(self):
        numbers = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 0), (0, 0, 0, 0)]
        streams = [torch.rand(4, generator=generator_for(*given)).tolist() for given in numbers]
        assert len({tuple(stream) for stream in streams}) == len(numbers)
        assert torch.rand(4, generator=generator_for(0, 1, 0)).tolist() == streams[2]

    def test_input_is_not_modified(self):
        views = batch()
        before = views.clone()
        augment(views, ["normal"], [0, 2, 1], generator_for(7))
        assert torch.equal(views, before)


class TestSchedule:
    def test_linear_warmup_then_half_a_cosine(self):
        factors = [cosine_schedule(step, 100, 0.1) for step in range(101)]
        assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
        assert factors[10] == 1 and factors[55] == pytest.approx(0.5) and factors[100] == pytest.approx(0, abs=1e-9)
        assert all(a > b for a, b in pairwise(factors[10:]))

    def test_schedule_of_one_step(self):
        assert cosine_schedule(0, 1, 0.05) > 0 and cosine_schedule(0, 1, 0.0) == 1
