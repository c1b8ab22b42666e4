"""What makes two trainings the same run: the fingerprint, and the folder that is named by it."""

from pathlib import Path
from typing import Any

from blake3 import blake3

from smile_pipe.pipeline.captions.naming import NAMING_VERSION
from smile_pipe.pipeline.data.input_images import INPUT_VERSION
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.context import Job
from smile_pipe.shards.manifest import fingerprint
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath

RUNS = "runs"


def run_fingerprint(config: TrainConfig, shards: ShardSet, job: Job) -> str:
    """Return the fingerprint of everything that the result of a training depends on."""
    # The other channels are converted as in version 1.
    version: list[Any] = [INPUT_VERSION] if "depth" in job.channels else []
    reads_knowledge = job.text_source == "knowledge" or config.pseudo_start == "knowledge"
    version += [fingerprint(job.knowledge, NAMING_VERSION)] if reads_knowledge else []
    return fingerprint(config.for_fingerprint(), shards.manifest.fingerprint, weights_digest(config), *version)


def default_out(config: TrainConfig, shards: ShardSet, job: Job) -> StoragePath:
    """Return the folder of a run for which none was named: runs/RECIPE-FINGERPRINT."""
    return StoragePath(RUNS) / f"{config.recipe}-{run_fingerprint(config, shards, job)[:8]}"


def weights_digest(config: TrainConfig) -> str:
    """Return a digest of a weights file: other weights under the same name make another run; "" without a file."""
    path = Path(config.pretrained or "")
    return blake3(path.read_bytes()).hexdigest(length=16) if path.is_file() else ""
