"""The log of a run, written while it trains: rows of `metrics.jsonl`, and the same for TensorBoard and other boards.

A row is of a step, every few, with losses and speed, or of the end of an epoch, with `validation_knn` and no losses.
Files grow on a disk. Where the run lies under a URL, where what is written can only be replaced as a whole, that is a
folder of this machine, whose files are put into the run every few seconds and at each checkpoint.
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

from smile_pipe.pipeline.runs.loggers import Board, TensorBoard, WandbBoard
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.shards.storage import storage_errors

Learned = Callable[[], Mapping[str, float]]
T = TypeVar("T")

LOG_EVERY = 5
PUT_EVERY = 3.0
"""Seconds between two times that metrics are put into a run under a URL, at least."""
_PUT_SHARE = 0.05


class RunLog:
    """Writes the log of one worker's training, used as a context; only that of rank 0 writes."""

    def __init__(
        self,
        run: RunDirectory,
        rank: int,
        num_steps: int,
        batch_size: int,
        wandb: str | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`wandb` is a project of Weights & Biases that is to have the rows, too, and `options` what it shows of them.

        `batch_size` is that of all ranks together.
        """
        self.run, self.active = run, rank == 0
        self.num_steps, self.batch_size = num_steps, batch_size
        self.wandb, self.options = wandb, options
        self.started, self.first_step, self.waited = time.monotonic(), -1, 0.0
        self.next_put = self.started + PUT_EVERY

    def __enter__(self) -> "RunLog":
        if self.active:
            root = self.run.root
            self.is_remote = not root.is_local
            self.folder = root.local if root.is_local else Path(tempfile.mkdtemp(prefix="smile-pipe-log-"))
            self.metrics_path = self.folder / self.run.metrics_path.name
            if self.is_remote and self.run.metrics_path.exists():
                self.metrics_path.write_bytes(self.run.metrics_path.read_bytes())
            self.file = open(self.metrics_path, "a")
            self.boards: list[Board] = [TensorBoard(self.folder / self.run.tensorboard_path.name)]
            if self.wandb:
                self.boards.append(WandbBoard(self.run, self.folder, self.wandb, self.options))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.active:
            return
        self.file.close()
        for board in self.boards:
            board.close()
        try:
            if kind is None:
                self.publish()
        finally:
            if self.is_remote:
                shutil.rmtree(self.folder, ignore_errors=True)

    def waiting(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; the time that is waited for them is counted."""
        coming = iter(batches)
        while True:
            began = time.monotonic()
            batch = next(coming, None)
            self.waited += time.monotonic() - began
            if batch is None:
                return
            yield batch

    def step(self, step: int, epoch: int, losses: dict[str, Tensor], lr: float, learned: Learned) -> None:
        """Note a step; a row is written every few, and only then is the device waited for."""
        if not self.active:
            return
        if self.first_step < 0:
            self.first_step = step
        if step % LOG_EVERY and step != self.num_steps:
            return
        elapsed = max(time.monotonic() - self.started, 1e-9)
        row = self._row(step, epoch)
        row |= {f"loss_{name}": round(value.item(), 6) for name, value in losses.items()}
        row |= {"learning_rate": lr} | {name: round(value, 6) for name, value in learned().items()}
        row["samples_per_second"] = round((step - self.first_step) * self.batch_size / elapsed, 1)
        row["data_wait"] = round(self.waited / elapsed, 4)
        self._write(row)

    def validated(self, step: int, epoch: int, accuracy: float) -> None:
        """Note how well held-back subjects are told apart after an epoch."""
        if self.active:
            self._write(self._row(step, epoch) | {"validation_knn": round(accuracy, 6)})

    def publish(self) -> None:
        """Put all that was logged into the run."""
        if not self.active or not self.is_remote:
            return
        self._put_metrics()
        for board in self.boards:
            board.flush()
        for file in (self.folder / self.run.tensorboard_path.name).iterdir():
            (self.run.tensorboard_path / file.name).write_atomically(file.read_bytes())

    def _row(self, step: int, epoch: int) -> dict[str, Any]:
        return {"step": step, "epoch": epoch, "num_steps": self.num_steps}

    def _write(self, row: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for board in self.boards:
            board.add(row)
        if self.is_remote and time.monotonic() > self.next_put:
            # A storage that fails for a moment is no reason to stop: the next time, all rows are put again.
            with suppress(OSError), storage_errors(self.run.metrics_path):
                self._put_metrics()

    def _put_metrics(self) -> None:
        began = time.monotonic()
        try:
            self.run.metrics_path.write_atomically(self.metrics_path.read_bytes())
        finally:
            now = time.monotonic()
            # A log grows, and putting all of it must stay a small part of the work.
            self.next_put = now + max(PUT_EVERY, (now - began) / _PUT_SHARE)
