"""The options of the render stage, and how they resolve to the settings that its output depends on."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.options import ADDRESS_HELP, CommaSeparated
from pipeline.prompts.bank import load
from pipeline.rendering.choice import RendererName, choose_renderer, renderer_version
from pipeline.rendering.rig import Projection, views_of
from pipeline.rendering.settings import RenderSettings
from shards.images import CHANNELS
from shards.manifest import Frozen


class RenderConfig(Frozen):
    """Options of `smile-pipe render`."""

    data_dir: Path = Field(description="Folder that the dataset lies in.")
    out: Path = Field(description="Directory for the shards; an earlier run's is continued.")
    layout: str = Field("auto", description="How the dataset lies on disk: auto, bu3dfe or folder.")
    rig: str = Field("3", description="Views: 3, 5, 9, or a YAML file with a list of {name, yaw, pitch}.")
    yaw: float = Field(30.0, gt=0, le=80, description="Degrees between neighbouring views of a built-in rig.")
    size: int = Field(224, ge=16, le=2048, description="Height and width of the images in pixels.")
    projection: Projection = Field("perspective", description="Camera model: perspective or orthographic.")
    channels: Annotated[tuple[str, ...], CommaSeparated] = Field(
        CHANNELS, min_length=1, description="What the images show: any of rgb, depth and normal."
    )
    renderer: RendererName = Field(
        "auto", description="auto takes pytorch3d where it and a GPU are present, else zbuffer."
    )
    samples_per_shard: int = Field(256, ge=1, description="Samples in a full shard.")
    prompts: Path | None = Field(None, description="Prompt bank (YAML) to use in place of the built-in one.")
    text: Literal["label"] = Field("label", description="Where prompts come from: the sample's label.")
    limit: int | None = Field(None, ge=1, description="Render only the first N samples by key.")
    address: str = Field("local", description=ADDRESS_HELP)

    @field_validator("channels")
    @classmethod
    def _known_channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        for channel in channels:
            if channel not in CHANNELS:
                raise ValueError(f"unknown channel {channel!r}; choose from {', '.join(CHANNELS)}")
        # The order of the format, whatever the order of asking: the same set gives the same bytes.
        return tuple(channel for channel in CHANNELS if channel in channels)

    def resolve(self) -> RenderSettings:
        """The settings that decide the output's bytes.

        Raises:
            UsageError: a rig, prompt bank or renderer that cannot be had.
        """
        renderer = choose_renderer(self.renderer)
        return RenderSettings(
            renderer=renderer,
            renderer_version=renderer_version(renderer),
            views=views_of(self.rig, self.yaw),
            size=self.size,
            projection=self.projection,
            channels=self.channels,
            text_source=self.text,
            prompts=load(self.prompts),
        )
