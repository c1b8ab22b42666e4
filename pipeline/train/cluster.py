"""Resources of the Ray cluster that a training needs: cores or GPUs per worker, and a warning if nodes are lost.

Ray waits for missing nodes without limit and logs nothing, so both are checked here.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray

from smile_pipe.pipeline.common.background import run_in_background
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize

# A warning needs two checks in a row without room: a node that returns at once is not worth one.
CHECK_SECONDS = 30.0

_log = logging.getLogger(__name__)


def resources_per_worker(config: TrainConfig) -> dict[str, int]:
    """Resources of each worker: `cpus_per_worker` cores, by default as many as the nodes allow, or one and a GPU.

    Raises:
        UsageError: The cluster has too few; Ray would wait for more without limit.
    """
    nodes, cores = ray.nodes(), config.cpus_per_worker
    if config.use_gpu and ray.cluster_resources().get("GPU", 0) < config.num_workers:
        raise UsageError(f"Ray has fewer GPUs than one for each of {config.num_workers} `num_workers`", field="use_gpu")
    if cores is None and not config.use_gpu:
        alive = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
        return {"CPU": cores_per_worker(alive, config.num_workers)}
    resources = {"CPU": cores or 1} | ({"GPU": 1} if config.use_gpu else {})
    if cores and not has_room(nodes, resources, config.num_workers):
        raise UsageError(
            f"the nodes of Ray have no room for {pluralize(config.num_workers, 'worker')} of this size; choose fewer",
            field="cpus_per_worker",
            value=cores,
        )
    return resources


def cores_per_worker(nodes: Sequence[int], num_workers: int) -> int:
    """Largest number of cores that each worker can have; the cores of a worker are on one node.

    Args:
        nodes: Number of cores of each node.
        num_workers: Number of workers.

    Raises:
        UsageError: There is less than one core per worker.
    """
    for cores in range(max(nodes, default=0), 0, -1):
        if sum(node // cores for node in nodes) >= num_workers:
            return cores
    raise UsageError(
        f"Ray has {pluralize(sum(nodes), 'core')}, and each worker needs one", field="num_workers", value=num_workers
    )


@contextmanager
def warn_on_lost_nodes(config: TrainConfig, resources: Mapping[str, int]) -> Iterator[None]:
    """Log an error each time that the cluster loses the room for the workers.

    Args:
        config: Options of the training.
        resources: Resources of each worker, by Ray's names.
    """

    def watch(stop: threading.Event) -> None:
        num_failed = 0
        while not stop.wait(CHECK_SECONDS):
            # If Ray itself is gone, the training ends with its own error.
            with suppress(Exception):
                num_failed = 0 if has_room(ray.nodes(), resources, config.num_workers) else num_failed + 1
            if num_failed == 2:
                _log.error(
                    "Ray has no room for %d workers: a node is lost. Training continues when another node joins. To "
                    "continue with fewer workers, stop it and use `resume` with `num_workers` and `batch_size` whose "
                    "product is %d.",
                    config.num_workers,
                    config.joined_batch_size,
                )

    with run_in_background(watch):
        yield


def has_room(nodes: Sequence[Mapping[str, Any]], resources: Mapping[str, int], num_workers: int) -> bool:
    """Whether the nodes that are alive have room for all workers, each on one node.

    Args:
        nodes: Result of `ray.nodes()`.
        resources: Resources of each worker.
        num_workers: Number of workers.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    room = [min(int(node.get(name, 0)) // count for name, count in resources.items()) for node in alive]
    return sum(room) >= num_workers
