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
    """The resources of a render. Where there are GPUs, they render and cores do the other steps."""

    cores: int
    gpus: int = 0


@dataclass(frozen=True)
class Utilization:
    """The fraction of the time that each kind of worker was busy.

    Attributes:
        cores: from 0 to 1.
        gpus: from 0 to 1; None if no GPU renders. A GPU counts as busy while its worker renders, which includes
            copies and Python.
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
        rendering = steps.pop("render") / (seconds * workers.gpus) if workers.gpus else None
        of_cores = {step: amount / (seconds * workers.cores) for step, amount in steps.items()}
        return cls(sum(of_cores.values()), rendering, of_cores)

    @property
    def limit(self) -> str:
        """The resource of which more would make the render faster."""
        if max(self.cores, self.gpus or 0.0) < _IS_BUSY:
            return "waiting (storage, or starting up)"
        return "GPUs" if (self.gpus or 0.0) > self.cores else "cores"
