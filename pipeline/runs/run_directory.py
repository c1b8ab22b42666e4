"""The directory of a run, and its checkpoints.

    RUN/config.json                     options and recipe, written first
    RUN/metrics.jsonl                   one row every few steps
    RUN/tensorboard/
    RUN/skipped.json                    keys of damaged samples that were left out, if any were
    RUN/wandb.json                      what Weights & Biases calls the run, if it is logged there
    RUN/checkpoints/step-000500/        model.safetensors, state.pt (optimiser and position)
    RUN/README.md                       the model card
    RUN/manifest.json                   written last
    RUN/evaluation/                     of `smile-pipe evaluate`; its linear probe is for `smile-pipe predict`

Promised: a checkpoint that is found is whole, on a disk and in an object store; loading one runs no code from it.
"""

import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import canonical_json
from smile_pipe.shards.storage import PathLike, StoragePath

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "model.safetensors"
STATE = "state.pt"
"""Of a checkpoint's files the last to come and the first to go: where it is, the checkpoint is whole."""

PROBE = "probe.safetensors"
_TAIL = 1 << 16


@dataclass(frozen=True)
class Checkpoint:
    """A saved state: after `step` steps in all."""

    path: StoragePath
    step: int

    def load_model(self) -> dict[str, "Tensor"]:
        """The model's weights."""
        # Imported where tensors are read and written: PyTorch takes a second, and every command knows this module.
        from safetensors.torch import load

        return load((self.path / WEIGHTS).read_bytes())

    def load_state(self) -> dict[str, Any]:
        """The optimiser's state; nothing but tensors and plain values is accepted."""
        import torch

        content = io.BytesIO((self.path / STATE).read_bytes())
        return torch.load(content, map_location="cpu", weights_only=True)


class RunDirectory:
    """One run, on a disk or under a URL."""

    def __init__(self, root: PathLike) -> None:
        self.root = root = StoragePath(root)
        self.manifest_path = root / "manifest.json"
        self.config_path = root / "config.json"
        self.metrics_path = root / "metrics.jsonl"
        self.checkpoints_path = root / "checkpoints"
        self.tensorboard_path = root / "tensorboard"
        self.skipped_path = root / "skipped.json"
        self.wandb_path = root / "wandb.json"
        self.card_path = root / "README.md"
        self.evaluation_path = root / "evaluation"
        self.evaluation_manifest_path = self.evaluation_path / "manifest.json"
        self.probe_path = self.evaluation_path / PROBE

    def manifest(self) -> RunManifest | None:
        """The manifest of a finished run, if there is one."""
        return RunManifest.read(self.manifest_path) if self.manifest_path.exists() else None

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints, oldest first."""
        return sorted((c for c in self._begun() if (c.path / STATE).exists()), key=lambda c: c.step)

    def save(self, step: int, model: Mapping[str, "Tensor"], state: Mapping[str, Any], keep: int) -> Checkpoint:
        """Write a checkpoint, and let go of all but the newest `keep`, and of those that were never whole."""
        import torch

        path = self.checkpoints_path / f"step-{step:06d}"
        if path.is_local:
            temporary = path.local.with_name(f".{path.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            _save_weights(temporary / WEIGHTS, model)
            torch.save(dict(state), temporary / STATE)
            _remove(path)
            temporary.rename(path.local)
        else:
            (path / STATE).unlink(missing_ok=True)
            with (path / WEIGHTS).replacing() as file:
                _save_weights(file, model)
            with (path / STATE).replacing() as file:
                torch.save(dict(state), file)
        kept = {checkpoint.path.name for checkpoint in self.checkpoints()[-keep:]}
        for old in list(self._begun()):
            if old.path.name not in kept:
                _remove(old.path)
        return Checkpoint(path, step)

    def skipped(self) -> tuple[str, ...]:
        """Keys of the samples that were left out at any time, sorted."""
        return tuple(json.loads(self.skipped_path.read_text())) if self.skipped_path.exists() else ()

    def note_skipped(self, keys: Iterable[str]) -> None:
        """Add samples to those that were left out."""
        self.skipped_path.write_atomically(canonical_json(sorted({*self.skipped(), *keys})).encode())

    def rewind_metrics(self, step: int) -> None:
        """Drop the rows after `step`: a run that goes on from there writes them again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        self.metrics_path.write_atomically("".join(json.dumps(row) + "\n" for row in rows).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of `metrics.jsonl`; a last line that is still being written is left out."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def progress(self) -> tuple[int, int]:
        """The last step that was told of, and how many there will be; 0 of 0 where that cannot be read."""
        try:
            tail = self.metrics_path.read_range(max(0, self.metrics_path.size() - _TAIL), _TAIL)
            # A last line that is still being written has no end.
            row = json.loads(tail.rpartition(b"\n")[0].splitlines()[-1])
            return int(row["step"]), int(row["num_steps"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0, 0

    def _begun(self) -> Iterator[Checkpoint]:
        """All checkpoints, whole or not."""
        if self.checkpoints_path.is_dir():
            for path in self.checkpoints_path.iterdir():
                if path.name.startswith("step-") and path.name[5:].isdecimal():
                    yield Checkpoint(path, int(path.name[5:]))


def open_run(root: PathLike) -> tuple[RunManifest, Checkpoint]:
    """The manifest and the result of a finished run.

    Raises:
        UsageError: not a run, or one without a checkpoint, or one that is not finished.
    """
    run = RunDirectory(root)
    if not run.root.is_dir():
        raise UsageError(f"{root}: no such run; `smile-pipe train` makes one")
    manifest, checkpoints = run.manifest(), {c.path.name: c for c in run.checkpoints()}
    if manifest is None:
        hint = "`smile-pipe train --resume` finishes it" if checkpoints else "it holds no checkpoint either"
        raise UsageError(f"{root}: has no manifest.json, so it is not a finished run; {hint}")
    if manifest.checkpoint not in checkpoints:
        raise UsageError(f"{root}: its checkpoint {manifest.checkpoint} is gone; train again")
    return manifest, checkpoints[manifest.checkpoint]


def _save_weights(file: Path, model: Mapping[str, "Tensor"]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in model.items()}, file)


def _remove(checkpoint: StoragePath) -> None:
    (checkpoint / STATE).unlink(missing_ok=True)
    checkpoint.remove_tree()
