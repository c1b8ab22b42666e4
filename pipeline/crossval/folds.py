"""Run the folds of a cross-validation, each a training run with its evaluation, as Ray tasks or in this process.

A finished fold is not run again. A stopped fold continues from its last checkpoint, also after the death of its worker;
if that ran on another machine and wrote to a URL, after its lock has expired.
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
    """A fold has been run, and its results cannot be read."""


@dataclass(frozen=True)
class Fold:
    """One fold: how it is trained and scored.

    Attributes:
        train: options of training.
        evaluate: options of evaluation.
        scored_on: fingerprint of the scored shards.
        classes: the candidates of the evaluation.
    """

    train: TrainConfig
    evaluate: EvaluateConfig
    scored_on: str
    classes: tuple[str, ...]

    @property
    def directory(self) -> RunDirectory:
        """Directory of its run."""
        return RunDirectory(self.train.out)

    @property
    def evaluation_path(self) -> StoragePath:
        """Manifest of its evaluation."""
        return self.directory.evaluation_manifest_path

    def evaluation(self) -> EvaluationManifest | None:
        """Read its evaluation; None where there is none of the present run by the requested protocols."""
        run = self.directory.manifest()
        if run is None or not self.evaluation_path.exists():
            return None
        # An evaluation of an older release cannot be read, and is made again.
        with suppress(UsageError):
            evaluation = EvaluationManifest.read(self.evaluation_path)
            inputs = (evaluation.run_fingerprint, evaluation.shards_fingerprint)
            if inputs == (run.fingerprint, self.scored_on) and self._matches_request(evaluation):
                return evaluation
        return None

    def results(self) -> tuple[RunManifest, EvaluationManifest]:
        """Read the run and the evaluation of a finished fold.

        Raises:
            FoldError: they cannot be read, since another version wrote them.
        """
        run, evaluation = self.directory.manifest(), self.evaluation()
        if run is None or evaluation is None:
            raise FoldError(
                f"{self.train.out}: the fold has run, but its scores cannot be read here; "
                "install the same version of smile-pipe on all machines"
            )
        return run, evaluation

    def _matches_request(self, evaluation: EvaluationManifest) -> bool:
        requested = {"classifier" if name == "zero-shot" else name for name in self.evaluate.class_protocols}
        scored = {"classifier" if name == "zero-shot" else name for name in evaluation.protocols}
        # Only zero-shot can be impossible, with a note; another evaluation would leave it out again.
        left_out = {"classifier"} if any(note.startswith("zero-shot") for note in evaluation.notes) else set()
        is_complete = requested <= scored | left_out
        # Earlier releases had all expressions of the shards as candidates.
        is_same = evaluation.where == self.evaluate.where and evaluation.classes == self.classes
        answers_all = set(self.evaluate.questions) == set(evaluation.questions)
        return is_same and scored <= requested and is_complete and answers_all


def run_fold(
    fold: Fold, num_threads: int | None = None, on_metrics: Callable[[dict[str, Any]], None] = lambda row: None
) -> None:
    """Train and score a fold, as far as that is not done yet.

    Args:
        fold: the fold.
        num_threads: threads of PyTorch; None for its default.
        on_metrics: called with each row of the training metrics.

    Raises:
        UsageError, BadSampleError: see `smile_pipe.pipeline.train.stage.run`.
    """
    import torch

    from smile_pipe.pipeline.evaluate import stage as evaluate
    from smile_pipe.pipeline.train import stage as train

    if num_threads:
        torch.set_num_threads(num_threads)
    config = fold.train
    # A worker that died on another machine leaves its lock under a URL, where no process releases it.
    wait_while_held(config.out)
    if fold.directory.manifest() is None and fold.directory.config_path.exists():
        config = config.model_copy(update={"resume": True})
    # A single worker needs no process of its own; this one has its imports and kernels loaded already.
    train.run(config, on_metrics, in_process=config.num_workers == 1)
    if fold.evaluation() is None:
        evaluate.run(fold.evaluate)


def run_folds_on_ray(folds: Sequence[Fold], cores: int, on_progress: Callable[[], None]) -> None:
    """Run folds with one worker each as Ray tasks, as many in parallel as Ray has cores, or GPUs, for.

    Args:
        folds: the folds.
        cores: CPU cores per fold.
        on_progress: called about once a second.

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
        for reference in waiting:
            ray.cancel(reference, force=True)


def _check_nodes(nodes: Sequence[dict[str, float]], cores: int, use_gpu: bool) -> None:
    """Raise UsageError where Ray would wait forever for a node with these resources."""
    most = int(max((node.get("CPU", 0) for node in nodes), default=0))
    if cores > most:
        raise UsageError(f"no node has more than {most} cores; give fewer", field="cores_per_fold", value=cores)
    if use_gpu and not any(node.get("GPU", 0) for node in nodes):
        raise UsageError("Ray has no GPU; leave it out, or join a cluster with GPUs by `address`", field="use_gpu")
