"""When Ray Train restarts the workers of a job that failed."""

from typing import Any

# Not public in Ray 2.60, which counts the failures of the whole job: a long one would end with the first few.
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy

from smile_pipe.pipeline.runs.run_directory import RunDirectory


class FailuresInARow(DefaultFailurePolicy):
    """Counts only failures without a new checkpoint between them.

    Attributes:
        run: the run whose checkpoints show progress.
    """

    def __init__(self, failure_config: Any, run: RunDirectory) -> None:
        super().__init__(failure_config)
        self.run = run
        self._newest = self._newest_checkpoint()

    def make_decision(self, training_failed_error: Any) -> Any:
        """Decide whether to restart the workers."""
        newest = self._newest_checkpoint()
        if newest != self._newest:
            self._newest, self._worker_group_failures = newest, 0
        return super().make_decision(training_failed_error)

    def _newest_checkpoint(self) -> str:
        return next((checkpoint.path.name for checkpoint in reversed(self.run.checkpoints())), "")
