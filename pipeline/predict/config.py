"""The options of the prediction stage.

What prediction says of each scan.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from smile_pipe.pipeline.common.option_types import Repeated
from smile_pipe.pipeline.rendering.backend import RendererName
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath

HeadName = Literal["zero-shot", "probe", "classifier"]


class PredictConfig(Frozen):
    """Options of `smile-pipe predict`."""

    run: StoragePath = Field(description="Directory of a finished training run, or its URL.")
    scans: Annotated[tuple[str, ...], Repeated] = Field(
        min_length=1, description="Files of meshes, or folders: of a dataset, of meshes, of the frames of a sequence."
    )
    prompts: Annotated[tuple[str, ...], Repeated] = Field(
        (), description="Words to choose among in place of the run's expressions; give it once for each."
    )
    head: Literal["auto", HeadName] = Field(
        "auto",
        description="What names a face: the prompts (zero-shot), or the linear probe of `smile-pipe evaluate`; auto "
        "takes the first that the run has, of a run with a classifier that one.",
    )
    sequence: bool = Field(False, description="Each folder holds the frames of one sequence, in the order of names.")
    frame_rate: float = Field(25.0, gt=0, le=100_000, description="Frames a second of `sequence`.")
    layout: str = Field("auto", description="How a folder lies on disk, as for render; auto: as it looks.")
    save_views: StoragePath | None = Field(None, description="Write the images that are looked at into this directory.")
    renderer: RendererName = Field("auto", description="As for render.")
    use_gpu: bool = Field(False, description="Embed on the GPU.")


class Prediction(Frozen):
    """What one scan or sequence expresses.

    Attributes:
        source: its file or folder.
        key: how its views are called.
        num_frames: of a sequence, those that were looked at; 1 for a scan.
        labelled: its expression, where its dataset says one.
        expression: the likeliest one, or of words the likeliest words; None where it could not be read.
        probabilities: of each expression, or of each of the words.
        failure: why it could not be read.
    """

    source: str
    key: str
    num_frames: int = 1
    labelled: str | None = None
    expression: str | None = None
    probabilities: Mapping[str, float] = {}
    failure: str | None = None


class Predictions(Frozen):
    """All that were asked for, in the order of asking, and what named them."""

    head: HeadName
    text_source: str
    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
