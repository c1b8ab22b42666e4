"""The directory of a run, and its checkpoints.

    RUN/config.json                     options and recipe, written first
    RUN/metrics.jsonl                   one row every few steps
    RUN/tensorboard/
    RUN/skipped.json                    keys of damaged samples that were left out, if any
    RUN/wandb.json                      id of the run in Weights & Biases, if it is logged there
    RUN/checkpoints/step-000500/        model.safetensors, state.pt (optimiser and position)
    RUN/captions.json                   captions of the training samples and what they say of expressions, if any
    RUN/README.md                       the model card
    RUN/manifest.json                   written last
    RUN/evaluation/                     written by `smile-pipe evaluate`; `smile-pipe predict` reads its linear probe

A checkpoint that `RunDirectory.checkpoints` returns is complete, on a disk and in an object store. Loading a checkpoint
runs no code from it.
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
"""The file of a checkpoint that is written last and removed first: if it exists, the checkpoint is complete."""

PREDICTIONS, PROBE = "predictions.csv", "probe.safetensors"
_TAIL_BYTES = 1 << 16


@dataclass(frozen=True)
class Checkpoint:
    """The saved state after `step` steps."""

    path: StoragePath
    step: int

    def load_model(self) -> dict[str, "Tensor"]:
        """Load the weights of the model."""
        # A local import: importing PyTorch takes a second, and every command imports this module.
        from safetensors.torch import load

        return load((self.path / WEIGHTS).read_bytes())

    def load_state(self) -> dict[str, Any]:
        """Load the state of the optimiser; only tensors and plain values are accepted."""
        import torch

        content = io.BytesIO((self.path / STATE).read_bytes())
        return torch.load(content, map_location="cpu", weights_only=True)


class RunDirectory:
    """The files of one run, on a disk or under a URL."""

    def __init__(self, root: PathLike) -> None:
        self.root = root = StoragePath(root)
        self.manifest_path = root / "manifest.json"
        self.config_path = root / "config.json"
        self.metrics_path = root / "metrics.jsonl"
        self.checkpoints_path = root / "checkpoints"
        self.tensorboard_path = root / "tensorboard"
        self.skipped_path = root / "skipped.json"
        self.wandb_path = root / "wandb.json"
        self.captions_path = root / "captions.json"
        self.card_path = root / "README.md"
        self.evaluation_path = root / "evaluation"
        self.evaluation_manifest_path = self.evaluation_path / "manifest.json"
        self.predictions_path = self.evaluation_path / PREDICTIONS
        self.probe_path = self.evaluation_path / PROBE

    def manifest(self) -> RunManifest | None:
        """Read the manifest; None if the run is not finished."""
        return RunManifest.read(self.manifest_path) if self.manifest_path.exists() else None

    def checkpoints(self) -> list[Checkpoint]:
        """All complete checkpoints, oldest first."""
        return sorted((c for c in self._checkpoint_folders() if (c.path / STATE).exists()), key=lambda c: c.step)

    def save(self, step: int, model: Mapping[str, "Tensor"], state: Mapping[str, Any], keep: int) -> Checkpoint:
        """Write a checkpoint, and remove old and incomplete ones.

        Args:
            step: Number of steps done.
            model: Weights of the model.
            state: State of optimiser and position.
            keep: Number of checkpoints to keep.
        """
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
        for old in list(self._checkpoint_folders()):
            if old.path.name not in kept:
                _remove(old.path)
        return Checkpoint(path, step)

    def skipped(self) -> tuple[str, ...]:
        """Keys of all samples that were left out so far, sorted."""
        return tuple(json.loads(self.skipped_path.read_text())) if self.skipped_path.exists() else ()

    def add_skipped(self, keys: Iterable[str]) -> None:
        """Add keys of samples that were left out."""
        self.skipped_path.write_atomically(canonical_json(sorted({*self.skipped(), *keys})).encode())

    def truncate_metrics(self, step: int) -> None:
        """Remove the rows after `step`: a run that resumes there writes them again."""
        rows = [row for row in self.metrics() if row["step"] <= step]
        self.metrics_path.write_atomically("".join(json.dumps(row) + "\n" for row in rows).encode())

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of `metrics.jsonl`, without a last line that is still being written."""
        if not self.metrics_path.exists():
            return []
        lines = self.metrics_path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def progress(self) -> tuple[int, int]:
        """The last logged step and the number of all steps; (0, 0) if they cannot be read."""
        try:
            tail = self.metrics_path.read_range(max(0, self.metrics_path.size() - _TAIL_BYTES), _TAIL_BYTES)
            # A last line that is still being written has no line break.
            row = json.loads(tail.rpartition(b"\n")[0].splitlines()[-1])
            return int(row["step"]), int(row["num_steps"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0, 0

    def _checkpoint_folders(self) -> Iterator[Checkpoint]:
        """All checkpoints, complete or not."""
        if self.checkpoints_path.is_dir():
            for path in self.checkpoints_path.iterdir():
                if path.name.startswith("step-") and path.name[5:].isdecimal():
                    yield Checkpoint(path, int(path.name[5:]))


def open_run(root: StoragePath) -> tuple[RunManifest, Checkpoint]:
    """Open a finished run.

    Returns:
        Its manifest, and the checkpoint that is its result.

    Raises:
        UsageError: It is not a run, or the run is unfinished, or its checkpoint is missing.
    """
    run = RunDirectory(root)
    if not run.root.is_dir():
        raise UsageError(f"{root}: no such run; `smile-pipe train` makes one")
    manifest, checkpoints = run.manifest(), {c.path.name: c for c in run.checkpoints()}
    if manifest is None:
        hint = "finish it with `smile-pipe train` and `resume`" if checkpoints else "it holds no checkpoint either"
        raise UsageError(f"{root}: has no manifest.json, so it is not a finished run; {hint}")
    if manifest.checkpoint not in checkpoints:
        raise UsageError(f"{root}: its checkpoint {manifest.checkpoint} is missing; train again")
    return manifest, checkpoints[manifest.checkpoint]


def _save_weights(file: Path, model: Mapping[str, "Tensor"]) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in model.items()}, file)


def _remove(checkpoint: StoragePath) -> None:
    (checkpoint / STATE).unlink(missing_ok=True)
    checkpoint.remove_tree()
