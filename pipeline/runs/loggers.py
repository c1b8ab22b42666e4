"""Loggers that receive the rows of `metrics.jsonl` while a run trains: TensorBoard, and Weights & Biases.

No key or password is written here: Weights & Biases reads its own environment variables, also for offline mode
(`WANDB_MODE`).
"""

import importlib
import importlib.util
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tensorboardX import SummaryWriter

from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.shards.errors import UsageError

_POSITION_FIELDS = ("step", "num_steps")


class MetricsLogger(Protocol):
    """Destination of rows of metrics."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Log the values of a row at its step."""

    def flush(self) -> None:
        """Write buffered values."""

    def close(self) -> None:
        """Finish logging."""


class TensorBoardLogger:
    """Writes event files of TensorBoard to a folder."""

    def __init__(self, folder: Path) -> None:
        # The default name has the time in seconds only: a resumed run could overwrite the file of the run before.
        self.writer = SummaryWriter(str(folder), filename_suffix=f".{time.time_ns()}")
        # A thread writes the values: `flush` may leave the newest ones to the next call, `close` writes all.
        self.flush, self.close = self.writer.flush, self.writer.close

    def log(self, row: Mapping[str, Any]) -> None:
        """Log the values of a row at its step."""
        for name, value in _values(row).items():
            self.writer.add_scalar(name, value, row["step"])


class WandbLogger:
    """Logs to a run of Weights & Biases; a resumed run continues the same one.

    Its local files are in `folder`, and the id of its run is in `wandb.json` of the run directory.
    """

    def __init__(self, run: RunDirectory, folder: Path, project: str, options: Mapping[str, Any]) -> None:
        # Not an import statement: the package is optional.
        wandb = importlib.import_module("wandb")
        run_id = json.loads(run.wandb_path.read_text())["id"] if run.wandb_path.exists() else None
        name, resume = run.root.name, "allow" if run_id else None
        self.run = wandb.init(
            project=project, name=name, id=run_id, resume=resume, dir=str(folder), config=dict(options)
        )
        run.wandb_path.write_atomically(json.dumps({"id": self.run.id, "project": project}).encode())

    def log(self, row: Mapping[str, Any]) -> None:
        """Log the values of a row at its step."""
        self.run.log(_values(row), step=row["step"])

    def flush(self) -> None:
        """Do nothing: Weights & Biases sends values by itself."""

    def close(self) -> None:
        """Finish the run of Weights & Biases."""
        self.run.finish()


def check_wandb(project: str | None) -> None:
    """Check that Weights & Biases is installed if a project is set.

    Raises:
        UsageError: It is not.
    """
    if project and importlib.util.find_spec("wandb") is None:
        raise UsageError(
            "the package wandb is not installed; pip install 'smile-pipe[wandb]'", field="wandb", value=project
        )


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _POSITION_FIELDS}
