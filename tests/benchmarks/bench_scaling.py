"""What a step costs on many GPUs, calculated from what is measured here without one.

    python tests/benchmarks/bench_scaling.py                 ViT-B/16, 224 px, 3 views, 64 samples a GPU
    python tests/benchmarks/bench_scaling.py --tflops 400 --gigabytes 400 --json scaling.json

Measured, on the CPU: weights, operations and saved activations of a sample (counted by PyTorch, in bfloat16 as GPUs
compute), and the operations of the losses over batches of different sizes. Assumed, and said so in the output: what a
GPU sustains (`--tflops`) and what it exchanges with the others (`--gigabytes` a second). All else is arithmetic.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import RecipeConfig
from model.encoder import Embeddings
from model.recipes import build_model
from model.systems import Recipe, Targets
from model.towers import build_tokenizer

BYTES = 4
# Weights, gradients and the two moments of AdamW, in single precision.
STATES = 4


@dataclass(frozen=True)
class Measured:
    """Of one sample, but for `weights`, which are those that learn.

    Attributes:
        flops: operations forward and backward, of its views and of its text.
        saved_bytes: activations that are kept for the backward pass.
        row_floats: numbers that the ranks exchange of it.
        loss_flops_a_pair: operations of the losses, forward and backward, for each pair of samples in the joined batch.
    """

    weights: int
    flops: float
    saved_bytes: float
    row_floats: int
    loss_flops_a_pair: float


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


def measure(model: Recipe, arch: str, num_views: int, num_samples: int) -> Measured:
    """Count what a step of a few samples does."""
    size = model.towers.image_size
    views = torch.rand(num_samples, num_views, 3, size, size)
    directions = torch.nn.functional.normalize(torch.randn(num_views, 3), dim=-1)
    tokens = build_tokenizer(arch)([f"a face, number {n}" for n in range(num_samples)])
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16):
            found = model(views, directions, tokens)
        (found.views.float().sum() + found.fused.float().sum() + found.text.float().sum()).backward()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    activations = sum(size for pointer, size in saved.items() if pointer not in own)
    dim = model.config.joint_dim
    return Measured(
        weights=sum(p.numel() for p in model.parameters() if p.requires_grad),
        flops=counter.get_total_flops() / num_samples,
        saved_bytes=activations / num_samples,
        row_floats=(num_views + 2) * dim + num_views + 2,
        loss_flops_a_pair=_loss_flops_a_pair(model, num_views),
    )


def _loss_flops_a_pair(model: Recipe, num_views: int, sizes: Sequence[int] = (512, 1024)) -> float:
    """What the losses need for each pair of samples, from batches of two sizes: a n + b n^2, of which b."""
    counted = [_loss_flops(model, num_views, size) for size in sizes]
    first, second = sizes
    return (counted[1] / second - counted[0] / first) / (second - first)


def _loss_flops(model: Recipe, num_views: int, num_samples: int) -> float:
    dim = model.config.joint_dim
    shapes = ((num_samples, num_views, dim), (num_samples, dim), (num_samples, num_views), (num_samples, dim))
    rows = [torch.randn(*shape, requires_grad=True) for shape in shapes]
    numbers = torch.arange(num_samples) % 7
    counter = FlopCounterMode(display=False)
    with counter:
        model.losses(Embeddings(*rows), Targets(numbers, numbers))["total"].backward()
    return counter.get_total_flops()


def step_on(num_gpus: int, batch: int, found: Measured, tflops: float, gigabytes: float) -> Step:
    """The arithmetic: ring exchanges send (W - 1) / W of what there is, twice for a sum."""
    joined, rate, others = num_gpus * batch, gigabytes * 1e9, (num_gpus - 1) / num_gpus
    pairs = found.loss_flops_a_pair * joined**2
    rows = joined * found.row_floats * BYTES
    # Similarities of each view, and of the fused face, with texts, both ways, and what their softmax keeps.
    similarities = joined**2 * BYTES * 2
    return Step(
        num_gpus=num_gpus,
        joined_batch=joined,
        memory=found.weights * BYTES * STATES + batch * found.saved_bytes + similarities,
        compute=batch * found.flops / (tflops * 1e12),
        # In single precision, of which a GPU does about a tenth of what it does in bfloat16.
        losses=pairs / (tflops * 1e11),
        # Gathered on the way forward, summed on the way back.
        gather=3 * others * rows / rate,
        gradients=2 * others * found.weights * BYTES / rate,
    )


def _print(args: argparse.Namespace, found: Measured, steps: Sequence[Step]) -> None:
    print(f"{args.arch}, {args.views} views, {args.batch} samples a GPU, recipe {args.recipe}")
    print(f"  weights that learn      {found.weights / 1e6:10.1f} M")
    print(f"  operations a sample     {found.flops / 1e9:10.1f} GFLOP, forward and backward")
    print(f"  activations a sample    {found.saved_bytes / 2**20:10.1f} MiB in bfloat16")
    print(f"  exchanged a sample      {found.row_floats * BYTES:10,d} bytes")
    print(f"  losses a pair           {found.loss_flops_a_pair:10,.0f} FLOP")
    print(f"assumed: {args.tflops:g} TFLOP/s and {args.gigabytes:g} GB/s a GPU\n")
    print("| GPUs | joined batch | memory a GPU | compute | losses | gather | gradients | samples/s | of linear |")
    print("|---|---|---|---|---|---|---|---|---|")
    alone = steps[0].joined_batch / steps[0].seconds
    for step in steps:
        rate = step.joined_batch / step.seconds
        times = (f"{1e3 * t:.1f} ms" for t in (step.compute, step.losses, step.gather, step.gradients))
        cells = (step.num_gpus, f"{step.joined_batch:,}", f"{step.memory / 2**30:.1f} GiB", *times, f"{rate:,.0f}")
        print("| " + " | ".join(map(str, cells)) + f" | {rate / alone / step.num_gpus * steps[0].num_gpus:.0%} |")
    per_gpu = found.flops * args.batch
    limit = math.sqrt(per_gpu / (10 * found.loss_flops_a_pair))
    print(f"\nlosses take as long as the towers at a joined batch of {limit:,.0f}, {limit / args.batch:,.0f} GPUs")


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
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = build_model(RecipeConfig(name=args.recipe, arch=args.arch))
    model.freeze_unreached(with_text=True, with_sequences=False)
    found = measure(model, args.arch, args.views, num_samples=2)
    steps = [step_on(num, args.batch, found, args.tflops, args.gigabytes) for num in args.gpus]
    _print(args, found, steps)
    if args.json:
        about = {"measured": asdict(found), "assumed": {"tflops": args.tflops, "gigabytes": args.gigabytes}}
        with open(args.json, "w") as file:
            json.dump({**about, "steps": [asdict(step) for step in steps]}, file, indent=2)


if __name__ == "__main__":
    main()
