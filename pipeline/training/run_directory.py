"""The directory of a run, and its checkpoints.

    RUN/config.json                     options and recipe, written first
    RUN/metrics.jsonl                   one row every few steps
    RUN/tensorboard/
    RUN/skipped.json                    keys of damaged samples that were left out, if any were
    RUN/checkpoints/step-000500/        model.safetensors, state.pt (optimiser and position)
    RUN/manifest.json                   written last

Promised: a checkpoint under its final name is whole; loading one runs no code from it.
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.training.manifest import RunManifest
from shards.errors import UsageError
from shards.manifest import canonical_json
from shards.places import write_atomically


@dataclass(frozen=True)
class Checkpoint:
    """A saved state: after `step` steps in all."""

    path: Path
    step: int

    def load_model(self, device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The model's weights."""
        return load_file(self.path / "model.safetensors", device=str(device))

    def load_state(self) -> dict[str, Any]:
        """The optimiser's state; nothing but tensors and plain values is accepted."""
        return torch.load(self.path / "state.pt", map_location="cpu", weights_only=True)


class RunDirectory:
    """One run on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest_path = root / "manifest.json"
        self.config_path = root / "config.json"
        self.metrics_path = root / "metrics.jsonl"
        self.checkpoints_path = root / "checkpoints"
        self.tensorboard_path = root / "tensorboard"
        self.skipped_path = root / "skipped.json"

    def manifest(self) -> RunManifest | None:
        """The manifest of a finished run, if there is one."""
        return RunManifest.read(self.manifest_path) if self.manifest_path.exists() else None

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints, oldest first."""
        found = (path for path in self.checkpoints_path.glob("step-*") if path.name[5:].isdecimal())
        return sorted((Checkpoint(path, int(path.name[5:])) for path in found), key=lambda c: c.step)

    def save(self, step: int, model: Mapping[str, Tensor], state: Mapping[str, Any], keep: int) -> Checkpoint:
        """Write a checkpoint by way of a temporary name, and let go of all but the newest `keep`."""
        path = self.checkpoints_path / f"step-{step:06d}"
        temporary = path.with_name(f".{path.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in model.items()}, temporary / "model.safetensors")
        torch.save(dict(state), temporary / "state.pt")
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
        for old in self.checkpoints()[:-keep]:
            shutil.rmtree(old.path)
        return Checkpoint(path, step)

    def skipped(self) -> tuple[str, ...]:
        """Keys of the samples that were left out at any time, sorted."""
        return tuple(json.loads(self.skipped_path.read_text())) if self.skipped_path.exists() else ()

    def note_skipped(self, keys: Iterable[str]) -> None:
        """Add samples to those that were left out."""
        write_atomically(self.skipped_path, canonical_json(sorted({*self.skipped(), *keys})).encode())

    def rewind_metrics(self, step: int) -> None:
        """Drop the rows after `step`: a run that goes on from there writes them again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        write_atomically(self.metrics_path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of `metrics.jsonl`; a last line that is still being written is left out."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]


def open_run(root: Path) -> tuple[RunManifest, Checkpoint]:
    """The manifest and the result of a finished run.

    Raises:
        UsageError: not a run, or one without a checkpoint, or one that is not finished.
    """
    run = RunDirectory(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such run; `smile-pipe train` makes one")
    manifest, checkpoints = run.manifest(), {c.path.name: c for c in run.checkpoints()}
    if manifest is None:
        hint = "`smile-pipe train --resume` finishes it" if checkpoints else "it holds no checkpoint either"
        raise UsageError(f"{root}: has no manifest.json, so it is not a finished run; {hint}")
    if manifest.checkpoint not in checkpoints:
        raise UsageError(f"{root}: its checkpoint {manifest.checkpoint} is gone; train again")
    return manifest, checkpoints[manifest.checkpoint]
