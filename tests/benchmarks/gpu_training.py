"""Part of `bench_gpu.py`: training of ViT-B/16 on 3 views of 224 px in bfloat16, against a plain open_clip step.

    smile-pipe   our training step as `smile-pipe train` runs it, recipe `smile-vlm`: batches of uint8 views in pinned
                 memory, copied ahead; augmentation, prompts, image and text tower, projectors, fusion, losses, limit of
                 the gradients' norm, AdamW
    open_clip    both towers of open_clip, no code of ours: the same views, copied and normalised but not augmented, the
                 mean of their embeddings against the text by `ClipLoss`, AdamW with the same options

Both encode each distinct prompt of a batch once. Weights and views are random. MFU is the rate times the operations of
a sample, over the peak of the card. The operations are those of forward and backward pass that PyTorch's
`FlopCounterMode` counts (products of matrices, convolutions, attention) in a step of the smallest batch without
compilation. Those of AdamW are not among them: it has no products, and about 20 operations a weight and step.
"""

import gc
import itertools
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import open_clip
import torch
import torch.nn.functional as F
from gpu_device import DEVICE, HAS_GPU, NAME, describe, wait, watch_gpu
from gpu_rows import Figures, Rows
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from helpers import tiny_arch
from helpers.samples import write_shard_set
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import build_model
from smile_pipe.model.towers import set_matmul_precision
from smile_pipe.pipeline.common.optimization import BETAS
from smile_pipe.pipeline.data.dataset import Batch, DecodeSpec, FaceDataset
from smile_pipe.pipeline.data.prefetch import prefetch
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.reader import ShardSet

ARCH = "ViT-B-16" if HAS_GPU else "bench-gpu-vit"
# The most important first. Compilation takes long, so it is measured with one batch size.
BATCH_SIZES = (128, 256, 64) if HAS_GPU else (4,)
NUM_VIEWS, NUM_WARM_UP, MIN_STEPS, SECONDS = 3, 3, 3, 2.0
EXPRESSIONS = ("AN", "DI", "FE", "HA", "NE", "SA", "SU")
LEARNING_RATE = 1e-4
# Operations a second of products of bfloat16 without sparsity, by a part of the card's name: NVIDIA's data sheets.
PEAKS = {"H200": 989e12, "H100 80GB HBM3": 989e12, "A100": 312e12}
COMPILE_SECONDS = 60.0
OPERATIONS = "FLOP a sample, forward and backward"


class Contender(Protocol):
    """Something that trains."""

    def batch(self, size: int) -> Any:
        """A batch in host memory."""

    def run(self, batch: Any, num_steps: int) -> None:
        """Train with the same batch again and again."""


def random_views(num: int, image_size: int) -> Tensor:
    """Random views in pinned memory, uint8 [N, V, 3, H, W]."""
    views = torch.randint(256, (num, NUM_VIEWS, 3, image_size, image_size), dtype=torch.uint8)
    return views.pin_memory() if HAS_GPU else views


class SmilePipe:
    """Our training step, and a set of shards that it takes prompts, classes and cameras from."""

    def __init__(self, folder: Path, is_compiled: bool = False) -> None:
        shards = folder / "shards"
        if not shards.exists():
            write_shard_set(shards, num_subjects=2, expressions=EXPRESSIONS, channels=("rgb",))
        options = {"recipe": "smile-vlm", "arch": ARCH, "channel": "rgb", "compile": is_compiled}
        self.config = TrainConfig.model_validate({"shards": str(shards), "out": folder / "run", **options})
        self.num_steps = 0

    @cached_property
    def dataset(self) -> FaceDataset:
        return FaceDataset(ShardSet.open(self.config.shards), DecodeSpec(("rgb",), 16), 0)

    @cached_property
    def step(self) -> TrainStep:
        """The step, prepared as by `smile_pipe.pipeline.train.loop.train`."""
        recipe, learning_rates = self.config.recipe_config(), self.config.learning_rates
        job = Job(self.config, recipe, ("rgb",), (), "label", "none", "bfloat16", learning_rates)
        torch.manual_seed(0)
        model = build_model(job.recipe)
        model.freeze_unreached(with_text=True, with_sequences=False)
        model.to(DEVICE)
        set_matmul_precision(job.precision, DEVICE)
        step = TrainStep(job, Worker(0, 1, DEVICE), model, self.dataset, self.dataset.shards.rows)
        step.load_checkpoint(RunDirectory(self.config.out))
        return step

    def batch(self, size: int) -> Batch:
        (few,) = self.dataset.batches([self.dataset.shards.rows])
        texts, concepts, keys, subjects = (
            [each[n % len(each)] for n in range(size)] for each in (few.texts, few.concepts, few.keys, few.subjects)
        )
        views = random_views(size, self.step.model.towers.image_size)
        return Batch(views, PackedFrames.of_scans(size), texts, concepts, keys, subjects)

    def run(self, batch: Batch, num_steps: int) -> None:
        for each in prefetch(itertools.repeat(batch, num_steps), DEVICE):
            self.step.step(each, 0, self.num_steps, 1.0)
            self.num_steps += 1


class OpenClip:
    """A plain step with open_clip and PyTorch only."""

    @cached_property
    def model(self) -> Any:
        torch.manual_seed(0)
        return open_clip.create_model(ARCH, device=DEVICE)

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), LEARNING_RATE, BETAS, weight_decay=0.05, fused=True)

    @cached_property
    def tokens(self) -> Tensor:
        return open_clip.get_tokenizer(ARCH)([f"a face of {name}" for name in EXPRESSIONS]).to(DEVICE)

    def batch(self, size: int) -> Tensor:
        image_size = self.model.visual.image_size
        return random_views(size, image_size if isinstance(image_size, int) else image_size[0])

    def run(self, batch: Tensor, num_steps: int) -> None:
        contrast = open_clip.ClipLoss()
        mean, std = (torch.tensor(each, device=DEVICE).view(3, 1, 1) for each in (
            open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
        ))  # fmt: skip
        prompts = torch.arange(len(batch), device=DEVICE) % len(self.tokens)
        for _ in range(num_steps):
            images = batch.to(DEVICE, non_blocking=True).flatten(0, 1)
            images = (images.float() / 255 - mean) / std
            with torch.autocast(DEVICE.type, torch.bfloat16):
                faces = self.model.encode_image(images).unflatten(0, (len(batch), NUM_VIEWS)).mean(dim=1)
                texts = self.model.encode_text(self.tokens)[prompts]
                loss = contrast(F.normalize(faces, dim=-1), F.normalize(texts, dim=-1), self.model.logit_scale.exp())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()


def training(rows: Rows) -> None:
    """Samples per second, MFU and peak memory by batch size."""
    rows.add("device", describe())
    with tempfile.TemporaryDirectory() as folder:
        if not HAS_GPU:
            _register_small(Path(folder))
        operations = _measure_sizes(rows, "smile-pipe", SmilePipe(Path(folder)))
        _measure_sizes(rows, "open_clip", OpenClip())
        for size in BATCH_SIZES:
            _compare(rows, size)
        if HAS_GPU:
            compiled, size = SmilePipe(Path(folder), is_compiled=True), BATCH_SIZES[0]
            row = f"smile-pipe, compiled, batch {size}"
            rows.measure(row, lambda: _rate(compiled, size, operations), COMPILE_SECONDS)


def _register_small(folder: Path) -> None:
    """Register a tower for CPUs."""
    vision = tiny_arch.CONFIG["vision_cfg"] | {"image_size": 16}
    text = tiny_arch.CONFIG["text_cfg"] | {"vocab_size": 49408}
    tiny_arch.register(folder, ARCH, vision_cfg=vision, text_cfg=text)


def _measure_sizes(rows: Rows, name: str, contender: Contender) -> float | None:
    """Measure all batch sizes; returns the operations of a sample, None if they could not be counted."""
    rows.measure(f"operations, {name}", lambda: _count(contender), 10 if HAS_GPU else 0)
    operations = rows.found[f"operations, {name}"].get(OPERATIONS)
    for size in BATCH_SIZES:
        rows.measure(f"{name}, batch {size}", lambda s=size: _rate(contender, s, operations), 8 if HAS_GPU else 0)
    return operations


def _count(contender: Contender) -> Figures:
    size = min(BATCH_SIZES)
    batch = contender.batch(size)
    with FlopCounterMode(display=False) as counter:
        contender.run(batch, 1)
    return {OPERATIONS: counter.get_total_flops() / size}


def _rate(contender: Contender, size: int, operations: float | None) -> Figures:
    # Free the memory of the contender before.
    gc.collect()
    torch.cuda.empty_cache()
    if HAS_GPU:
        torch.cuda.reset_peak_memory_stats()
    batch = contender.batch(size)
    began = time.perf_counter()
    contender.run(batch, NUM_WARM_UP)
    wait()
    first = time.perf_counter() - began
    contender.run(batch, 1)
    wait()
    num_steps = max(MIN_STEPS, int(SECONDS / (time.perf_counter() - began - first))) if HAS_GPU else 1
    with watch_gpu() as usage:
        began = time.perf_counter()
        contender.run(batch, num_steps)
        wait()
        seconds = (time.perf_counter() - began) / num_steps
    peak = next((each for card, each in PEAKS.items() if card in NAME), None)
    return {
        "samples/s": size / seconds,
        "ms a step": 1000 * seconds,
        "steps": num_steps,
        "seconds of the first steps": first,
        "TFLOP/s": operations * size / seconds / 1e12 if operations else None,
        "MFU": operations * size / seconds / peak if operations and peak else None,
        "peak memory, GiB": torch.cuda.max_memory_allocated() / 2**30 if HAS_GPU else None,
    } | usage


def _compare(rows: Rows, size: int) -> None:
    ours, plain = (rows.found[f"{name}, batch {size}"].get("samples/s") for name in ("smile-pipe", "open_clip"))
    if ours and plain:
        rows.add(f"rate of smile-pipe / open_clip, batch {size}", {"ratio": ours / plain})
