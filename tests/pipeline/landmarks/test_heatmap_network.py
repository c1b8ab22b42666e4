"""The networks in Numba: equal to those in PyTorch, and the peaks of their heat maps."""

import numpy as np
import pytest
import torch

from smile_pipe.pipeline.landmark_training.network import TorchHeatmapNetwork, target_heatmaps
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


def test_peaks_are_found_between_pixels():
    points = np.array([[0.31, 0.62], [0.5, 0.5], [0.77, 0.2]], np.float32)
    maps = target_heatmaps(torch.from_numpy(points)[None], 48, 1.3)[0].permute(1, 2, 0).contiguous().numpy()
    peaks = find_peaks(maps)
    assert np.abs(peaks[:, :2] - points * 48).max() < 0.15
    assert (peaks[:, 2] > 0.8).all()


def test_a_map_without_heat_has_no_height():
    peaks = find_peaks(np.full((8, 8, 2), -0.1, np.float32))
    assert (peaks[:, 2] == 0).all()


def test_hidden_points_have_an_empty_target():
    points = torch.tensor([[[torch.nan, torch.nan], [0.5, 0.5]]])
    maps = target_heatmaps(points, 16, 1.3)
    assert maps[0, 0].abs().max() == 0
    assert maps[0, 1].max() > 0.8
