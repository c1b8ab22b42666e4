"""Options of the synth stage."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from smile_pipe.pipeline.common.option_types import CommaSeparated
from smile_pipe.pipeline.face_model.actor import MIN_FRAMES
from smile_pipe.pipeline.synth.layouts import MAX_FRAMES
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath

Kind = Literal["scans", "sequences"]
Level = Annotated[int, Field(ge=1, le=4)]


class SynthConfig(Frozen):
    """Options of `smile-pipe synth`."""

    out: StoragePath = Field(
        description="Output folder or URL; new, empty, or with an earlier run of the same settings."
    )
    kind: Kind = Field("scans", description="Static scans (layout of BU-3DFE) or sequences (layout of BU-4DFE).")
    subjects: int = Field(8, description="Number of subjects.")
    seed: int = Field(0, ge=0, description="Random seed of the subjects.")
    face_model: Path | None = Field(
        None, description="ICT-FaceKit as a packed .npz file or a checkout; default: the built-in parametric face."
    )
    levels: Annotated[tuple[Level, ...], CommaSeparated] = Field(
        (1, 2, 3, 4), description="Intensity levels of each expression, from 1 to 4; only for scans."
    )
    frames: int = Field(
        30, ge=MIN_FRAMES, le=MAX_FRAMES, description="Number of frames of each sequence; only for sequences."
    )
    texture_size: int = Field(512, ge=64, le=4096, description="Height and width of the textures in pixels.")
