"""The options of the render stage, and how they resolve to the settings that its output depends on."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from smile_pipe.pipeline.captions.bank import load
from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.pipeline.common.option_types import ADDRESS_HELP, CommaSeparated
from smile_pipe.pipeline.datasets import LAYOUTS
from smile_pipe.pipeline.render.limits import Limits
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.rendering.backend import RendererName, choose_renderer, renderer_version
from smile_pipe.pipeline.rendering.cameras import Projection, side_of, views_of
from smile_pipe.pipeline.sequences.sampling import SequenceSettings, Window
from smile_pipe.shards.images import CHANNELS, MAX_SIDE
from smile_pipe.shards.sample import Sampling, Temporal
from smile_pipe.shards.storage import StoragePath


class RenderConfig(SampleFilter):
    """Options of `smile-pipe render`."""

    data_dir: StoragePath = Field(description="Folder that the dataset lies in, or its URL.")
    out: StoragePath = Field(description="Directory for the shards, or its URL; an earlier run's is continued.")
    layout: str = Field("auto", description=f"How the dataset lies on disk: auto, {', '.join(LAYOUTS)}.")
    rig: str = Field(
        "3",
        description="Views: 3, 5, 9, sphere:N (N of them, all around the front), or a YAML file with a list of "
        "{name, yaw, pitch}.",
    )
    yaw: float = Field(30.0, gt=0, le=80, description="Degrees between neighbouring views of a built-in rig.")
    size: int = Field(224, ge=16, le=2048, description="Height and width of the images in pixels.")
    projection: Projection = Field("perspective", description="Camera model: perspective or orthographic.")
    samples: Literal[1, 4, 9, 16] = Field(
        1, description="Samples a pixel: with 4 or more, outlines have no jagged edges."
    )
    jitter_deg: float = Field(
        0.0, ge=0, le=30, description="Move the cameras of each sample by up to so many degrees of yaw and pitch."
    )
    jitter_seed: int = Field(0, ge=0, description="Another number moves them otherwise.")
    channels: Annotated[tuple[str, ...], CommaSeparated] = Field(
        ("rgb", "depth", "normal"),
        min_length=1,
        description="What the images show: rgb, depth, normal; and flow, the displacement from the neutral face.",
    )
    renderer: RendererName = Field(
        "auto",
        description="auto takes pytorch3d where it and a GPU are present, else zbuffer, for CPUs; zbuffer-cuda is that "
        "one for GPUs.",
    )
    samples_per_shard: int = Field(256, ge=1, description="Samples in a full shard.")
    prompts: Path | None = Field(None, description="Prompt bank (YAML) to use in place of the built-in one.")
    text: Literal["label", "geometry", "au"] = Field(
        "label",
        description="Where prompts come from: the label, measured landmarks (geometry), or coded action units.",
    )
    frames: int = Field(8, ge=1, description="Frames of a sequence to render.")
    sampling: Sampling = Field(
        "uniform", description="Which ones: evenly over the sequence, around the apex, or all of them."
    )
    temporal: Temporal = Field(
        "frames", description="What is stored of a sequence: its frames, one dynamic image, or both."
    )
    window: Window = Field(
        None, description="START:END, the part of each sequence to use, in frames; END not included."
    )
    magnify: float = Field(1.0, gt=0, le=100, description="Multiply what moves in a sequence, for micro-expressions.")
    retry_failed: bool = Field(False, description="Try again what failed before, though its files are the same.")
    verify_sources: bool = Field(False, description="Read every source file to see if it changed, whatever its time.")
    sample_timeout: float = Field(300, gt=0, description="Seconds that reading one sample, or a piece of it, may take.")
    sample_memory: int = Field(4096, ge=64, description="Megabytes that reading one sample may add to a worker.")
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

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        if self.size * side_of(self.samples) > MAX_SIDE:
            raise ValueError(f"`size={self.size}` with `samples={self.samples}`: draws over {MAX_SIDE} pixels a side")
        return self

    @property
    def filter(self) -> SampleFilter:
        """Which samples are meant."""
        return SampleFilter.model_validate({name: getattr(self, name) for name in SampleFilter.model_fields})

    @property
    def limits(self) -> Limits:
        """What one sample may cost a worker."""
        return Limits(seconds=self.sample_timeout, megabytes=self.sample_memory)

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
            samples=self.samples,
            jitter_deg=self.jitter_deg,
            jitter_seed=self.jitter_seed if self.jitter_deg else 0,
            channels=self.channels,
            sequences=SequenceSettings(
                frames=self.frames,
                sampling=self.sampling,
                temporal=self.temporal,
                window=self.window,
                magnify=self.magnify,
            ),
            text_source=self.text,
            prompts=load(self.prompts),
        )
