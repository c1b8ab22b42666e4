"""Temporal pooling: a scan passes unchanged, and the embedding of a sequence depends on the order of frames."""

import math

import pytest
import torch
from torch import Tensor

from smile_pipe.model.config import DYNAMIC_TIME
from smile_pipe.model.fusion import NUM_TIME_FEATURES, TemporalPooling, time_features
from smile_pipe.model.packing import PackedFrames

DIM, NUM_VIEWS = 6, 3


@pytest.fixture
def pooling() -> TemporalPooling:
    """Attention with random weights, as after training; some start at zero."""
    torch.manual_seed(0)
    pooling = TemporalPooling(DIM, "attention").double()
    for weight in (pooling.score.weight, pooling.gain.weight):
        torch.nn.init.normal_(weight)
    return pooling


def sequences(*times: list[float], seed: int = 0) -> tuple[Tensor, PackedFrames]:
    """Random embeddings [N, V, D] of samples with frames at these times."""
    counts, flat = [len(own) for own in times], [time for own in times for time in own]
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(len(flat), NUM_VIEWS, DIM, generator=generator, dtype=torch.float64)
    return embeddings, PackedFrames(torch.tensor(counts), torch.tensor(flat, dtype=torch.float64))


class TestPackedFrames:
    def test_what_is_given_for_a_face_is_spread_over_its_moments(self):
        _, frames = sequences([0.0], [0.0, 0.5, 1.0], [0.0, 1.0])
        repeated = frames.repeat_per_sample(torch.tensor([[1, 10], [2, 20], [3, 30]]))
        assert repeated.tolist() == [[1, 10], [2, 20], [2, 20], [2, 20], [3, 30], [3, 30]]

    def test_padding_puts_each_moment_at_its_place_and_fills_the_rest(self):
        _, frames = sequences([0.0], [0.0, 0.5, 1.0], [0.0, 1.0])
        padded = frames.to_padded(torch.arange(1.0, 7.0), fill=-9.0)
        assert padded.tolist() == [[1, -9, -9], [2, 3, 4], [5, 6, -9]]

    def test_a_scan_has_one_moment_at_time_0(self):
        scans = PackedFrames.of_scans(3)
        assert scans.counts.tolist() == [1, 1, 1] and scans.times.tolist() == [0, 0, 0]
        assert not scans.is_dynamic.any()

    def test_a_dynamic_image_is_known_by_its_time(self):
        _, frames = sequences([0.0, 1.0, DYNAMIC_TIME], [0.0])
        assert frames.is_dynamic.tolist() == [False, False, True, False]


class TestTimeFeatures:
    def test_they_are_sinusoids_that_are_0_at_time_0(self):
        found = time_features(torch.tensor([0.0, 0.25], dtype=torch.float64))
        angles = [0.25 * math.pi * 2**k for k in range(4)]
        expected = [*(math.sin(a) for a in angles), *(math.cos(a) - 1 for a in angles), 0.0]
        assert found[0].tolist() == [0.0] * NUM_TIME_FEATURES
        assert found[1].tolist() == pytest.approx(expected, abs=1e-6)

    def test_a_dynamic_image_has_a_slot_of_its_own(self):
        assert time_features(torch.tensor([DYNAMIC_TIME])).tolist() == [[0.0] * (NUM_TIME_FEATURES - 1) + [1.0]]

    def test_no_two_times_look_alike(self):
        features = time_features(torch.linspace(0, 1, 101, dtype=torch.float64))
        assert torch.pdist(features).min() > 0.01


@pytest.mark.parametrize("kind", ["attention", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scan_passes_unchanged_to_the_last_bit_alone_and_beside_sequences(pooling, kind, dtype):
    pooling = (pooling if kind == "attention" else TemporalPooling(DIM, "mean")).to(dtype)
    for times in ([[0.0], [0.0]], [[0.0], [0.0, 0.4, 1.0], [0.0, DYNAMIC_TIME]]):
        embeddings, frames = sequences(*times)
        embeddings = embeddings.to(dtype).requires_grad_()
        pooled = pooling(embeddings, frames)
        assert torch.equal(pooled[0], embeddings[0])
        (gradient,) = torch.autograd.grad((pooled * torch.arange(1.0, DIM + 1)).sum(), embeddings)
        assert torch.equal(gradient[0], torch.arange(1.0, DIM + 1, dtype=dtype).expand(NUM_VIEWS, DIM))


def test_pooling_is_the_documented_formula(pooling):
    embeddings, frames = sequences([0.0, 0.3, 1.0], [0.2, DYNAMIC_TIME])
    A, b = pooling.from_embedding.weight, pooling.from_embedding.bias
    B, w, G = pooling.from_time.weight, pooling.score.weight[0], pooling.gain.weight
    features, pooled, start = time_features(frames.times), pooling(embeddings, frames), 0
    for face, count in enumerate(frames.counts.tolist()):
        own = range(start, start + count)
        for v in range(NUM_VIEWS):
            scores = torch.stack([w @ torch.tanh(A @ embeddings[t, v] + B @ features[t] + b) for t in own])
            weights = scores.softmax(dim=0)
            expected = sum(a * (1 + G @ features[t]) * embeddings[t, v] for a, t in zip(weights, own, strict=True))
            torch.testing.assert_close(pooled[face, v], expected)
        start += count


def test_attention_begins_as_the_mean():
    embeddings, frames = sequences([0.0, 0.3, 1.0], [0.0, DYNAMIC_TIME], [0.0])
    expected = torch.stack([embeddings[:3].mean(0), embeddings[3:5].mean(0), embeddings[5]])
    for kind in ("attention", "mean"):
        torch.testing.assert_close(TemporalPooling(DIM, kind).double()(embeddings, frames), expected)


def test_a_face_does_not_depend_on_the_lengths_of_others(pooling):
    embeddings, frames = sequences([0.0, 1.0], [0.0, 0.2, 0.4, 0.6, 1.0])
    alone = pooling(embeddings[:2], PackedFrames(frames.counts[:1], frames.times[:2]))
    torch.testing.assert_close(pooling(embeddings, frames)[:1], alone)


def test_the_same_frames_played_backwards_are_another_face_unless_the_mean_is_taken(pooling):
    embeddings, frames = sequences([0.0, 0.5, 1.0])
    there, back = pooling(embeddings, frames), pooling(embeddings.flip(0), frames)
    assert (there - back).abs().max() > 0.1
    mean = TemporalPooling(DIM, "mean")
    torch.testing.assert_close(mean(embeddings, frames), mean(embeddings.flip(0), frames))


def test_each_view_is_pooled_by_itself(pooling):
    embeddings, frames = sequences([0.0, 0.5, 1.0])
    torch.testing.assert_close(pooling(embeddings[:, 1:2], frames), pooling(embeddings, frames)[:, 1:2])


def test_all_parameters_learn_from_sequences(pooling):
    embeddings, frames = sequences([0.0, 0.5, 1.0], [0.3, DYNAMIC_TIME])
    pooling(embeddings, frames).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in pooling.parameters())


def test_scans_leave_no_parameter_out_of_the_graph_and_move_none(pooling):
    """Data-parallel training needs a gradient for each parameter."""
    embeddings, frames = sequences([0.0], [0.0])
    pooling(embeddings, frames).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in pooling.parameters())


def test_the_mean_has_nothing_to_learn():
    assert not list(TemporalPooling(DIM, "mean").parameters())
