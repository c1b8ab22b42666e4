"""Cost of a training step on many GPUs, and what limits it, calculated from measurements without a GPU.

    python tests/benchmarks/bench_scaling.py                 ViT-B/16, 224 px, 3 views, 64 samples a GPU
    python tests/benchmarks/bench_scaling.py --tflops 400 --gigabytes 400 --memory 141 --json scaling.json

Measured on the CPU, with batches of different sizes: weights, operations and saved tensors of towers and losses
(counted by PyTorch, the towers in bfloat16 as on GPUs). Assumed, and printed in the output: the sustained speed of a
GPU (`--tflops`), its bandwidth to others (`--gigabytes` a second), its memory (`--memory`), the rate at which a core
reads (`--samples-per-core`) and the bandwidth of the disk for checkpoints (`--disk`). The rest is arithmetic.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.distributed import Rows
from smile_pipe.model.objectives import ContrastiveModel, GatheredBatch
from smile_pipe.model.recipes import build_model
from smile_pipe.model.towers import build_tokenizer

BYTES = 4
# Weights, gradients and the two moments of AdamW, in single precision.
STATES, MOMENTS = 4, 2
# Samples a second of our loader with nothing cached, on two cores: model/README.md, "How fast it trains".
LOADED_BY_TWO_CORES = {"rgb": 1709, "normal": 761}


@dataclass(frozen=True)
class Measured:
    """What a step does.

    Attributes:
        weights: those that learn.
        flops: operations forward and backward, of the views and the text of a sample.
        saved_bytes: activations of a sample that are kept for the backward pass.
        saved_once: what is kept for it whatever the batch: weights in bfloat16.
        row_floats: numbers that the ranks exchange of a sample.
        loss_flops_a_pair: operations of the losses, forward and backward, for each pair of a sample of this rank and a
            sample of the joined batch.
        loss_bytes_a_pair: what the losses keep for the backward pass of each such pair.
        checkpoint: bytes that are written after an epoch.
    """

    weights: int
    flops: float
    saved_bytes: float
    saved_once: float
    row_floats: int
    loss_flops_a_pair: float
    loss_bytes_a_pair: float
    checkpoint: int


@dataclass(frozen=True)
class Assumed:
    """What is not measured: TFLOP/s and GB/s of a GPU, its GiB, GB/s of the disk that checkpoints go to."""

    tflops: float
    gigabytes: float
    memory: float
    disk: float


@dataclass(frozen=True)
class Step:
    """A step on so many GPUs; seconds, and bytes of one GPU."""

    num_gpus: int
    joined_batch: int
    memory: float
    compute: float
    losses: float
    gather: float
    gradients: float

    @property
    def seconds(self) -> float:
        """Of the step, with the exchange of gradients hidden behind two thirds of the computing, as DDP does."""
        return self.compute + self.losses + self.gather + max(0.0, self.gradients - self.compute * 2 / 3)

    @property
    def rate(self) -> float:
        """Samples a second of all GPUs."""
        return self.joined_batch / self.seconds


def measure(model: ContrastiveModel, arch: str, num_views: int, num_samples: int) -> Measured:
    """Count what steps of so many samples, and of twice as many, do."""
    flops, saved = _towers(model, arch, num_views, num_samples)
    saved_bytes = (_towers(model, arch, num_views, 2 * num_samples)[1] - saved) / num_samples
    loss_flops_a_pair, loss_bytes_a_pair = losses_a_pair(model, num_views)
    weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Measured(
        weights=weights,
        flops=flops / num_samples,
        saved_bytes=saved_bytes,
        saved_once=saved - num_samples * saved_bytes,
        row_floats=(num_views + 2) * model.config.joint_dim + num_views + 2,
        loss_flops_a_pair=loss_flops_a_pair,
        loss_bytes_a_pair=loss_bytes_a_pair,
        checkpoint=sum(tensor.nbytes for tensor in model.state_dict().values()) + MOMENTS * weights * BYTES,
    )


def losses_a_pair(model: ContrastiveModel, num_views: int, num_samples: int = 256) -> tuple[float, float]:
    """Operations and saved bytes of the losses for each pair of an own and any sample: b of c + a n + d m + b n m."""
    n, m = num_samples, 2 * num_samples
    sizes = ((n, m), (2 * n, m), (n, 2 * m), (2 * n, 2 * m))
    found = [_losses(model, num_views, num_own, num_all) for num_own, num_all in sizes]
    flops, saved = (
        (both - more_all - more_own + few) / (n * m) for few, more_own, more_all, both in zip(*found, strict=True)
    )
    return flops, saved


def _towers(model: ContrastiveModel, arch: str, num_views: int, num_samples: int) -> tuple[int, int]:
    """Operations, forward and backward, and saved bytes of what makes embeddings."""
    size = model.towers.image_size
    views = torch.rand(num_samples, num_views, 3, size, size)
    directions = torch.nn.functional.normalize(torch.randn(num_views, 3), dim=-1)
    tokens = build_tokenizer(arch)([f"a face, number {n}" for n in range(num_samples)])
    with FlopCounterMode(display=False) as counter, _saving() as saved:
        with torch.autocast("cpu", torch.bfloat16):
            found = model(views, directions, tokens)
        (found.views.float().sum() + found.fused.float().sum() + found.text.float().sum()).backward()
    return counter.get_total_flops(), _without_own(saved, model)


def _losses(model: ContrastiveModel, num_views: int, num_own: int, num_all: int) -> tuple[int, int]:
    """Operations, forward and backward, and saved bytes of one rank's share of the losses."""

    def rows(*shape: int) -> Rows:
        own, joined = (torch.randn(num, *shape, requires_grad=True) for num in (num_own, num_all))
        return Rows(own, joined, num_all)

    dim = model.config.joint_dim
    # Of views, fused, attention, text, and no false texts.
    embeddings = (rows(num_views, dim), rows(dim), rows(num_views), rows(dim), Rows.alone(torch.zeros(0)))
    ids, numbers = torch.arange(num_all) % 7, torch.arange(num_all)
    targets = (Rows(each[:num_own], each, num_all) for each in (ids, ids, numbers))
    batch = GatheredBatch(*embeddings, *targets)
    with FlopCounterMode(display=False) as counter, _saving() as saved:
        torch.stack([term.of(batch) for term in model.used_terms(with_text=True).values()]).sum().backward()
    return counter.get_total_flops(), _without_own(saved, model)


@contextmanager
def _saving() -> Iterator[dict[int, int]]:
    """Bytes of what is kept for the backward pass, by address: many a tensor is kept more than once."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def _without_own(saved: dict[int, int], model: ContrastiveModel) -> int:
    """Bytes in all, but for the weights, which are there anyway."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    return sum(size for pointer, size in saved.items() if pointer not in own)


def step_on(num_gpus: int, batch: int, found: Measured, assumed: Assumed) -> Step:
    """The arithmetic: ring exchanges send (W - 1) / W of what there is, twice for a sum."""
    joined, rate, others = num_gpus * batch, assumed.gigabytes * 1e9, (num_gpus - 1) / num_gpus
    rows = joined * found.row_floats * BYTES
    return Step(
        num_gpus=num_gpus,
        joined_batch=joined,
        memory=_memory_but_for_pairs(batch, found) + found.loss_bytes_a_pair * batch * joined,
        compute=batch * found.flops / (assumed.tflops * 1e12),
        # In single precision, of which a GPU does about a tenth of what it does in bfloat16.
        losses=found.loss_flops_a_pair * batch * joined / (assumed.tflops * 1e11),
        # Gathered on the way forward, summed on the way back.
        gather=3 * others * rows / rate,
        gradients=2 * others * found.weights * BYTES / rate,
    )


def _memory_but_for_pairs(batch: int, found: Measured) -> float:
    return found.weights * BYTES * STATES + found.saved_once + batch * found.saved_bytes


def epoch_seconds(step: Step, num_samples: int, found: Measured, assumed: Assumed) -> float:
    """Of an epoch, with the checkpoint after it, which rank 0 writes while the others wait."""
    return num_samples / step.rate + found.checkpoint / (assumed.disk * 1e9)


def limits(batch: int, num_samples: int, found: Measured, assumed: Assumed) -> dict[str, float]:
    """GPUs from which on something else costs as much as the towers, or does not fit: the first to come first."""
    alone = step_on(1, batch, found, assumed)
    free = max(0.0, assumed.memory * 2**30 - _memory_but_for_pairs(batch, found))
    written = found.checkpoint / (assumed.disk * 1e9)
    # Each of these grows with the number of GPUs; a rank exchanges almost all rows if there are many.
    gathered = 3 * batch * found.row_floats * BYTES / (assumed.gigabytes * 1e9)
    per_gpu = {
        "the losses take as long as the towers": (alone.compute, alone.losses),
        "the exchange of rows takes as long as the towers": (alone.compute, gathered),
        f"memory of {assumed.memory:g} GiB is full": (free, found.loss_bytes_a_pair * batch**2),
    }
    reached = {what: bound / one for what, (bound, one) in per_gpu.items() if one}
    reached["a checkpoint takes as long as its epoch's steps"] = num_samples / batch * alone.compute / written
    return dict(sorted(reached.items(), key=lambda item: item[1]))


def _print(args: argparse.Namespace, found: Measured, assumed: Assumed, steps: Sequence[Step]) -> None:
    _print_measured(args, found)
    of_gpu = f"{assumed.tflops:g} TFLOP/s, {assumed.gigabytes:g} GB/s and {assumed.memory:g} GiB a GPU"
    print(f"assumed: {of_gpu}; {assumed.disk:g} GB/s for checkpoints; epochs of {args.samples:,} samples\n")
    _print_table(args, found, assumed, steps)
    print("\ncores that a GPU needs to be fed, with nothing cached:")
    for channel, loaded in _loaded_by_core(args).items():
        print(f"  {channel}: {steps[0].rate / steps[0].num_gpus / loaded:.1f}, at {loaded:,.0f} samples/s a core")
    print("what stops it, in the order in which it comes:")
    for what, num_gpus in limits(args.batch, args.samples, found, assumed).items():
        print(f"  {what}: from {num_gpus:,.0f} GPUs, a joined batch of {num_gpus * args.batch:,.0f}")


def _print_measured(args: argparse.Namespace, found: Measured) -> None:
    print(f"{args.arch}, {args.views} views, {args.batch} samples a GPU, recipe {args.recipe}")
    print(f"  weights that learn      {found.weights / 1e6:10.1f} M")
    print(f"  operations a sample     {found.flops / 1e9:10.1f} GFLOP, forward and backward")
    print(f"  activations a sample    {found.saved_bytes / 2**20:10.1f} MiB in bfloat16")
    print(f"  kept besides            {found.saved_once / 2**20:10.1f} MiB, weights in bfloat16")
    print(f"  exchanged a sample      {found.row_floats * BYTES:10,d} bytes")
    print(f"  losses a pair           {found.loss_flops_a_pair:10,.0f} FLOP, {found.loss_bytes_a_pair:,.0f} bytes kept")
    print(f"  checkpoint              {found.checkpoint / 1e9:10.2f} GB")


def _print_table(args: argparse.Namespace, found: Measured, assumed: Assumed, steps: Sequence[Step]) -> None:
    heads = "GPUs | joined batch | memory a GPU | compute | losses | gather | gradients | samples/s | of linear"
    heads = f"| {heads} | epoch | GPU-hours of it |"
    print(f"{heads}\n|{'---|' * (heads.count('|') - 1)}")
    alone = steps[0].rate / steps[0].num_gpus
    for step in steps:
        epoch = epoch_seconds(step, args.samples, found, assumed)
        times = (f"{1e3 * t:.1f} ms" for t in (step.compute, step.losses, step.gather, step.gradients))
        cells = (step.num_gpus, f"{step.joined_batch:,}", f"{step.memory / 2**30:.1f} GiB", *times)
        scaled = (f"{step.rate:,.0f}", f"{step.rate / step.num_gpus / alone:.0%}")
        cost = (f"{epoch:.1f} s", f"{epoch * step.num_gpus / 3600:.3f}")
        print("| " + " | ".join(map(str, (*cells, *scaled, *cost))) + " |")


def _loaded_by_core(args: argparse.Namespace) -> dict[str, float]:
    """Samples a second that a core reads, by channel."""
    if args.samples_per_core:
        return {"as given": args.samples_per_core}
    return {channel: loaded / 2 for channel, loaded in LOADED_BY_TWO_CORES.items()}


def main() -> None:
    """Measure, calculate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="ViT-B-16")
    parser.add_argument("--recipe", default="smile-vlm")
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64, help="samples of a GPU in a step")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--tflops", type=float, default=200.0, help="what a GPU sustains in bfloat16")
    parser.add_argument("--gigabytes", type=float, default=25.0, help="a second that a GPU exchanges with others")
    parser.add_argument("--memory", type=float, default=80.0, help="GiB of a GPU")
    parser.add_argument("--disk", type=float, default=1.0, help="GB a second at which checkpoints are written")
    parser.add_argument("--samples", type=int, default=100_000, help="of an epoch")
    table = ", ".join(f"{loaded} {channel}" for channel, loaded in LOADED_BY_TWO_CORES.items())
    per_core = f"a second that a core reads; if not given, half of what two do in model/README.md, for 96 px: {table}"
    parser.add_argument("--samples-per-core", type=float, help=per_core)
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = build_model(RecipeConfig(name=args.recipe, arch=args.arch))
    model.freeze_unreached(with_text=True, with_sequences=False)
    found = measure(model, args.arch, args.views, num_samples=2)
    assumed = Assumed(args.tflops, args.gigabytes, args.memory, args.disk)
    steps = [step_on(num, args.batch, found, assumed) for num in args.gpus]
    _print(args, found, assumed, steps)
    if args.json:
        figures = {"measured": asdict(found), "assumed": asdict(assumed), "steps": [asdict(step) for step in steps]}
        figures["limits"] = limits(args.batch, args.samples, found, assumed)
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
