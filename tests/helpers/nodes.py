"""Renders on a Ray of three nodes on this machine, some of which are killed, for `test_nodes_killed.py`.

The argument is JSON: the `options` of the render, the number of `gpus` that each node declares, the
`frames_per_batch`, and the `deaths`: what is killed (`node`, `actor`) once how many scans are rendered. Prints the
progress as a JSON list: the number of rendered scans at each report.
"""

import json
import os
import signal
import sys
from unittest import mock

from ray.cluster_utils import Cluster

from helpers.processes import workers
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.stage import RenderProgress, run

SYSTEM = {
    # Blocks stay on the node that created them, whatever their size; by default Ray sends small ones to the driver.
    "max_direct_call_object_size": 1,
    # A node that does not answer counts as dead after a second instead of a minute.
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """A head node without cores, and two nodes that render; a node is added before each kill."""

    def __init__(self, gpus: int) -> None:
        self.gpus = gpus
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": SYSTEM}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(), self.add()]

    def add(self):
        return self.cluster.add_node(num_cpus=1, num_gpus=self.gpus)

    def kill(self, what: str) -> None:
        """Kill the oldest node, or a process in which an actor renders, by SIGKILL."""
        if what == "actor":
            os.kill(workers("ray::MapWorker")[0], signal.SIGKILL)
            return
        self.nodes.append(self.add())
        self.cluster.remove_node(self.nodes.pop(0), allow_graceful=False)


def main(options: dict, gpus: int, frames_per_batch: int, deaths: list[tuple[str, int]]) -> None:
    nodes = Nodes(gpus)
    done: list[int] = []

    def kill(progress: RenderProgress) -> None:
        done.append(progress.num_done)
        while deaths and progress.num_done >= deaths[0][1]:
            nodes.kill(deaths.pop(0)[0])

    with (
        mock.patch("smile_pipe.pipeline.render.units.MAX_FRAMES_PER_BATCH", frames_per_batch),
        # With GPUs, which exist for Ray only, actors render on cores.
        mock.patch("smile_pipe.pipeline.render.job.GPU_RENDERERS", ("zbuffer",) if gpus else ()),
    ):
        run(RenderConfig(**options, address=nodes.cluster.address), kill)
    print(json.dumps(done))
    nodes.cluster.shutdown()


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
