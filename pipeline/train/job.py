"""The training job without Ray, in this process: for places that no other process sees, such as memory://.

Telling that a training waits for a node that is gone: Ray waits for another one for ever, and says nothing.

The scratch folder of a training job: what Ray Train keeps there, and what workers tell the driver.

The one place where the training loop meets Ray Train.

The training job on Ray: one loop a worker, which is started again from the last checkpoint should it die.

Not so where a sample is damaged, which would be damaged the next time as well: the worker leaves a note of it in the
scratch folder of the job, beside what Ray keeps there, and the job ends.
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray.train
import torch

from smile_pipe.pipeline.common.background import run_in_background
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.loop import train
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.storage import StoragePath


def check_in_process(config: TrainConfig) -> None:
    """Raise UsageError where this process alone is not enough for what is asked."""
    if config.num_workers > 1:
        raise UsageError(
            "only this process sees memory://; leave it out", field="num_workers", value=config.num_workers
        )
    if config.use_gpu and not torch.cuda.is_available():
        raise UsageError("there is no GPU here", field="use_gpu")


def train_in_process(job: Job) -> None:
    """Run the loop as the only worker."""
    train(job, Worker(0, 1, torch.device("cuda" if job.config.use_gpu else "cpu")))


# Of two checks both must find too little: a node that comes back at once is not worth a word.
CHECK_SECONDS = 30.0

_log = logging.getLogger(__name__)


@contextmanager
def warn_on_lost_nodes(config: TrainConfig, resources: Mapping[str, int]) -> Iterator[None]:
    """Log an error while Ray has no room for the workers, each of which needs `resources`; once for each time."""
    import ray

    def watch(stop: threading.Event) -> None:
        lacked = 0
        while not stop.wait(CHECK_SECONDS):
            # Where Ray itself is gone, the training ends with an error of its own.
            with suppress(Exception):
                lacked = 0 if has_room(ray.nodes(), resources, config.num_workers) else lacked + 1
            if lacked == 2:
                _log.error(
                    "A node is gone, and Ray has no room for %d workers. The training goes on when there is another "
                    "one. To go on with fewer, stop it, and give `resume` with `num_workers` and `batch_size` whose "
                    "product is %d.",
                    config.num_workers,
                    config.joined_batch_size,
                )

    with run_in_background(watch):
        yield


def has_room(nodes: Sequence[Mapping[str, Any]], resources: Mapping[str, int], num_workers: int) -> bool:
    """Whether so many workers fit on the nodes that are alive (as `ray.nodes()` tells), each on one of them."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    each = [min(int(node.get(name, 0)) // count for name, count in resources.items()) for node in alive]
    return sum(each) >= num_workers


class TrainScratch:
    """What a job needs while it runs, in the directory of the run, which all nodes see."""

    def __init__(self, out: StoragePath) -> None:
        self.root = out / ".ray"

    def note_path(self, rank: int) -> StoragePath:
        """Where a worker says which sample is damaged."""
        return self.root / f"bad-sample-{rank}"

    def bad_sample(self, num_workers: int) -> str | None:
        """The first note of a damaged sample, if there is one."""
        notes = (self.note_path(rank) for rank in range(num_workers))
        return next((note.read_text() for note in notes if note.exists()), None)

    def storage(self) -> dict[str, Any]:
        """Where Ray Train keeps its own."""
        if self.root.is_local:
            return {"storage_path": str(self.root)}
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return {"storage_path": self.root.path, "storage_filesystem": PyFileSystem(FSSpecHandler(self.root.fs))}


def train_worker(config: dict[str, Any]) -> None:
    """Run the loop as the worker that Ray made this process; after a failure, go on from the last checkpoint.

    A damaged sample is noted for the driver, and no worker begins again after that.
    """
    job: Job = config["job"]
    context, scratch = ray.train.get_context(), TrainScratch(job.config.out)
    rank, world_size = context.get_world_rank(), context.get_world_size()
    if scratch.bad_sample(world_size):
        return
    # Ray sets this to the cores that it granted; torch may have counted them before.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        train(job, Worker(rank, world_size, ray.train.torch.get_device()))
    except BadSampleError as error:
        scratch.note_path(rank).write_atomically(str(error).encode())
        if world_size > 1:
            # The others wait for this one, and nothing but its failure ends them; all return as soon as they are back.
            raise


MAX_RESTARTS = 3


class TrainingError(RuntimeError):
    """The training job failed; the message is the worker's."""


def train_on_ray(job: Job, resources: dict[str, int]) -> None:
    """Run the loop on as many workers as `job` asks for, each with `resources`.

    Raises:
        BadSampleError: a sample is damaged.
        TrainingError: the job failed otherwise.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave SIGINT alone: Ray's handler would end the process with 0, as if the run were finished."""

    config, scratch = job.config, TrainScratch(job.config.out)
    # What a killed run has left is none of this one's.
    scratch.root.remove_tree()
    trainer = Trainer(
        train_worker,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="train", failure_config=FailureConfig(max_failures=MAX_RESTARTS), **scratch.storage()
        ),
    )
    try:
        with warn_on_lost_nodes(config, resources):
            trainer.fit()
    except Exception as error:
        raise TrainingError(_root_cause(error)) from error
    else:
        if damage := scratch.bad_sample(config.num_workers):
            raise BadSampleError(damage)
    finally:
        scratch.root.remove_tree()


def resources_per_worker(config: TrainConfig) -> dict[str, int]:
    """What each worker gets of the Ray that is there.

    Raises:
        UsageError: Ray has not enough; it would wait for more for ever, and say nothing.
    """
    import ray

    if config.use_gpu:
        if ray.cluster_resources().get("GPU", 0) < config.num_workers:
            raise UsageError(
                f"Ray has fewer GPUs than one for each of {config.num_workers} `num_workers`", field="use_gpu"
            )
        return {"CPU": 1, "GPU": 1}
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return {"CPU": cores_per_worker(nodes, config.num_workers)}


def cores_per_worker(nodes: Sequence[int], num_workers: int) -> int:
    """The most cores that each of `num_workers` can have, when a worker's cores lie on one of `nodes` (cores each).

    Raises:
        UsageError: not even one core each.
    """
    for cores in range(max(nodes, default=0), 0, -1):
        if sum(node // cores for node in nodes) >= num_workers:
            return cores
    raise UsageError(
        f"Ray has {pluralize(sum(nodes), 'core')}, and each worker needs one", field="num_workers", value=num_workers
    )


def _root_cause(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
