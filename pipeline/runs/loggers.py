"""Boards: where the rows of a run's log are drawn while it trains, beside `metrics.jsonl`.

Goes in: rows, as they are written. Promised: a board gets what the file gets; no key or password is written by us:
Weights & Biases takes those from its own environment variables, and so also whether it is online (`WANDB_MODE`).
"""

import importlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.shards.errors import UsageError

_PLACES = ("step", "num_steps")


class Board(Protocol):
    """What draws rows."""

    def add(self, row: Mapping[str, Any]) -> None:
        """Draw what a row tells of its step."""

    def flush(self) -> None:
        """Write what is held back."""

    def close(self) -> None:
        """End."""


class TensorBoard:
    """Event files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.writer = SummaryWriter(str(folder))
        self.flush, self.close = self.writer.flush, self.writer.close

    def add(self, row: Mapping[str, Any]) -> None:
        """Draw what a row tells of its step."""
        for name, value in _told(row).items():
            self.writer.add_scalar(name, value, row["step"])


class WandbBoard:
    """A run of Weights & Biases; one that is gone on with goes on there, too.

    Its own files lie in `folder`; its name for the run in `wandb.json` of the run.
    """

    def __init__(self, run: RunDirectory, folder: Path, project: str, options: Mapping[str, Any]) -> None:
        # Not a statement: it is nobody's business to have it installed who does not ask for it.
        wandb = importlib.import_module("wandb")
        known = json.loads(run.wandb_path.read_text())["id"] if run.wandb_path.exists() else None
        name, resume = run.root.name, "allow" if known else None
        self.run = wandb.init(
            project=project, name=name, id=known, resume=resume, dir=str(folder), config=dict(options)
        )
        run.wandb_path.write_atomically(json.dumps({"id": self.run.id, "project": project}).encode())

    def add(self, row: Mapping[str, Any]) -> None:
        """Draw what a row tells of its step."""
        self.run.log(_told(row), step=row["step"])

    def flush(self) -> None:
        """Nothing: it sends as it goes."""

    def close(self) -> None:
        """Tell that the run is over."""
        self.run.finish()


def check_wandb(project: str | None) -> None:
    """Raise UsageError where Weights & Biases is asked for and is not installed."""
    if project and importlib.util.find_spec("wandb") is None:
        raise UsageError(
            "the package wandb is not installed; pip install 'smile-pipe[wandb]'", field="wandb", value=project
        )


def _told(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _PLACES}
