"""The image tower for processors: what its parts compute, and that colours need no normalisation."""

import pytest
import torch
from torch import Tensor, nn

from smile_pipe.model.patch_cnn import ARCH, HEAD_WIDTH, PREPROCESSING, AttentionPool, OutputNorm, PatchCNN, Residual
from smile_pipe.model.towers import Towers


def images(num: int = 6) -> Tensor:
    return torch.rand(num, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def test_normalisation_of_colours_changes_nothing_in_training():
    torch.manual_seed(0)
    tower, shift, factor = PatchCNN(16), torch.tensor([0.3, -0.2, 0.5]), 3.7
    expected = tower(images())
    torch.testing.assert_close(tower((images() - shift[:, None, None]) * factor), expected, atol=1e-2, rtol=0)


def test_towers_pass_colours_to_the_network_as_they_are():
    towers, seen = Towers(ARCH), []
    towers.clip.visual.trunk.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    towers.encode_images(images())
    assert torch.equal(seen[0], images()) and seen[0].is_contiguous(memory_format=torch.channels_last)
    assert towers.clip.visual.preprocess_cfg["mean"] == PREPROCESSING["mean"]


def test_patches_start_each_stage_and_do_not_overlap():
    """A pixel reaches one position of the first map."""
    first = PatchCNN(16).eval().stages[0][0]
    changed = images(1)
    changed[..., 50, 70] += 1
    moved = (first(changed) != first(images(1))).any(dim=1).nonzero().tolist()
    assert moved == [[0, 50 // 4, 70 // 4]]


def test_widths_fill_vector_registers():
    convolutions = [module for module in PatchCNN(16).modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) >= 5 and all(convolution.out_channels % 16 == 0 for convolution in convolutions)


def test_residual_adds_its_convolution():
    block, maps = Residual(16).eval(), torch.rand(2, 16, 5, 5)
    torch.testing.assert_close(block(maps), maps + block.conv(maps))
    nn.init.zeros_(block.conv[0].weight)
    assert torch.equal(block(maps), maps)


def test_output_is_normalised_over_the_batch():
    torch.manual_seed(0)
    found = PatchCNN(16)(images(50))
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.var(dim=0, correction=0), torch.ones(16), atol=0.02, rtol=0)


@pytest.mark.parametrize("num", [0, 1])
def test_batch_without_deviation_uses_the_running_statistics(num):
    norm, embeddings = OutputNorm(4), torch.rand(num, 4)
    torch.testing.assert_close(norm(embeddings), embeddings / (1 + norm.eps) ** 0.5)
    assert torch.equal(norm.running_mean, torch.zeros(4))


class TestAttentionPool:
    @pytest.mark.parametrize("num_heads", [1, 2])
    def test_pooling_equals_its_formula(self, num_heads):
        torch.manual_seed(0)
        width = num_heads * HEAD_WIDTH
        pool, maps = AttentionPool(width, 12, 5), torch.rand(2, width, 3, 4)
        for n, found in enumerate(pool(maps)):
            features = maps[n].reshape(width, 12).T
            keys, values = pool.key_value(features + pool.position).split(width, dim=1)
            query, pooled = pool.query(features.mean(dim=0)), []
            for head in range(num_heads):
                part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
                weights = torch.softmax(keys[:, part] @ query[part] / HEAD_WIDTH**0.5, dim=0)
                pooled.append(weights @ values[:, part])
            torch.testing.assert_close(found, pool.project(torch.cat(pooled)))

    def test_positions_matter(self):
        pool, maps = AttentionPool(HEAD_WIDTH, 16, 5), torch.rand(1, HEAD_WIDTH, 4, 4)
        assert not torch.allclose(pool(maps), pool(maps.flip(-1)))
