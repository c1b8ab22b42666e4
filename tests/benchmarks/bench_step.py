"""Rates of training steps: architectures, threads, other processes that need the cores, and how threads wait.

    python tests/benchmarks/bench_step.py SHARDS --archs smile-tiny smile-nano --threads 1 2
    python tests/benchmarks/bench_step.py SHARDS --threads 2 --busy 0 1 2 --wait short passive active --avx2

A step is that of the default recipe with the default batch, in float32 or with `--precision bfloat16`: augmentation,
forward and backward pass, and update. Batches are read before. `busy` processes compute on one core each, with the
same priority. All combinations are measured in turn, `--rounds` times; a rate is that of the fastest round, and with
busy processes the mean of all rounds. `--avx2` forbids newer instructions to PyTorch.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.common.threads import THREADS_ENVIRONMENT
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.data.selection import select_training_rows
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Worker
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.reader import ShardSet

NUM_BATCHES = 6
# How long threads keep their core busy while they wait: for some microseconds as in all commands, not at all, always.
POLICIES = {
    "short": THREADS_ENVIRONMENT,
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "active": {"OMP_WAIT_POLICY": "active"},
}


def measure(shards: str, arch: str, precision: str, seconds: float) -> float:
    """Samples per second of the steps of `seconds`, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(shards=shards, out=f"{folder}/run", arch=arch, precision=precision)
        job = prepare(config, in_process=True)[2]
        model = build_model(job.recipe)
        model.freeze_unreached(with_text=job.text_source != "none", with_sequences=job.temporal != "none")
        opened = ShardSet.open(shards)
        dataset = FaceDataset(opened, DecodeSpec(job.channels, model.towers.image_size, job.temporal), 0)
        rows = select_training_rows(opened, job.subjects, config.where)
        size = config.batch_size
        batches = [*dataset.batches([rows[n * size : (n + 1) * size] for n in range(NUM_BATCHES)])]
        step = TrainStep(job, Worker(0, 1, torch.device("cpu")), model, dataset, rows)
        step.load_checkpoint(RunDirectory(config.out))
        step.start_epoch(is_resumed=False)
        for batch in batches[:2]:
            step.step(batch, 0, 0, 1.0)
        began, num_samples = time.perf_counter(), 0
        for number, batch in enumerate(itertools.cycle(batches)):
            step.step(batch, 0, number, 1.0)
            num_samples += len(batch.keys)
            if time.perf_counter() - began > seconds:
                return num_samples / (time.perf_counter() - began)
    raise AssertionError


@contextmanager
def busy_processes(num: int) -> Iterator[None]:
    """Processes that need one core each."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(num)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure_apart(given: argparse.Namespace, arch: str, num_threads: int, policy: str) -> float:
    """The same in a process of its own, whose environment decides about threads and instructions."""
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads), **POLICIES[policy]}
    if given.avx2:
        environment |= {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    only = [given.shards, "--archs", arch, "--precision", given.precision, "--seconds", str(given.seconds), "--here"]
    done = subprocess.run([sys.executable, __file__, *only], env=environment, check=True, stdout=subprocess.PIPE)
    return float(json.loads(done.stdout))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("--archs", nargs="+", default=["smile-nano"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--busy", nargs="+", type=int, default=[0])
    parser.add_argument("--wait", nargs="+", default=["short"], choices=[*POLICIES])
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--avx2", action="store_true")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure, and print a Markdown table."""
    given = _arguments()
    if given.here:
        print(json.dumps(measure(given.shards, given.archs[0], given.precision, given.seconds)))
        return
    rates: dict[tuple[str, int, str, int], list[float]] = defaultdict(list)
    for _ in range(given.rounds):
        for num_busy in given.busy:
            with busy_processes(num_busy):
                for arch, num_threads, policy in itertools.product(given.archs, given.threads, given.wait):
                    rate = measure_apart(given, arch, num_threads, policy)
                    rates[arch, num_threads, policy, num_busy].append(rate)
    instructions = "AVX2 only" if given.avx2 else "all instructions"
    print(f"{platform.processor() or platform.machine()}, {instructions}, {given.precision}, torch {torch.__version__}")
    print("| architecture | threads | waiting | busy processes | samples/s |")
    print("|---|---|---|---|---|")
    for (arch, num_threads, policy, num_busy), found in sorted(rates.items(), key=lambda item: (item[0][3], item[0])):
        rate = sum(found) / len(found) if num_busy else max(found)
        print(f"| {arch} | {num_threads} | {policy} | {num_busy} | {rate:.0f} |")


if __name__ == "__main__":
    main()
