"""The options of the page."""

from pydantic import Field

from smile_pipe.pipeline.rendering.backend import RendererName
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath


class AppConfig(Frozen):
    """Options of `smile-pipe app`."""

    run: StoragePath = Field(description="Directory of a finished training run, or its URL.")
    host: str = Field(
        "localhost", description="Address to listen at; 0.0.0.0 lets other machines in, and there is no password."
    )
    port: int = Field(8501, ge=1, le=65535, description="Port to listen at.")
    open_browser: bool = Field(False, description="Open the page in a browser of this machine.")
    max_upload_mb: int = Field(64, ge=1, le=1024, description="Megabytes that an upload may have.")
    renderer: RendererName = Field("auto", description="As for render.")
    use_gpu: bool = Field(False, description="Embed on the GPU.")
