"""Two ranks have the losses and gradients of one rank with the joined batch: real processes, collectives and models.

`test_shares.py` compares each loss by itself.

Ranks may hold different numbers of samples. What is computed over the joined batch is equal then as well: all losses
and, for towers without BatchNorm, all gradients. Two things differ: a mean that each rank takes over its own
samples, because data-parallel averaging weights ranks and not samples; and the statistics of BatchNorm inside a tower,
which each rank takes over its own samples.
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from helpers import tiny_arch
from helpers.tiny_models import NAMES, NUM_CLASSES, faces, make_model, texts_for
from smile_pipe.model.config import RECIPES
from smile_pipe.model.distributed import gather_rows
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import RecipeModel
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.grad_cache import ModelInputs, backward
from smile_pipe.pipeline.train.text_targets import PseudoPrompts

EVEN, RAGGED = (4, 4), (3, 2)
NUM_PSEUDO = 13


def learn(model: RecipeModel, network: torch.nn.Module, samples: slice, total: int) -> dict[str, dict[str, Tensor]]:
    """Losses, and the gradients of all parameters for their total, of one batch out of `total` samples."""
    views, directions, tokens, concepts, frames = faces(total, samples, model.config.num_channels)
    embeddings = network(views, directions, texts_for(model, tokens), frames)
    losses = model.losses(embeddings, concepts, torch.arange(total)[samples] // 2)
    losses["total"].backward()
    grads = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    return {"losses": {name: loss.detach() for name, loss in losses.items()}, "total": grads}


def learn_in_chunks(model: RecipeModel, network: torch.nn.Module, samples: slice, total: int) -> dict[str, Tensor]:
    """Gradients of all parameters for a batch out of `total` samples, in up to three chunks per rank."""
    views, directions, tokens, concepts, frames = faces(total, samples, model.config.num_channels)
    texts = texts_for(model, tokens)
    inputs = ModelInputs(views, directions, frames, texts, concepts, torch.arange(total)[samples] // 2)
    # Twice: DDP refuses the second pass if the first left a parameter without a gradient.
    for _ in range(2):
        network.zero_grad()
        backward(network, model, inputs, "float32", 3)
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}


# Recipe, dropped losses, whether there is text, whether the towers have a decoder: each subset of losses.
SUBSETS = [
    (name, tuple(loss for loss in spec.weights if loss not in kept), with_text, coca)
    for name, spec in RECIPES.items()
    for with_text in (True, False)
    for size in range(1, 1 + len(spec.weights))
    for kept in combinations(spec.weights, size)
    for coca in (False, True)
    if (with_text and spec.text != "none") or (not with_text and set(kept) & set(spec.text_free))
    if (not coca or name in ("smile-vlm", "supervised")) and not set(kept) <= set(spec.image_free)
]


def learn_subset(folder: Path, rank: int, subset: tuple[str, tuple[str, ...], bool, bool]) -> dict[str, Any] | str:
    """Gradients of two steps of two ranks, the second one in two chunks, and the names of learned parameters."""
    name, dropped, with_text, coca = subset
    model = make_model(folder, name, with_text, coca, without=dropped)
    network = DistributedDataParallel(model)
    views, directions, tokens, concepts, frames = faces(sum(EVEN), slice(4 * rank, 4 * rank + 4))
    tokens, concepts = (tokens if model.reads_text else None, concepts) if with_text else (None, None)
    inputs = ModelInputs(views, directions, frames, tokens, concepts, torch.arange(4))
    try:
        for num_chunks in (1, 2):
            network.zero_grad()
            # DDP refuses the second pass if the first left a parameter without a gradient.
            backward(network, model, inputs, "float32", num_chunks)
    except RuntimeError as error:
        return str(error)
    learned = {key: parameter for key, parameter in model.named_parameters() if parameter.requires_grad}
    return {key: None if parameter.grad is None else parameter.grad.clone() for key, parameter in learned.items()}


def gather_examples(rank: int) -> dict[str, Any]:
    """Results and gradients of `gather_rows`, with 3 rows on rank 0 and 2 on rank 1."""
    counts = RAGGED
    rows = (torch.arange(counts[rank] * 4.0).view(counts[rank], 2, 2) + 100 * rank).requires_grad_()
    fields = {"rows": rows, "ids": torch.arange(counts[rank]) + 10 * rank, "unused": torch.ones(counts[rank], 1)}
    found = gather_rows(fields, ("rows", "ids"))
    joined = found["rows"].all
    # Each rank weights the joined rows in its own way; a row's gradient is the sum over both.
    weights = torch.arange(5.0)[:, None, None] * (1 + 10 * rank)
    (joined * weights).sum().backward()
    return {
        "joined": joined.detach(),
        "grad": rows.grad,
        "ids": found["ids"].all,
        "numbers": (found["numbers"].own, found["numbers"].all),
        "unused": (found["unused"].own, found["unused"].all, found["unused"].num),
        "empty": gather_rows({"rows": torch.ones(2 * rank, 3)}, ("rows",))["rows"].all,
    }


class FakeDataset:
    """Yields the scans of `tiny_arch` as batches."""

    def batches(self, groups: list[list[SimpleNamespace]]) -> Iterator[SimpleNamespace]:
        views = (tiny_arch.faces(NUM_PSEUDO)[0] * 255).byte()
        for group in groups:
            keys = [row.key for row in group]
            frames = PackedFrames.of_scans(len(keys))
            yield SimpleNamespace(views=views[[int(key) for key in keys]], keys=keys, frames=frames)


def pseudo_labels_of(folder: Path, rank: int, world_size: int) -> Tensor:
    """Pseudo-labels of a rank; on rank 1 the statistics of the towers differ."""
    model = make_model(folder, "smile-vlm").float()
    if rank:
        model.towers.mean.add_(0.5)
    rows = [SimpleNamespace(key=str(n)) for n in range(NUM_PSEUDO)]
    _, directions, tokens, _ = tiny_arch.faces(NUM_CLASSES)
    pseudo = PseudoPrompts({str(n): (str(n),) for n in range(NUM_CLASSES)}, rows, seed=0)
    tokenizer = lambda texts: tokens[[int(text) for text in texts]]  # noqa: E731 - one line, used once
    pseudo.assign(model, tokenizer, FakeDataset(), rows, directions, Worker(rank, world_size, directions.device))
    return pseudo.labels


def work(rank: int, folder: Path) -> None:
    """Entry point of each of the two processes."""
    torch.set_num_threads(1)
    (folder / str(rank)).mkdir()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found: dict[str, Any] = {"gathered": gather_examples(rank), "pseudo": pseudo_labels_of(folder / str(rank), rank, 2)}
    for name, counts in (("even", EVEN), ("ragged", RAGGED)):
        for recipe in NAMES:
            model = make_model(folder / str(rank), recipe)
            start = sum(counts[:rank])
            own = slice(start, start + counts[rank])
            network = DistributedDataParallel(model)
            found[name, recipe] = learn(model, network, own, sum(counts))
            found[name, recipe]["chunks"] = learn_in_chunks(model, network, own, sum(counts))
    for subset in SUBSETS:
        found[subset] = learn_subset(folder / str(rank), rank, subset)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, Any]]:
    """Results of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module", params=[(size, name) for size in ("even", "ragged") for name in NAMES])
def case(request, ranks, tmp_path_factory) -> tuple[dict, list[dict]]:
    """Results of one rank with the joined batch, and of each of two ranks."""
    size, name = request.param
    counts = {"even": EVEN, "ragged": RAGGED}[size]
    model = make_model(tmp_path_factory.mktemp("alone"), name)
    alone = learn(model, model, slice(None), sum(counts))
    return alone, [found[size, name] for found in ranks]


def test_losses_equal_those_of_one_rank_with_the_joined_batch(case):
    alone, both = case
    for found in both:
        assert found["losses"].keys() == alone["losses"].keys()
        for name, expected in alone["losses"].items():
            torch.testing.assert_close(found["losses"][name], expected, rtol=1e-5, atol=0)


def test_gradients_equal_those_of_one_rank_with_the_joined_batch(case):
    alone, both = case
    for found in both:
        assert_same_gradients(found["total"], alone["total"])


def test_chunked_gradients_equal_those_of_one_rank_with_the_joined_batch(case):
    # Ragged ranks have three and two chunks.
    alone, both = case
    for found in both:
        assert_same_gradients(found["chunks"], alone["total"])


@pytest.mark.parametrize("subset", SUBSETS, ids=str)
def test_each_subset_of_losses_trains_on_two_ranks(ranks, subset):
    one, other = (rank[subset] for rank in ranks)
    assert isinstance(one, dict), one
    assert any(key.startswith("towers.clip.visual.") for key in one) and one.keys() == other.keys()
    for key, grad in one.items():
        assert grad is not None, f"{key} is learned and has no gradient"
        assert torch.equal(grad, other[key]), key


def assert_same_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(grad.norm()) for grad in expected.values())
    assert largest > 1e-3
    for key, grad in expected.items():
        # Relative to the parameter; one whose gradient is nothing but rounding is held to the largest.
        scale = max(float(grad.norm()), 1e-2 * largest)
        assert float((found[key] - grad).norm()) < 1e-5 * scale, key


class TestGatherRows:
    def test_rows_are_in_rank_order_on_every_rank(self, ranks):
        expected = torch.cat([torch.arange(12.0).view(3, 2, 2), 100 + torch.arange(8.0).view(2, 2, 2)])
        for rank in ranks:
            assert torch.equal(rank["gathered"]["joined"], expected)

    def test_gradient_of_a_row_is_summed_over_ranks(self, ranks):
        expected = (torch.arange(5.0) * (1 + 11))[:, None, None].expand(5, 2, 2)
        found = torch.cat([rank["gathered"]["grad"] for rank in ranks])
        assert torch.equal(found, expected)

    def test_integers_are_gathered(self, ranks):
        for rank in ranks:
            assert rank["gathered"]["ids"].tolist() == [0, 1, 2, 10, 11]

    def test_rows_are_numbered_in_the_joined_batch(self, ranks):
        for rank, own in zip(ranks, ([0, 1, 2], [3, 4]), strict=True):
            found, joined = rank["gathered"]["numbers"]
            assert (found.tolist(), joined.tolist()) == (own, [0, 1, 2, 3, 4])

    def test_other_fields_are_not_gathered(self, ranks):
        for rank, count in zip(ranks, RAGGED, strict=True):
            own, joined, num = rank["gathered"]["unused"]
            assert (len(own), len(joined), num) == (count, 0, 5)

    def test_a_rank_may_have_no_rows(self, ranks):
        for rank in ranks:
            assert torch.equal(rank["gathered"]["empty"], torch.ones(2, 3))

    def test_identity_without_process_group(self):
        rows = torch.ones(3, 2)
        found = gather_rows({"rows": rows}, ())
        assert found["rows"].own is found["rows"].all is rows
        assert found["numbers"].own is found["numbers"].all and found["numbers"].all.tolist() == [0, 1, 2]


def test_pseudo_labels_on_two_ranks_equal_those_of_one(ranks, tmp_path):
    alone = pseudo_labels_of(tmp_path, 0, 1)
    assert len(alone.unique()) > 1
    for rank in ranks:
        assert torch.equal(rank["pseudo"], alone)
