"""Threads of OpenMP, with which PyTorch computes, soon sleep while they wait for each other.

By default they keep their cores busy for milliseconds. If another process needs these cores, the thread that all others
wait for is not scheduled: with two such processes, a training with two threads on two cores falls to less than a
fortieth of its speed (`tests/benchmarks/bench_step.py`). If they slept at once, as with `OMP_WAIT_POLICY=passive`, they
would lose a fifth on a quiet machine.
"""

import os

THREADS_ENVIRONMENT = {"GOMP_SPINCOUNT": "1000"}
"""Environment of a process before it imports PyTorch; GNU OpenMP, which PyTorch brings, reads it."""


def let_threads_sleep() -> None:
    """Set the environment of this process, unless the user has set how threads wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        for name, value in THREADS_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
