"""The options of the prediction stage."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.options import Repeated
from pipeline.rendering.choice import RendererName
from shards.manifest import Frozen
from shards.places import AnyPlace

HeadName = Literal["zero-shot", "probe", "classifier"]


class PredictConfig(Frozen):
    """Options of `smile-pipe predict`."""

    run: AnyPlace = Field(description="Directory of a finished training run, or its URL.")
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
    frame_rate: float = Field(25.0, gt=0, le=100_000, description="Frames a second of --sequence.")
    layout: str = Field("auto", description="How a folder lies on disk, as for render; auto: as it looks.")
    save_views: AnyPlace | None = Field(None, description="Write the images that are looked at into this directory.")
    renderer: RendererName = Field("auto", description="As for render.")
    use_gpu: bool = Field(False, description="Embed on the GPU.")
