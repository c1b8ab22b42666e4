"""Options of the landmark training stage."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from smile_pipe.pipeline.common.option_types import Repeated
from smile_pipe.shards.manifest import Frozen


class LandmarkTrainingConfig(Frozen):
    """Options of `smile-pipe train-landmarks`."""

    out: Path = Field(description="File of the weights, `.npz`.")
    face_model: Annotated[tuple[str, ...], Repeated] = Field(
        ("parametric",),
        description="Face to learn from: `parametric` or ICT-FaceKit as a packed .npz file or a checkout; repeatable.",
    )
    steps: int = Field(6_000, ge=1, description="Number of training steps.")
    seed: int = Field(0, ge=0, description="Random seed of the scenes and of the initialisation.")
    scenes_per_step: int = Field(1, ge=1, description="New scenes in each step; each is used in several steps.")
    workers: int = Field(1, ge=1, description="Number of processes that draw scenes.")
