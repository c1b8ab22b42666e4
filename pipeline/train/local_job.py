"""Training without Ray: one worker on the CPUs of this machine in a process of its own, or the loop in this process.

Of Ray, one worker on CPUs needs only the restart from the last checkpoint when it fails, and the start of Ray takes
longer than that of all the rest.
"""

import os

import torch

from smile_pipe.pipeline.common.finite_steps import DivergedError
from smile_pipe.pipeline.common.ray_session import is_connected
from smile_pipe.pipeline.common.worker_processes import WorkerProcesses, available_cores
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.loop import train
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize

FINAL_ERRORS = (BadSampleError, DivergedError, UsageError)
"""Errors that a restart would repeat."""
MAX_RESTARTS = 3
"""Failures in a row, without a new checkpoint between them, after which a job is restarted."""


class TrainingError(RuntimeError):
    """The training job failed; the message is that of the worker."""

    @classmethod
    def of(cls, error: BaseException) -> "TrainingError":
        """Return the error with the last line of `error`, which is that of the worker."""
        lines = [line for line in str(error).splitlines() if line.strip()]
        return cls(lines[-1] if lines else type(error).__name__)


def needs_no_ray(config: TrainConfig) -> bool:
    """Whether one worker on CPUs of this machine trains, and this process is not connected to Ray."""
    return config.address == "local" and config.num_workers == 1 and not config.use_gpu and not is_connected()


def num_cores(config: TrainConfig) -> int:
    """Return the number of cores of the worker: `cpus_per_worker`, by default all.

    Raises:
        UsageError: This machine has fewer.
    """
    cores = available_cores()
    if (config.cpus_per_worker or 0) > cores:
        raise UsageError(
            f"this machine has {pluralize(cores, 'core')}; choose fewer",
            field="cpus_per_worker",
            value=config.cpus_per_worker,
        )
    return config.cpus_per_worker or cores


def train_in_one_process(job: Job, cores: int) -> None:
    """Run the training loop in a process of its own, which is replaced when it fails.

    Args:
        job: The job.
        cores: Number of cores of the process.

    Raises:
        BadSampleError: A sample is damaged.
        DivergedError: The training is not finite.
        TrainingError: The job failed for another reason.
    """
    num_failures, newest = 0, _newest_step(job)
    while True:
        try:
            with WorkerProcesses(1, num_threads=cores) as processes:
                list(processes.map(_train, [job], attempts=1))
            return
        except FINAL_ERRORS:
            raise
        except Exception as error:
            before, newest = newest, _newest_step(job)
            num_failures = num_failures + 1 if newest == before else 1
            if num_failures > MAX_RESTARTS:
                raise TrainingError.of(error) from error


def _newest_step(job: Job) -> int:
    checkpoints = RunDirectory(job.config.out).checkpoints()
    return checkpoints[-1].step if checkpoints else 0


def _train(job: Job) -> None:
    # Torch would use as many threads as there are cores.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    train(job, Worker(0, 1, torch.device("cpu")))


def check_in_process(config: TrainConfig) -> None:
    """Check that one process is enough for the options.

    Raises:
        UsageError: They need several workers, or a GPU that this machine lacks.
    """
    if config.num_workers > 1:
        raise UsageError(
            "memory:// is visible to one process only; leave it out", field="num_workers", value=config.num_workers
        )
    if config.use_gpu and not torch.cuda.is_available():
        raise UsageError("this machine has no GPU; leave it out", field="use_gpu")


def train_in_process(job: Job) -> None:
    """Run the training loop in this process, for storage that no other process can access, such as memory://."""
    train(job, Worker(0, 1, torch.device("cuda" if job.config.use_gpu else "cpu")))
