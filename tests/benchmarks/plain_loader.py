"""Training from the same shards without smile-pipe: webdataset, a DataLoader, Pillow. Compared in bench_training.py.

    python tests/benchmarks/plain_loader.py SHARDS --channel rgb --epochs 10

Reads shards of `smile-pipe render` with a symmetric rig of the views front, left and right. As many workers as cores
decode the images of one channel in every epoch, resize them to the size of the tower with Pillow, and augment them one
by one (flip, shift, colours) as pipeline/data/augment.py does on batches. Then model, losses, precision and optimiser
are those of `smile-pipe train`. The script writes no checkpoints and logs, reads no images of other channels, keeps its
workers between epochs, and passes bytes instead of floats. `--no-step` only loads, and does not augment. Prints JSON:
seconds since the imports, samples and seconds of each epoch, and seconds of waiting for batches.
"""

import argparse
import json
import math
import random
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import build_model
from smile_pipe.model.towers import build_tokenizer
from smile_pipe.pipeline.common.optimization import cosine_schedule
from smile_pipe.pipeline.data.augment import BRIGHTNESS, SHIFT, TINT, TURN, ZOOM
from smile_pipe.shards.manifest import ShardManifest

ARCH = "smile-nano"
VIEWS = ("front", "left", "right")
MIRRORED = (0, 2, 1)


def _wanted(channel: str, name: str) -> bool:
    """Whether a member is read: the record, the prompt, and the images of one channel."""
    return name.endswith((".json", ".txt")) or f".{channel}." in name


def _mirror(images: list[Image.Image], channel: str) -> list[Image.Image]:
    images = [images[number].transpose(Image.Transpose.FLIP_LEFT_RIGHT) for number in MIRRORED]
    if channel != "normal":
        return images
    negative = [255 - level for level in range(256)]
    same = list(range(256))
    return [image.point(negative + same + same) for image in images]


def _move(image: Image.Image, size: int) -> Image.Image:
    zoom, turn = 1 + random.uniform(-ZOOM, ZOOM), random.uniform(-TURN, TURN)
    cos, sin, middle = zoom * math.cos(turn), zoom * math.sin(turn), size / 2
    right, down = (middle * (1 + random.uniform(-SHIFT, SHIFT)) for _ in range(2))
    matrix = (cos, -sin, right - middle * (cos - sin), sin, cos, down - middle * (sin + cos))
    return image.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def _recolour(image: Image.Image) -> Image.Image:
    brightness = 1 + random.uniform(-BRIGHTNESS, BRIGHTNESS)
    factors = [brightness * (1 + random.uniform(-TINT, TINT)) for _ in range(3)]
    return image.point([min(round(level * factor), 255) for factor in factors for level in range(256)])


def _face(sample: dict[str, Any], channel: str, size: int, is_augmented: bool) -> dict[str, Any]:
    """Views uint8 [V, 3, H, W] of a sample as webdataset decodes it, and its words."""
    extension = "jpg" if channel == "rgb" else "png"
    loaded = [sample[f"{view}.{channel}.{extension}"] for view in VIEWS]
    images = [image.convert("RGB").resize((size, size), Image.Resampling.BOX) for image in loaded]
    if is_augmented:
        images = _mirror(images, channel) if random.random() < 0.5 else images
        images = [_move(image, size) for image in images]
        images = [_recolour(image) for image in images] if channel == "rgb" else images
    views = torch.from_numpy(np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2).copy())
    record = sample["json"]
    return {"views": views, "text": sample["txt"], "concept": record["concept"], "subject": record["subject"]}


def _loader(shards: str, channel: str, size: int, batch_size: int, cores: int, is_augmented: bool) -> DataLoader:
    urls = sorted(str(path) for path in Path(shards, "shards").glob("*.tar"))
    make = partial(_face, channel=channel, size=size, is_augmented=is_augmented)
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls), select_files=partial(_wanted, channel))
        .shuffle(200)
        .decode("pil")
        .map(make)
    )
    return DataLoader(dataset, batch_size=batch_size, num_workers=cores, persistent_workers=True)


class _Step:
    """The step of `smile-pipe train` with its default options, on batches that are augmented."""

    def __init__(self, model: ContrastiveModel, directions: Tensor, precision: str) -> None:
        self.model, self.directions, self.precision = model, directions, precision
        self.tokenizer = build_tokenizer(ARCH)
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in learned if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)

    def __call__(self, batch: dict[str, Any], learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        views, tokens = batch["views"].float() / 255, self.tokenizer(batch["text"])
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            embeddings = self.model(views, self.directions, tokens, PackedFrames.of_scans(len(views)))
        losses = self.model.losses(embeddings, _numbers(batch["concept"]), _numbers(batch["subject"]))
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()


def _numbers(names: list[str]) -> Tensor:
    return torch.tensor([zlib.crc32(name.encode()) for name in names])


def _waited(loader: DataLoader, waits: list[float]) -> Iterator[dict[str, Any]]:
    """The batches of an epoch; how long each was waited for goes to `waits`."""
    batches = iter(loader)
    while True:
        began = time.perf_counter()
        batch = next(batches, None)
        waits.append(time.perf_counter() - began)
        if batch is None:
            return
        yield batch


def _directions(shards: str) -> Tensor:
    """Unit vectors towards the cameras of the views, [V, 3]."""
    urls = [str(path) for path in sorted(Path(shards, "shards").glob("*.tar"))[:1]]
    only_record = webdataset.WebDataset(urls, shardshuffle=False, select_files=lambda name: name.endswith(".json"))
    record = next(iter(only_record.decode()))["json"]
    assert tuple(camera["name"] for camera in record["cameras"]) == VIEWS
    return torch.tensor([[-axis[2] for axis in camera["R"]] for camera in record["cameras"]])


def main() -> None:
    """Load, or train, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--channel", choices=("rgb", "normal"), default="rgb")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--no-step", action="store_true", help="load the batches and do nothing with them")
    given = parser.parse_args()
    start = time.perf_counter()
    torch.set_num_threads(given.cores)
    torch.manual_seed(0)
    model = build_model(RecipeConfig(arch=ARCH))
    size, does_step = model.towers.image_size, not given.no_step
    loader = _loader(given.shards, given.channel, size, given.batch_size, given.cores, does_step)
    step = _Step(model, _directions(given.shards), given.precision)
    num_samples = ShardManifest.read(Path(given.shards, "manifest.json")).num_samples
    num_steps = given.epochs * -(-num_samples // given.batch_size)
    epochs, waits, steps = [], 0.0, 0
    for _ in range(given.epochs):
        began, seen, waited = time.perf_counter(), 0, []
        for batch in _waited(loader, waited):
            if does_step:
                step(batch, 1e-3 * cosine_schedule(min(steps, num_steps), num_steps, 0.05))
            steps, seen = steps + 1, seen + len(batch["text"])
        epochs.append((seen, time.perf_counter() - began))
        waits += sum(waited)
    print(json.dumps({"seconds": time.perf_counter() - start, "epochs": epochs, "waited": waits}))


if __name__ == "__main__":
    main()
