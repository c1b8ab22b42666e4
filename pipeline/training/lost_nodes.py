"""Telling that a training waits for a node that is gone: Ray waits for another one for ever, and says nothing."""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.training.beside import beside
from pipeline.training.config import TrainConfig

# Of two checks both must find too little: a node that comes back at once is not worth a word.
CHECK_SECONDS = 30.0

_log = logging.getLogger(__name__)


@contextmanager
def telling_of_lost_nodes(config: TrainConfig, resources: Mapping[str, int]) -> Iterator[None]:
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
                    "one. To go on with fewer, stop it, and give --resume with --num-workers and --batch-size whose "
                    "product is %d.",
                    config.num_workers,
                    config.joined_batch_size,
                )

    with beside(watch):
        yield


def has_room(nodes: Sequence[Mapping[str, Any]], resources: Mapping[str, int], num_workers: int) -> bool:
    """Whether so many workers fit on the nodes that are alive (as `ray.nodes()` tells), each on one of them."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    each = [min(int(node.get(name, 0)) // count for name, count in resources.items()) for node in alive]
    return sum(each) >= num_workers
