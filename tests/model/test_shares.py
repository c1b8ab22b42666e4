"""Shares of three ranks have the losses and the gradients of the joined batch: every term, in double precision.

Ranks compare their own rows with all rows. Some have different numbers of rows, and one has none.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from helpers.tiny_models import NUM_CLASSES, SYSTEMS, WITH_CRIT, make_model
from smile_pipe.model import losses as L
from smile_pipe.model.config import RECIPES
from smile_pipe.model.encoder import Embeddings
from smile_pipe.model.objectives import ContrastiveModel

NUM_RANKS, NUM_VIEWS, DIM = 3, 3, 4
COUNTS = {"even": (2, 2, 2), "ragged": (4, 1, 2), "none": (3, 0, 2), "one": (0, 6, 0)}
MODELS = [*SYSTEMS, WITH_CRIT]
CASES = [(size, name) for size in COUNTS for name in MODELS]


def make_embeddings(num: int, own: slice, num_texts: int = 1) -> list[Tensor]:
    """Random views, fused, attention and texts of `own` out of `num` samples."""
    generator = torch.Generator().manual_seed(1)
    texts = (num, num_texts, DIM) if num_texts > 1 else (num, DIM)
    shapes = ((num, NUM_VIEWS, DIM), (num, DIM), (num, NUM_VIEWS), texts)
    rows = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    rows[2] = rows[2].softmax(dim=1)
    return [each[own].clone().requires_grad_() for each in rows]


def learn(model: ContrastiveModel, num: int, own: slice) -> dict[str, dict[str, Any]]:
    """Value of each loss, and its gradients by embeddings and by parameters of the losses, zero where there is none."""
    rows = make_embeddings(num, own, 2 if model.config.crit else 1)
    concepts, subjects = (torch.arange(num) % NUM_CLASSES)[own], (torch.arange(num) // 2)[own]
    parameters = loss_parameters(model)
    found = {}
    for name in (*model.config.weights, "total"):
        loss = model.losses(Embeddings(*rows), concepts, subjects)[name]
        grads = torch.autograd.grad(loss, [*rows, *parameters], allow_unused=True, materialize_grads=True)
        found[name] = {"value": loss.detach(), "rows": grads[: len(rows)], "parameters": grads[len(rows) :]}
    return found


def loss_parameters(model: ContrastiveModel) -> list[Tensor]:
    """Parameters that losses read directly, other than through embeddings."""
    direct = ("log_scale", "raw_margin", "anchors")
    return [p for name, p in model.named_parameters() if name in direct and p.requires_grad]


def correlation(own: slice) -> Tensor:
    """Cross-correlation of features in single precision, whose means are a thousand times their deviation."""
    a, b = far_features()
    (C,) = L.cross_correlations([(a[own], b[own])], len(a))
    return C


def far_features() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 60, 5, generator=generator) + 1000
    return a, b


def count_collectives(model: ContrastiveModel, own: slice) -> dict[str, list[int]]:
    """Number of elements of each collective in the forward and the backward pass of the losses."""
    seen: dict[str, list[int]] = {"all_gather": [], "all_reduce": []}
    real = {name: getattr(dist, name) for name in seen}
    for name in seen:
        setattr(dist, name, lambda *given, n=name: seen[n].append(given[-1].numel()) or real[n](*given))
    rows = make_embeddings(7, own)
    concepts = (torch.arange(7) % NUM_CLASSES)[own]
    model.losses(Embeddings(*rows), concepts, concepts)["total"].backward()
    for name, function in real.items():
        setattr(dist, name, function)
    return seen


def work(rank: int, folder: Path) -> None:
    """Entry point of each process."""
    torch.set_num_threads(1)
    (folder / str(rank)).mkdir()
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=NUM_RANKS)
    found: dict[Any, Any] = {}
    for size, name in CASES:
        found[size, name] = learn(make_model(folder / str(rank), name), sum(COUNTS[size]), own_of(size, rank))
    found["correlation"] = correlation(slice(20 * rank, 20 * (rank + 1)))
    for name in ("barlow", "supervised", "smile-vlm"):
        found["collectives", name] = count_collectives(make_model(folder / str(rank), name), own_of("ragged", rank))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def own_of(size: str, rank: int) -> slice:
    start = sum(COUNTS[size][:rank])
    return slice(start, start + COUNTS[size][rank])


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[Any, Any]]:
    """Results of all ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(folder,), nprocs=NUM_RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_RANKS)]


@pytest.mark.parametrize(("size", "name"), CASES)
def test_shares_have_the_losses_and_gradients_of_the_joined_batch(ranks, tmp_path, size, name):
    alone = learn(make_model(tmp_path, name), sum(COUNTS[size]), slice(None))
    close = {"rtol": 1e-10, "atol": 1e-12}
    for term, expected in alone.items():
        parts = [rank[size, name][term] for rank in ranks]
        for part in parts:
            torch.testing.assert_close(part["value"], expected["value"], **close)
        # A rank has W times the gradient of its own rows: data-parallel training takes the mean over ranks.
        for field, grad in enumerate(expected["rows"]):
            found = torch.cat([part["rows"][field] for part in parts]) / NUM_RANKS
            torch.testing.assert_close(found, grad, **close)
        for number, grad in enumerate(expected["parameters"]):
            found = torch.stack([part["parameters"][number] for part in parts]).mean(dim=0)
            torch.testing.assert_close(found, grad, **close)


@pytest.mark.parametrize("name", MODELS)
def test_joined_losses_have_gradients(tmp_path, name):
    """The comparison above is of numbers that are not zero."""
    alone = learn(make_model(tmp_path, name), 6, slice(None))
    for term, found in alone.items():
        fields = "parameters" if term in RECIPES.get(name, RECIPES["clip"]).image_free else "rows"
        assert max(float(grad.abs().max()) for grad in found[fields]) > 1e-3, term
    assert max(float(grad.abs().max()) for grad in alone["total"]["parameters"]) > 1e-3


def test_correlation_over_ranks_is_as_accurate_as_on_one(ranks):
    a, b = far_features()
    exact = L.cross_correlation(a.double(), b.double())
    for rank in ranks:
        assert (rank["correlation"] - exact).abs().max() < 1e-3


def test_losses_that_compare_no_rows_exchange_none(ranks):
    for rank in ranks:
        # Numbers of rows, and nothing else.
        for name in ("barlow", "supervised"):
            assert rank["collectives", name]["all_gather"] == [1]
        # Means, variances and products of three pairs of views, and the shares; the same in the backward pass.
        sums = [6 * DIM, 6 * DIM, 3 * DIM * DIM]
        assert rank["collectives", "barlow"]["all_reduce"] == [*sums, 1, 1, *reversed(sums)]


def test_rows_are_gathered_once(ranks):
    for rank in ranks:
        # Numbers of rows, all embeddings, and all identifiers, each padded to the largest number of rows.
        assert rank["collectives", "smile-vlm"]["all_gather"] == [1, 4 * (NUM_VIEWS + 2) * DIM, 4]
