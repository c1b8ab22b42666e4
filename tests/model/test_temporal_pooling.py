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
    def test_repeat_per_sample(self):
        _, frames = sequences([0.0], [0.0, 0.5, 1.0], [0.0, 1.0])
        repeated = frames.repeat_per_sample(torch.tensor([[1, 10], [2, 20], [3, 30]]))
        assert repeated.tolist() == [[1, 10], [2, 20], [2, 20], [2, 20], [3, 30], [3, 30]]

    def test_to_padded(self):
        _, frames = sequences([0.0], [0.0, 0.5, 1.0], [0.0, 1.0])
        padded = frames.to_padded(torch.arange(1.0, 7.0), fill=-9.0)
        assert padded.tolist() == [[1, -9, -9], [2, 3, 4], [5, 6, -9]]

    def test_scan_has_one_frame_at_time_0(self):
        scans = PackedFrames.of_scans(3)
        assert scans.counts.tolist() == [1, 1, 1] and scans.times.tolist() == [0, 0, 0]
        assert not scans.is_dynamic.any()

    def test_is_dynamic(self):
        _, frames = sequences([0.0, 1.0, DYNAMIC_TIME], [0.0])
        assert frames.is_dynamic.tolist() == [False, False, True, False]


class TestTimeFeatures:
    def test_sinusoids_are_0_at_time_0(self):
        found = time_features(torch.tensor([0.0, 0.25], dtype=torch.float64))
        angles = [0.25 * math.pi * 2**k for k in range(4)]
        expected = [*(math.sin(a) for a in angles), *(math.cos(a) - 1 for a in angles), 0.0]
        assert found[0].tolist() == [0.0] * NUM_TIME_FEATURES
        assert found[1].tolist() == pytest.approx(expected, abs=1e-6)

    def test_dynamic_image_has_its_own_feature(self):
        assert time_features(torch.tensor([DYNAMIC_TIME])).tolist() == [[0.0] * (NUM_TIME_FEATURES - 1) + [1.0]]

    def test_times_have_distinct_features(self):
        features = time_features(torch.linspace(0, 1, 101, dtype=torch.float64))
        assert torch.pdist(features).min() > 0.01


@pytest.mark.parametrize("kind", ["attention", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scan_passes_bit_identically_with_and_without_sequences(pooling, kind, dtype):
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


def test_attention_starts_as_the_mean():
    embeddings, frames = sequences([0.0, 0.3, 1.0], [0.0, DYNAMIC_TIME], [0.0])
    expected = torch.stack([embeddings[:3].mean(0), embeddings[3:5].mean(0), embeddings[5]])
    for kind in ("attention", "mean"):
        torch.testing.assert_close(TemporalPooling(DIM, kind).double()(embeddings, frames), expected)


def test_pooling_does_not_depend_on_other_lengths(pooling):
    embeddings, frames = sequences([0.0, 1.0], [0.0, 0.2, 0.4, 0.6, 1.0])
    alone = pooling(embeddings[:2], PackedFrames(frames.counts[:1], frames.times[:2]))
    torch.testing.assert_close(pooling(embeddings, frames)[:1], alone)


def test_attention_depends_on_frame_order_and_mean_does_not(pooling):
    embeddings, frames = sequences([0.0, 0.5, 1.0])
    there, back = pooling(embeddings, frames), pooling(embeddings.flip(0), frames)
    assert (there - back).abs().max() > 0.1
    mean = TemporalPooling(DIM, "mean")
    torch.testing.assert_close(mean(embeddings, frames), mean(embeddings.flip(0), frames))


def test_views_are_pooled_independently(pooling):
    embeddings, frames = sequences([0.0, 0.5, 1.0])
    torch.testing.assert_close(pooling(embeddings[:, 1:2], frames), pooling(embeddings, frames)[:, 1:2])


def test_all_parameters_have_gradients_for_sequences(pooling):
    embeddings, frames = sequences([0.0, 0.5, 1.0], [0.3, DYNAMIC_TIME])
    pooling(embeddings, frames).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in pooling.parameters())


def test_scans_give_zero_gradients_for_all_parameters(pooling):
    """Data-parallel training needs a gradient for each parameter."""
    embeddings, frames = sequences([0.0], [0.0])
    pooling(embeddings, frames).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in pooling.parameters())


def test_mean_has_no_parameters():
    assert not list(TemporalPooling(DIM, "mean").parameters())
