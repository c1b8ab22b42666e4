"""Options of the app stage."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from smile_pipe.pipeline.captions.knowledge import KNOWLEDGE_HELP
from smile_pipe.pipeline.common.option_types import HEAD_HELP, ClassifierName
from smile_pipe.pipeline.landmarks.axes import AXES_HELP, UP_HELP, Axes, UpAxis
from smile_pipe.pipeline.landmarks.length_units import UNITS_HELP, LengthUnit
from smile_pipe.pipeline.rendering.choose_backend import RendererName
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath


class AppConfig(Frozen):
    """Options of `smile-pipe app`."""

    run: StoragePath = Field(description="Directory of a finished training run, or its URL.")
    head: Literal["auto", ClassifierName] = Field("auto", description=HEAD_HELP)
    knowledge: Path | None = Field(None, description=f"For captions: {KNOWLEDGE_HELP} [default: as in training]")
    host: str = Field(
        "localhost", description="Address to listen on; 0.0.0.0 admits other machines, without a password."
    )
    port: int = Field(8501, ge=1, le=65535, description="Port to listen on.")
    open_browser: bool = Field(False, description="Open the page in a browser on this machine.")
    max_upload_mb: int = Field(64, ge=1, le=1024, description="Maximum size of an upload in megabytes.")
    up: UpAxis = Field("y", description=UP_HELP)
    axes: Axes | None = Field(None, description=AXES_HELP)
    units: LengthUnit = Field("auto", description=UNITS_HELP)
    renderer: RendererName = Field("auto", description="Renderer, as for render.")
    use_gpu: bool = Field(False, description="Compute embeddings on the GPU.")
