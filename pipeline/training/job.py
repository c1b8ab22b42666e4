"""The training job on Ray: one loop a worker, which is started again from the last checkpoint should it die.

Not so where a sample is damaged, which would be damaged the next time as well: the worker leaves a note of it in the
scratch folder of the job, beside what Ray keeps there, and the job ends.
"""

from collections.abc import Sequence
from typing import Any

from pipeline.training.assignment import Job
from pipeline.training.config import TrainConfig
from pipeline.training.damage import BadSampleError
from pipeline.training.lost_nodes import telling_of_lost_nodes
from pipeline.training.scratch import JobScratch
from shards.errors import UsageError
from shards.places import remove_tree
from shards.words import counted

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

    from pipeline.training.worker import train_worker

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave SIGINT alone: Ray's handler would end the process with 0, as if the run were finished."""

    config, scratch = job.config, JobScratch(job.config.out)
    # What a killed run has left is none of this one's.
    remove_tree(scratch.root)
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
        with telling_of_lost_nodes(config, resources):
            trainer.fit()
    except Exception as error:
        raise TrainingError(_root_cause(error)) from error
    else:
        if damage := scratch.bad_sample(config.num_workers):
            raise BadSampleError(damage)
    finally:
        remove_tree(scratch.root)


def resources_per_worker(config: TrainConfig) -> dict[str, int]:
    """What each worker gets of the Ray that is there.

    Raises:
        UsageError: Ray has not enough; it would wait for more for ever, and say nothing.
    """
    import ray

    if config.use_gpu:
        if ray.cluster_resources().get("GPU", 0) < config.num_workers:
            raise UsageError(f"--use-gpu: Ray has fewer GPUs than one for each of {config.num_workers} --num-workers")
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
    raise UsageError(f"--num-workers {num_workers}: Ray has {counted(sum(nodes), 'core')}, and each worker needs one")


def _root_cause(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
