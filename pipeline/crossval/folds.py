"""Folds of a cross-validation: each a training run and its evaluation, made by a Ray task or in this process.

Promised: a fold that is finished is not made again; one that was stopped goes on from its last checkpoint, also where
the worker that made it died: if on another machine, and under a URL, then once its lock no longer counts.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from smile_pipe.pipeline.common.directory_lock import wait_while_held
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

POLL_SECONDS = 1.0
MAX_RETRIES = 3


class FoldError(RuntimeError):
    """A fold was made, and cannot be read."""


@dataclass(frozen=True)
class Fold:
    """How a fold is trained and scored.

    Attributes:
        scored_on: fingerprint of the shards that it is scored on.
    """

    train: TrainConfig
    evaluate: EvaluateConfig
    scored_on: str

    @property
    def directory(self) -> RunDirectory:
        """Its run."""
        return RunDirectory(self.train.out)

    @property
    def evaluation_path(self) -> StoragePath:
        """Where its scores lie."""
        return self.directory.evaluation_manifest_path

    def evaluation(self) -> EvaluationManifest | None:
        """The scores of the run that is there, if it is finished, by all that was asked for."""
        run = self.directory.manifest()
        if run is None or not self.evaluation_path.exists():
            return None
        # One of an older release is made again.
        with suppress(UsageError):
            found = EvaluationManifest.read(self.evaluation_path)
            made_of = (found.run_fingerprint, found.shards_fingerprint)
            if made_of == (run.fingerprint, self.scored_on) and self._is_asked_for(found):
                return found
        return None

    def made(self) -> tuple[RunManifest, EvaluationManifest]:
        """Its run and its scores, of a fold that is finished.

        Raises:
            FoldError: they cannot be read; another version has written them.
        """
        run, evaluation = self.directory.manifest(), self.evaluation()
        if run is None or evaluation is None:
            raise FoldError(
                f"{self.train.out}: was made, and has no scores that can be read here; "
                "is the same version of smile-pipe installed on all machines?"
            )
        return run, evaluation

    def _is_asked_for(self, found: EvaluationManifest) -> bool:
        asked = {"classifier" if name == "zero-shot" else name for name in self.evaluate.protocol}
        had = {"classifier" if name == "zero-shot" else name for name in found.protocols}
        # What cannot be had of a run is told in the notes, and would not be had again.
        return found.where == self.evaluate.where and had <= asked and (asked <= had or bool(found.notes))


def run_fold(
    fold: Fold, num_threads: int | None = None, on_metrics: Callable[[dict[str, Any]], None] = lambda row: None
) -> None:
    """Train and score a fold as far as that is not done; see `smile_pipe.pipeline.train.stage.run` for the errors."""
    import torch

    from smile_pipe.pipeline.evaluate import stage as evaluate
    from smile_pipe.pipeline.train import stage as train

    if num_threads:
        torch.set_num_threads(num_threads)
    config = fold.train
    # A worker that died on another machine has left its lock under a URL, where nobody lets go of it.
    wait_while_held(config.out)
    if fold.directory.manifest() is None and fold.directory.config_path.exists():
        config = config.model_copy(update={"resume": True})
    # For the loop of a single worker this process is as good as another, and warm from the fold before.
    train.run(config, on_metrics, here=config.num_workers == 1)
    if fold.evaluation() is None:
        evaluate.run(fold.evaluate)


def run_on_ray(folds: Sequence[Fold], cores: int, on_progress: Callable[[], None]) -> None:
    """Run folds of one worker as tasks, as many at a time as Ray has cores, or GPUs, for.

    Raises:
        UsageError: no node has as many cores, or a GPU; or see `run_fold`. The other folds are stopped.
        BadSampleError: see `run_fold`.
    """
    import ray
    from ray.exceptions import RayTaskError

    use_gpu = folds[0].train.use_gpu
    _check_nodes([node["Resources"] for node in ray.nodes() if node["Alive"]], cores, use_gpu)
    task = ray.remote(max_retries=MAX_RETRIES, num_cpus=cores, num_gpus=int(use_gpu))(run_fold)
    waiting = [task.remote(fold, cores) for fold in folds]
    try:
        while waiting:
            done, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            on_progress()
            ray.get(done)
    except RayTaskError as error:
        raise error.cause or error from None
    finally:
        for left in waiting:
            ray.cancel(left, force=True)


def _check_nodes(nodes: Sequence[dict[str, float]], cores: int, use_gpu: bool) -> None:
    """Raise UsageError where Ray would wait for ever for a node that has as much."""
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    if cores > most:
        raise UsageError(f"no node has more than {most}", field="cores_per_fold", value=cores)
    if use_gpu and not any(node.get("GPU", 0) for node in nodes):
        raise UsageError("Ray has no GPU", field="use_gpu")
