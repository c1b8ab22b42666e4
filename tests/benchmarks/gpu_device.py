"""The device of a benchmark: the GPU, or a CPU on which the same code runs in a reduced form."""

import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from gpu_rows import Figures

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
NAME = torch.cuda.get_device_name() if HAS_GPU else f"{platform.machine()} CPU, reduced: rates mean nothing"
NUM_CORES = min(len(os.sched_getaffinity(0)), 16)

# The share of the driver's sample period (up to a second) in which any kernel of any process ran, in percent, and the
# memory of all processes in MiB.
QUERY = ("nvidia-smi", "--id=0", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits")
QUERY_SECONDS = 0.2


def describe() -> str:
    """Name of the device, cores and versions."""
    return f"{NAME}; {NUM_CORES} cores, torch {torch.__version__}, CUDA {torch.version.cuda}"


def wait() -> None:
    """Wait until the device has done all work of this process."""
    if HAS_GPU:
        torch.cuda.synchronize()


def median_seconds(work: Callable[[], Any], rounds: int) -> float:
    """The median of several rounds, after one that compiles."""
    work()
    seconds = []
    for _ in range(rounds):
        wait()
        began = time.perf_counter()
        work()
        wait()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


@contextmanager
def watch_gpu(query: Sequence[str] | None = QUERY if HAS_GPU else None) -> Iterator[Figures]:
    """Ask `nvidia-smi` during the block how busy the GPU is; the figures are there after the block.

    Needs no package, and counts the work of all processes. The first answer is about the time before the block.
    """
    figures: Figures = {}
    if query is None:
        yield figures
        return
    answers: list[tuple[float, float]] = []
    done = threading.Event()

    def ask() -> None:
        while not done.wait(QUERY_SECONDS):
            try:
                answer = subprocess.run(query, capture_output=True, text=True, check=True).stdout
                busy, memory = (float(number) for number in answer.split(","))
            except (OSError, subprocess.CalledProcessError, ValueError) as error:
                figures["GPU usage not measured"] = repr(error)
                return
            answers.append((busy, memory))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield figures
    finally:
        done.set()
        thread.join()
        if answers := answers[1:] or answers:
            figures["busy share of the GPU"] = statistics.mean(busy for busy, _ in answers) / 100
            figures["largest memory of the GPU, GiB"] = max(memory for _, memory in answers) / 1024
