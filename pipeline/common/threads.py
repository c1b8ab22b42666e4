"""Threads of OpenMP, with which PyTorch computes, sleep while they wait for each other.

By default they keep their cores busy instead. If another process needs these cores, the thread that all others wait for
is not scheduled, and a training with two threads on two cores falls to a tenth of its speed and less.
"""

import os

THREADS_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
"""Environment of a process before it imports PyTorch."""


def let_threads_sleep() -> None:
    """Set the environment of this process, unless the user has."""
    for name, value in THREADS_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
