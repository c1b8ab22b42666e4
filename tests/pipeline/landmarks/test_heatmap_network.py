"""The networks in Numba: equal to those in PyTorch, and the peaks of their heat maps."""

import numpy as np
import pytest
import torch

from smile_pipe.pipeline.landmark_training.network import TorchHeatmapNetwork, heatmap_loss, target_heatmaps
from smile_pipe.pipeline.landmarks.heatmap_network import HeatmapNetwork, find_peaks


@pytest.fixture(scope="module")
def trained() -> TorchHeatmapNetwork:
    """A network whose normalisations are not the identity."""
    torch.manual_seed(0)
    network = TorchHeatmapNetwork(num_points=5)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "norms" in name and value.is_floating_point():
                value.uniform_(0.5, 1.5)
    return network.eval()


def test_heatmaps_are_those_of_pytorch(trained):
    image = np.random.default_rng(0).normal(size=(32, 48, 4)).astype(np.float32)
    with torch.inference_mode():
        expected = trained(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    found = HeatmapNetwork.from_arrays(trained.export("x", np.float32), "x").heatmaps(image)
    assert found.shape == (16, 24, 5)
    assert np.abs(found).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_half_precision_of_the_file_changes_little(trained):
    image = np.random.default_rng(0).normal(size=(32, 32, 4)).astype(np.float32)
    exact, rounded = (
        HeatmapNetwork.from_arrays(trained.export("x", dtype), "x").heatmaps(image)
        for dtype in (np.float32, np.float16)
    )
    assert 0 < np.abs(exact - rounded).max() < 0.02 * np.abs(exact).max()


def test_a_missing_array_is_an_error(trained):
    arrays = trained.export("x")
    del arrays["x.keep4.bias"]
    with pytest.raises(KeyError, match=r"x\.keep4\.bias"):
        HeatmapNetwork.from_arrays(arrays, "x")


POINTS = torch.tensor([[[0.31, 0.62], [0.5, 0.5], [0.77, 0.2], [torch.nan, torch.nan]]])


def logits_of(targets: torch.Tensor, size: int) -> np.ndarray:
    """Heat maps [H, W, L] whose probabilities are `targets`."""
    logits = torch.log(targets[0] + 1e-9)
    maps = logits[:, :-1] - logits[:, -1:]
    return maps.reshape(-1, size, size).permute(1, 2, 0).contiguous().numpy()


def test_peaks_are_found_between_pixels():
    peaks = find_peaks(logits_of(target_heatmaps(POINTS, 48, 1.3), 48))
    assert np.abs(peaks[:3, :2] - POINTS[0, :3].numpy() * 48).max() < 0.1
    assert (peaks[:3, 2] > 0.8).all()
    assert peaks[3, 2] < 0.01


def test_two_peaks_share_the_probability():
    maps = np.full((16, 16, 1), -9, np.float32)
    maps[3, 4], maps[12, 12] = 9.0, 9.0
    assert find_peaks(maps)[0].tolist() == pytest.approx([4.5, 3.5, 0.5], abs=1e-3)


def test_loss_is_least_where_the_maps_are_the_targets():
    targets = target_heatmaps(POINTS, 16, 1.3)
    best = torch.from_numpy(logits_of(targets, 16)).permute(2, 0, 1)[None]
    least = heatmap_loss(best, targets)
    assert least < heatmap_loss(best.roll(1, dims=3), targets)
    assert least < heatmap_loss(0.5 * best, targets)
    assert least < heatmap_loss(torch.zeros_like(best), targets)
