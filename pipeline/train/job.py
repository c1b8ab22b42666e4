"""Execution of a training job on Ray Train, with restarts from the last checkpoint.

This is the only module in which the training loop meets Ray Train. A worker that dies is restarted. A damaged sample,
or a training that is not finite, would fail again after a restart: the worker then writes a note to the scratch folder
of the job, and the job ends.
"""

import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist

from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.cluster import warn_on_lost_nodes
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.local_job import FINAL_ERRORS, MAX_RESTARTS, TrainingError
from smile_pipe.pipeline.train.loop import train
from smile_pipe.shards.storage import StoragePath

# Ray fetches one report every two seconds, and the next report waits until then.
REPORT_SECONDS = 10.0


class TrainScratch:
    """Scratch folder of a job in the directory of its run, which all nodes can access."""

    def __init__(self, out: StoragePath) -> None:
        self.root = out / ".ray"

    def write_final_error(self, rank: int, error: Exception) -> None:
        """Report an error of `FINAL_ERRORS` from a worker."""
        note = {"kind": type(error).__name__, "message": str(error)}
        self._note_path(rank).write_atomically(json.dumps(note).encode())

    def final_error(self, num_workers: int) -> Exception | None:
        """The first such report, if there is one."""
        paths = (self._note_path(rank) for rank in range(num_workers))
        note = next((json.loads(path.read_text()) for path in paths if path.exists()), None)
        return next((kind(note["message"]) for kind in FINAL_ERRORS if note and kind.__name__ == note["kind"]), None)

    def _note_path(self, rank: int) -> StoragePath:
        return self.root / f"final-error-{rank}"

    def storage(self) -> dict[str, Any]:
        """Storage options of Ray Train."""
        if self.root.is_local:
            return {"storage_path": str(self.root)}
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return {"storage_path": self.root.path, "storage_filesystem": PyFileSystem(FSSpecHandler(self.root.fs))}


class RayReporter:
    """Reports metrics and the newest checkpoint to Ray Train, for its dashboard and its `Result`.

    Checkpoints stay in the directory of the run: instead of a copy, Ray receives a file with the path.
    """

    def __init__(self, run: RunDirectory, worker: Worker) -> None:
        self.run, self.worker, self.next_report = run, worker, time.monotonic() + REPORT_SECONDS

    def __call__(self, metrics: Mapping[str, Any], is_last: bool) -> None:
        """Report the last checkpoint, and of the others at most one every `REPORT_SECONDS`."""
        is_due = torch.tensor(is_last or time.monotonic() > self.next_report, dtype=torch.uint8)
        if self.worker.world_size > 1:
            # A report waits for all ranks, so that rank 0 decides for all.
            dist.broadcast(is_due, 0)
        if not is_due:
            return
        self.next_report = time.monotonic() + REPORT_SECONDS
        if self.worker.rank > 0:
            ray.train.report({})
            return
        with tempfile.TemporaryDirectory() as folder:
            path = self.run.checkpoints()[-1].path
            Path(folder, "checkpoint.json").write_text(json.dumps({"path": str(path)}))
            ray.train.report(dict(metrics), checkpoint=ray.train.Checkpoint.from_directory(folder))


def train_worker(config: dict[str, Any]) -> None:
    """Run the training loop in a worker process of Ray; after a failure Ray calls this again.

    An error that a restart would repeat is reported to the driver. After such a report no worker starts again.

    Args:
        config: The `Job` under the key "job".
    """
    job: Job = config["job"]
    context, scratch = ray.train.get_context(), TrainScratch(job.config.out)
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if scratch.final_error(world_size):
        return
    # Ray sets this variable to the number of granted cores; torch may have read it before.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        worker = Worker(rank, world_size, ray.train.torch.get_device())
        train(job, worker, RayReporter(RunDirectory(job.config.out), worker))
    except FINAL_ERRORS as error:
        scratch.write_final_error(rank, error)
        if world_size > 1:
            # The other workers wait in a collective, and only a failure of this one ends them. After the restart all
            # of them return at once.
            raise


def train_on_ray(job: Job, resources: dict[str, int]) -> None:
    """Run the training loop on the workers of a job.

    Args:
        job: The job.
        resources: Resources of each worker, by Ray's names.

    Raises:
        BadSampleError: A sample is damaged.
        DivergedError: The training is not finite.
        TrainingError: The job failed for another reason.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from smile_pipe.pipeline.train.failure_policy import FailuresInARow

    class Trainer(TorchTrainer):
        # Not public in Ray 2.60, which has no option for either.
        def _initialize_and_run_controller(self, **options: Any) -> Any:
            policy = FailuresInARow(self.run_config.failure_config, RunDirectory(config.out))
            return super()._initialize_and_run_controller(  # type: ignore[misc]
                **options | {"failure_policy": policy}
            )

        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave SIGINT alone: Ray's handler would end the process with 0, like a finished run."""

    config, scratch = job.config, TrainScratch(job.config.out)
    # Remove what a killed run has left.
    scratch.root.remove_tree()
    trainer = Trainer(
        train_worker,
        train_loop_config={"job": job},
        # Ranks on GPUs exchange numbers of rows between their CPUs.
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if config.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="train",
            failure_config=FailureConfig(max_failures=MAX_RESTARTS),
            checkpoint_config=CheckpointConfig(num_to_keep=config.keep_checkpoints),
            **scratch.storage(),
        ),
    )
    try:
        with warn_on_lost_nodes(config, resources):
            trainer.fit()
    except Exception as error:
        raise scratch.final_error(config.num_workers) or TrainingError.of(error) from error
    else:
        if final_error := scratch.final_error(config.num_workers):
            raise final_error
    finally:
        scratch.root.remove_tree()
