"""The log of a run, written while it trains: rows of `metrics.jsonl`, and the same for TensorBoard.

Files grow on a disk. Where the run lies under a URL, where what is written can only be replaced as a whole, that is a
folder of this machine, whose files are put into the run every few seconds and at each checkpoint.
"""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from pipeline.training.run_directory import RunDirectory
from shards.places import write_atomically

Learned = Callable[[], Mapping[str, float]]

LOG_EVERY = 5
PUT_EVERY = 3.0
"""Seconds between two times that metrics are put into a run under a URL, at least."""
_PUT_SHARE = 0.05


class RunLog:
    """Writes the log of one worker's training, used as a context; only that of rank 0 writes."""

    def __init__(self, run: RunDirectory, rank: int, num_steps: int, batch_size: int) -> None:
        self.run, self.active = run, rank == 0
        self.num_steps, self.batch_size = num_steps, batch_size
        self.started, self.first_step = time.monotonic(), -1
        self.next_put = self.started + PUT_EVERY

    def __enter__(self) -> "RunLog":
        if self.active:
            root = self.run.root
            self.is_remote = not isinstance(root, Path)
            self.folder = root if isinstance(root, Path) else Path(tempfile.mkdtemp(prefix="smile-pipe-log-"))
            self.metrics_path = self.folder / self.run.metrics_path.name
            if self.is_remote and self.run.metrics_path.exists():
                self.metrics_path.write_bytes(self.run.metrics_path.read_bytes())
            self.file = open(self.metrics_path, "a")
            self.board = SummaryWriter(str(self.folder / self.run.tensorboard_path.name))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.active:
            return
        self.file.close()
        self.board.close()
        try:
            if kind is None:
                self.publish()
        finally:
            if self.is_remote:
                shutil.rmtree(self.folder, ignore_errors=True)

    def step(self, step: int, epoch: int, losses: dict[str, Tensor], lr: float, learned: Learned) -> None:
        """Note a step; a row is written every few, and only then is the device waited for."""
        if not self.active:
            return
        if self.first_step < 0:
            self.first_step = step
        if step % LOG_EVERY and step != self.num_steps:
            return
        rate = (step - self.first_step) * self.batch_size / max(time.monotonic() - self.started, 1e-9)
        row: dict[str, Any] = {"step": step, "epoch": epoch, "num_steps": self.num_steps}
        row |= {f"loss_{name}": round(value.item(), 6) for name, value in losses.items()}
        row |= {"learning_rate": lr} | {name: round(value, 6) for name, value in learned().items()}
        row["samples_per_second"] = round(rate, 1)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name, value in row.items():
            if name not in ("step", "num_steps"):
                self.board.add_scalar(name, value, step)
        if self.is_remote and time.monotonic() > self.next_put:
            # A storage that fails for a moment is no reason to stop: the next time, all rows are put again.
            with suppress(OSError):
                self._put_metrics()

    def publish(self) -> None:
        """Put all that was logged into the run."""
        if not self.active or not self.is_remote:
            return
        self._put_metrics()
        self.board.flush()
        for file in (self.folder / self.run.tensorboard_path.name).iterdir():
            write_atomically(self.run.tensorboard_path / file.name, file.read_bytes())

    def _put_metrics(self) -> None:
        began = time.monotonic()
        try:
            write_atomically(self.run.metrics_path, self.metrics_path.read_bytes())
        finally:
            now = time.monotonic()
            # A log grows, and putting all of it must stay a small part of the work.
            self.next_put = now + max(PUT_EVERY, (now - began) / _PUT_SHARE)
