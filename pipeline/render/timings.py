"""How busy the workers of a render are: seconds by step, and from them what limits the rate."""

import operator
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass

# Workers that are busy for a larger part of the time limit the rate; the rest is start-up and hand-over.
_IS_BUSY = 0.75


@dataclass(frozen=True)
class StepSeconds:
    """Seconds by step, of one unit or summed over workers."""

    read: float = 0.0
    render: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    def __add__(self, other: "StepSeconds") -> "StepSeconds":
        """Add step by step."""
        return StepSeconds(*map(operator.add, astuple(self), astuple(other)))


@dataclass(frozen=True)
class Workers:
    """The resources of a render. Where there are GPUs, they render and cores do the other steps.

    Attributes:
        cores: number of cores.
        gpus: number of GPUs that render.
        workers_per_gpu: number of workers that share each GPU.
    """

    cores: int
    gpus: int = 0
    workers_per_gpu: int = 1

    @property
    def gpu_workers(self) -> int:
        """Number of workers that render on GPUs."""
        return self.gpus * self.workers_per_gpu

    @property
    def gpus_per_worker(self) -> float:
        """Part of a GPU that each worker reserves. Ray counts in steps of 0.0001, so this is rounded down."""
        return (10_000 // self.workers_per_gpu) / 10_000


@dataclass(frozen=True)
class Utilization:
    """The fraction of the time that each kind of worker was busy.

    Attributes:
        cores: from 0 to 1.
        gpus: from 0 to 1; None if no GPU renders. A GPU counts as busy while its worker renders, which includes
            copies and Python; of several workers of a GPU, this is the mean.
        steps: fraction of the cores' time by step.
    """

    cores: float
    gpus: float | None
    steps: Mapping[str, float]

    @classmethod
    def of(cls, busy: StepSeconds, workers: Workers, seconds: float) -> "Utilization":
        """Compute it from the workers' seconds by step and the `seconds` that the job has taken."""
        seconds = max(seconds, 1e-9)
        steps = asdict(busy)
        rendering = steps.pop("render") / (seconds * workers.gpu_workers) if workers.gpus else None
        of_cores = {step: amount / (seconds * workers.cores) for step, amount in steps.items()}
        return cls(sum(of_cores.values()), rendering, of_cores)

    @property
    def limit(self) -> str:
        """The resource of which more would make the render faster."""
        if max(self.cores, self.gpus or 0.0) < _IS_BUSY:
            return "waiting (storage, or starting up)"
        return "GPUs" if (self.gpus or 0.0) > self.cores else "cores"
