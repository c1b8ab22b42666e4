"""What the workers of a render were at: seconds by step, and from them what it was that limited the rate."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

from smile_pipe.pipeline.render.output import ShardRecord

STEPS = ("read", "render", "encode")
"""What is timed of each piece, in the column `seconds_of` it."""

# Workers that are busy for a larger share of the time limit the rate; what is left is starting up and changing over.
_IS_BUSY = 0.75


def seconds_of(step: str) -> str:
    """The column of a table of pieces that says how long a step took."""
    return f"{step}_seconds"


@dataclass(frozen=True)
class StepSeconds:
    """Seconds of all workers together, by what they did."""

    read: float = 0.0
    render: float = 0.0
    encode: float = 0.0
    write: float = 0.0

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], write: float) -> "StepSeconds":
        """The steps of some pieces, and the writing of their shard."""
        read, render, encode = (sum(row[seconds_of(step)] or 0.0 for row in rows) for step in STEPS)
        return cls(read, render, encode, write)

    def __add__(self, other: "StepSeconds") -> "StepSeconds":
        """Of both together."""
        mine, theirs = astuple(self), astuple(other)
        return StepSeconds(*map(operator.add, mine, theirs))


@dataclass(frozen=True)
class WrittenShard:
    """A shard that is written, and what that took."""

    receipt: ShardRecord
    spent: StepSeconds


@dataclass(frozen=True)
class Workers:
    """What a render has to work with; where there are GPUs, these render, and cores do the rest."""

    cores: int
    gpus: int = 0


@dataclass(frozen=True)
class Shares:
    """Which part of the time each kind of worker was busy.

    Attributes:
        cores, gpus: from 0 to 1; a GPU counts as busy while its worker renders, copies and Python included. None where
            no GPU renders.
        steps: of the time of the cores, by step.
    """

    cores: float
    gpus: float | None
    steps: Mapping[str, float]

    @classmethod
    def of(cls, spent: StepSeconds, workers: Workers, seconds: float) -> "Shares":
        """Of `seconds` that the whole took."""
        seconds = max(seconds, 1e-9)
        steps = asdict(spent)
        rendering = steps.pop("render") / (seconds * workers.gpus) if workers.gpus else None
        of_cores = {step: amount / (seconds * workers.cores) for step, amount in steps.items()}
        return cls(sum(of_cores.values()), rendering, of_cores)

    @property
    def limit(self) -> str:
        """What more of would have made it faster."""
        if max(self.cores, self.gpus or 0.0) < _IS_BUSY:
            return "waiting (storage, or starting up)"
        return "GPUs" if (self.gpus or 0.0) > self.cores else "cores"
