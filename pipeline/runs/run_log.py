"""Log of a run while it trains: rows of `metrics.jsonl`, which TensorBoard and other loggers receive as well.

A row belongs to a step, every few steps, with losses and speed; or to the end of an epoch, with `validation_knn` and
without losses. The files grow on a local disk. Under a URL a file can only be replaced as a whole: the log is then a
temporary local folder that is uploaded every few seconds and at each checkpoint.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor

from smile_pipe.pipeline.runs.loggers import MetricsLogger, TensorBoardLogger, WandbLogger
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.shards.errors import storage_errors

T = TypeVar("T")

LOG_EVERY = 5
UPLOAD_SECONDS = 3.0
"""Least number of seconds between two uploads of the metrics."""
_UPLOAD_SHARE = 0.05


class RunLog:
    """Context manager that writes the log of a training; only rank 0 writes.

    Attributes:
        newest: The newest value of each field of the rows; empty on other ranks.
    """

    def __init__(
        self,
        run: RunDirectory,
        rank: int,
        num_steps: int,
        batch_size: int,
        wandb: str | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Prepare a log.

        Args:
            run: Directory of the run.
            rank: Rank of this process.
            num_steps: Number of steps of the whole run.
            batch_size: Samples per step of all ranks together.
            wandb: Project of Weights & Biases that also receives the rows.
            options: Options of the run that Weights & Biases shows.
        """
        self.run, self.is_active = run, rank == 0
        self.num_steps, self.batch_size = num_steps, batch_size
        self.wandb, self.options = wandb, options
        self.start_time, self.first_step, self.wait_seconds = time.monotonic(), -1, 0.0
        self.next_upload = self.start_time + UPLOAD_SECONDS
        self.newest: dict[str, Any] = {}

    def __enter__(self) -> "RunLog":
        if self.is_active:
            root = self.run.root
            self.is_remote = not root.is_local
            self.folder = root.local if root.is_local else Path(tempfile.mkdtemp(prefix="smile-pipe-log-"))
            self.metrics_path = self.folder / self.run.metrics_path.name
            if self.is_remote and self.run.metrics_path.exists():
                self.metrics_path.write_bytes(self.run.metrics_path.read_bytes())
            self.file = open(self.metrics_path, "a")
            self.loggers: list[MetricsLogger] = [TensorBoardLogger(self.folder / self.run.tensorboard_path.name)]
            if self.wandb:
                self.loggers.append(WandbLogger(self.run, self.folder, self.wandb, self.options))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.is_active:
            return
        self.file.close()
        for logger in self.loggers:
            logger.close()
        try:
            if kind is None:
                self.publish()
        finally:
            if self.is_remote:
                shutil.rmtree(self.folder, ignore_errors=True)

    def time_batches(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and count the time spent waiting for them."""
        iterator = iter(batches)
        while True:
            start = time.monotonic()
            batch = next(iterator, None)
            self.wait_seconds += time.monotonic() - start
            if batch is None:
                return
            yield batch

    def step(
        self,
        step: int,
        epoch: int,
        losses: dict[str, Tensor],
        learning_rates: Mapping[str, float],
        scalars: Callable[[], Mapping[str, float]],
    ) -> None:
        """Log a step; a row is written every few steps, and only these wait for the device.

        Args:
            step: Number of steps done.
            epoch: Number of the epoch, from 0.
            losses: Loss terms by name.
            learning_rates: Learning rates of the step by name of their column.
            scalars: Returns other numbers by name; called only if a row is written.
        """
        if not self.is_active:
            return
        if self.first_step < 0:
            self.first_step = step
        if not self.is_due(step):
            return
        elapsed = max(time.monotonic() - self.start_time, 1e-9)
        row = self._row(step, epoch)
        row |= {f"loss_{name}": round(value.item(), 6) for name, value in losses.items()}
        row |= learning_rates
        row |= {name: round(value, 6) for name, value in scalars().items()}
        row["samples_per_second"] = round((step - self.first_step) * self.batch_size / elapsed, 1)
        row["data_wait"] = round(self.wait_seconds / elapsed, 4)
        self._write(row)

    def is_due(self, step: int) -> bool:
        """Whether `step` writes a row after `step` steps; the same on all ranks."""
        return step % LOG_EVERY == 0 or step == self.num_steps

    def validation(self, step: int, epoch: int, accuracy: float) -> None:
        """Log the validation accuracy after an epoch."""
        if self.is_active:
            self._write(self._row(step, epoch) | {"validation_knn": round(accuracy, 6)})

    def publish(self) -> None:
        """Upload everything that was logged; does nothing for a run on a local disk."""
        if not self.is_active or not self.is_remote:
            return
        self._upload_metrics()
        for logger in self.loggers:
            logger.flush()
        for file in (self.folder / self.run.tensorboard_path.name).iterdir():
            (self.run.tensorboard_path / file.name).write_atomically(file.read_bytes())

    def _row(self, step: int, epoch: int) -> dict[str, Any]:
        return {"step": step, "epoch": epoch, "num_steps": self.num_steps}

    def _write(self, row: Mapping[str, Any]) -> None:
        self.newest |= row
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for logger in self.loggers:
            logger.log(row)
        if self.is_remote and time.monotonic() > self.next_upload:
            # A temporary failure of the storage does not stop the run: the next upload contains all rows.
            with suppress(OSError), storage_errors(self.run.metrics_path):
                self._upload_metrics()

    def _upload_metrics(self) -> None:
        start = time.monotonic()
        try:
            self.run.metrics_path.write_atomically(self.metrics_path.read_bytes())
        finally:
            now = time.monotonic()
            # The log grows; its uploads must stay a small share of the time.
            self.next_upload = now + max(UPLOAD_SECONDS, (now - start) / _UPLOAD_SHARE)
