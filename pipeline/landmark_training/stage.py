"""The landmark training stage: draw random scenes, train both networks on their views, and write the weights.

New scenes replace the oldest in a pool in memory, from which batches are drawn: drawing a scene takes longer than a
step on its views. Equal options give the same scenes and batches in the same order.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from blake3 import blake3
from numpy.typing import NDArray

from smile_pipe.pipeline.common.worker_processes import WorkerProcesses
from smile_pipe.pipeline.landmark_training.config import LandmarkTrainingConfig
from smile_pipe.pipeline.landmark_training.faces import PARAMETRIC, build_sources, shape_model
from smile_pipe.pipeline.landmark_training.network import TorchHeatmapNetwork, heatmap_loss, target_heatmaps
from smile_pipe.pipeline.landmark_training.samples import SCALE, SceneSpec, TrainingViews, draw_scene
from smile_pipe.pipeline.landmarks.detection import COARSE, COARSE_SIZE, FINE_SIZE, NUM_LANDMARKS
from smile_pipe.pipeline.landmarks.view_images import NUM_CHANNELS
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Manifest, fingerprint

POOL_VIEWS = {"coarse": 16_000, "fine": 8_000}
BATCH = {"coarse": 48, "fine": 16}
SIGMA = 1.3  # of the heat maps, in their pixels
MAX_RATE, WEIGHT_DECAY, WARM_UP = 3e-3, 1e-4, 200
# Increase it when the same options give other weights.
REVISION = 1
# Scenes in the pool before the first step.
FIRST_SCENES = 64
# The weights are written after so many steps, and at the end.
SAVE_STEPS = 500


class LandmarkTrainingManifest(Manifest):
    """Result of the stage, written next to the weights with the ending `.json`."""

    schema_version: Literal[1] = 1
    stage: Literal["train-landmarks"] = "train-landmarks"
    face_models: tuple[str, ...]
    steps: int
    seed: int
    num_scenes: int
    num_parameters: int
    losses: Mapping[str, float]


class _Pool:
    """The newest views of one network, from which batches are drawn."""

    def __init__(self, capacity: int, size: int, num_points: int) -> None:
        self.images = np.zeros((capacity, size, size, NUM_CHANNELS), np.int8)
        self.points = np.zeros((capacity, num_points, 2), np.float32)
        self.count = 0

    def add(self, views: TrainingViews) -> None:
        at = (self.count + np.arange(len(views.images))) % len(self.images)
        self.images[at], self.points[at] = views.images, views.points
        self.count += len(views.images)

    def batch(self, num: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        rows = rng.integers(min(self.count, len(self.images)), size=num)
        images = torch.from_numpy(self.images[rows]).permute(0, 3, 1, 2).float() / SCALE
        return images.contiguous(memory_format=torch.channels_last), torch.from_numpy(self.points[rows])


def run(
    config: LandmarkTrainingConfig, on_progress: Callable[[int, int], None] | None = None
) -> LandmarkTrainingManifest:
    """Train the networks and write `config.out`.

    Args:
        config: Options of the stage.
        on_progress: Called after each step with the number of steps done and of all steps.

    Returns:
        The manifest. If `out` and the manifest of the same options exist, nothing is trained.

    Raises:
        UsageError: A face model is not one, or `out` is no .npz file, or its folder does not exist.
    """
    if config.out.suffix != ".npz":
        raise UsageError("must end in .npz", field="out", value=config.out)
    manifest_path = config.out.with_suffix(".json")
    options = _fingerprint(config)
    if config.out.exists() and manifest_path.exists():
        finished = LandmarkTrainingManifest.read(manifest_path)
        if finished.fingerprint == options:
            return finished
    if not config.out.parent.is_dir():
        raise UsageError("its folder does not exist", field="out", value=config.out)
    manifest_path.unlink(missing_ok=True)
    mean, modes = shape_model(build_sources(config.face_model), config.seed)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng([config.seed, 1])
    networks = {
        "coarse": TorchHeatmapNetwork(len(COARSE)).to(memory_format=torch.channels_last),
        "fine": TorchHeatmapNetwork(NUM_LANDMARKS).to(memory_format=torch.channels_last),
    }
    pools = {
        "coarse": _Pool(POOL_VIEWS["coarse"], COARSE_SIZE, len(COARSE)),
        "fine": _Pool(POOL_VIEWS["fine"], FINE_SIZE, NUM_LANDMARKS),
    }
    parameters = [p for network in networks.values() for p in network.parameters()]
    optimizer = torch.optim.AdamW(parameters, MAX_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, MAX_RATE, total_steps=config.steps + 1, pct_start=min(0.3, WARM_UP / config.steps)
    )
    losses = dict.fromkeys(networks, 0.0)
    num_scenes = FIRST_SCENES + config.steps * config.scenes_per_step
    with WorkerProcesses(config.workers) as processes:
        scenes = iter(processes.map(draw_scene, _specs(config, mean, num_scenes)))
        _fill(pools, scenes, FIRST_SCENES)
        for step in range(config.steps):
            _fill(pools, scenes, config.scenes_per_step)
            optimizer.zero_grad()
            for name, network in networks.items():
                images, points = pools[name].batch(BATCH[name], rng)
                # Half precision takes two thirds of the time on processors that have it.
                with torch.autocast("cpu", torch.bfloat16):
                    maps = network(images).float()
                loss = heatmap_loss(maps, target_heatmaps(points, maps.shape[-1], SIGMA))
                loss.backward()
                losses[name] += 0.01 * (loss.item() - losses[name])
            optimizer.step()
            schedule.step()
            if (step + 1) % SAVE_STEPS == 0 or step + 1 == config.steps:
                _save(config.out, networks, {"mean": mean, "modes": modes})
            if on_progress:
                on_progress(step + 1, config.steps)
    manifest = LandmarkTrainingManifest(
        fingerprint=options,
        face_models=config.face_model,
        steps=config.steps,
        seed=config.seed,
        num_scenes=num_scenes,
        num_parameters=sum(p.numel() for p in parameters),
        losses={name: round(loss, 6) for name, loss in losses.items()},
    )
    manifest.write(manifest_path)
    return manifest


def _fingerprint(config: LandmarkTrainingConfig) -> str:
    """Fingerprint of the options, and of the files of the face models."""
    files = [Path(model) for model in config.face_model if model != PARAMETRIC and Path(model).is_file()]
    contents = [blake3(file.read_bytes()).hexdigest(length=16) for file in files]
    return fingerprint(config.model_dump(mode="json", exclude={"out", "workers"}), REVISION, contents)


def _save(path: Path, networks: Mapping[str, TorchHeatmapNetwork], shapes: Mapping[str, NDArray[np.float64]]) -> None:
    arrays: dict[str, NDArray] = {name: values.astype(np.float32) for name, values in shapes.items()}
    for name, network in networks.items():
        arrays |= network.export(name)
    temporary = path.with_suffix(".partial.npz")
    np.savez_compressed(temporary, allow_pickle=False, **arrays)
    temporary.replace(path)


def _specs(config: LandmarkTrainingConfig, mean: NDArray[np.float64], num: int) -> Iterator[SceneSpec]:
    points = tuple((float(x), float(y), float(z)) for x, y, z in mean)
    for number in range(num):
        yield SceneSpec(config.face_model, points, config.seed, number)


def _fill(pools: Mapping[str, _Pool], scenes: Iterator[tuple[TrainingViews, TrainingViews]], num: int) -> None:
    for _ in range(num):
        coarse, fine = next(scenes)
        pools["coarse"].add(coarse)
        pools["fine"].add(fine)
