"""Options of the render stage, and the settings that they resolve to."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.pipeline.common.option_types import ADDRESS_HELP, CommaSeparated
from smile_pipe.pipeline.common.ray_session import cluster_has_gpu
from smile_pipe.pipeline.datasets import LAYOUTS
from smile_pipe.pipeline.landmarks.axes import AXES_HELP, UP_HELP, Axes, UpAxis, resolve_axes
from smile_pipe.pipeline.landmarks.length_units import UNITS_HELP, LengthUnit
from smile_pipe.pipeline.landmarks.source import LANDMARKS_HELP, LandmarkSource
from smile_pipe.pipeline.render.limits import Limits
from smile_pipe.pipeline.render.settings import NeutralChoice, RenderSettings
from smile_pipe.pipeline.rendering.cameras import Projection, build_views, samples_per_side
from smile_pipe.pipeline.rendering.choose_backend import (
    GPU_RENDERERS,
    RendererName,
    choose_renderer,
    has_local_gpu,
    renderer_version,
)
from smile_pipe.pipeline.sequences.sampling import SequenceSettings, Window
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.images import CHANNELS, LANDMARKS, MAX_SIDE
from smile_pipe.shards.sample import Sampling, Temporal
from smile_pipe.shards.storage import StoragePath


class RenderConfig(SampleFilter):
    """Options of `smile-pipe render`."""

    OLD_NAMES: ClassVar[Mapping[str, str]] = {"samples": "supersample"}

    data_dir: StoragePath = Field(description="Folder of the dataset, or its URL.")
    out: StoragePath = Field(description="Directory for the shards, or its URL; a run there is resumed.")
    layout: str = Field("auto", description=f"Layout of the dataset: auto, {', '.join(LAYOUTS)}.")
    rig: str = Field(
        "3",
        description="Views: 3, 5, 9, sphere:N (N views around the front), or a YAML file with a list of "
        "{name, yaw, pitch}.",
    )
    yaw: float = Field(30.0, gt=0, le=80, description="Degrees between adjacent views of a built-in rig.")
    size: int = Field(224, ge=16, le=2048, description="Height and width of the images in pixels.")
    projection: Projection = Field("perspective", description="Camera model: perspective or orthographic.")
    supersample: Literal[1, 4, 9, 16] = Field(1, description="Samples per pixel; 4 or more give smooth outlines.")
    jitter_deg: float = Field(
        0.0, ge=0, le=30, description="Maximum random change of yaw and pitch of a sample's cameras, in degrees."
    )
    jitter_seed: int = Field(0, ge=0, description="Seed of the camera jitter.")
    up: UpAxis = Field("y", description=UP_HELP)
    axes: Axes | None = Field(None, description=AXES_HELP)
    units: LengthUnit = Field("auto", description=UNITS_HELP)
    landmarks: LandmarkSource = Field("auto", description=LANDMARKS_HELP)
    channels: Annotated[tuple[str, ...], CommaSeparated] = Field(
        ("rgb", "depth", "normal"),
        min_length=1,
        description="Channels to render: rgb, depth, normal, flow (displacement from the neutral face), and landmarks "
        "(outlines through the landmarks, for models that read faces of other sources).",
    )
    renderer: RendererName = Field(
        "auto",
        description="Renderer: pytorch3d (GPUs), zbuffer-cuda (GPUs) or zbuffer (CPUs); auto takes pytorch3d if it is "
        "installed and there is a GPU, here or in the cluster of `address`, else zbuffer.",
    )
    workers_per_gpu: int = Field(
        1,
        ge=1,
        le=16,
        description="Number of workers that share a GPU; more than one keep it busy with small meshes, but share its "
        "memory.",
    )
    jpeg: Literal["cpu", "gpu"] = Field(
        "cpu",
        description="Where rgb is encoded as JPEG: cpu, or gpu (nvJPEG, on the GPU that renders; for large images; "
        "other bytes than cpu).",
    )
    samples_per_shard: int = Field(256, ge=1, description="Number of samples in a full shard.")
    prompts: Path | None = Field(None, description="Prompt bank (YAML) instead of the built-in one.")
    text: Literal["label", "geometry", "au"] = Field(
        "label",
        description="Source of the prompts: label, geometry (measured landmarks), or au (coded action units).",
    )
    frames: int = Field(8, ge=1, description="Number of frames to render of a sequence.")
    sampling: Sampling = Field(
        "uniform", description="Sampling of frames: uniform (over the sequence), apex (around the apex), or all."
    )
    temporal: Temporal = Field(
        "frames", description="Images to store of a sequence: frames, dynamic (one dynamic image), or both."
    )
    window: Window = Field(None, description="Part of each sequence to use: START:END in frames, END excluded.")
    magnify: float = Field(
        1.0, gt=0, le=100, description="Factor that magnifies motion in sequences, for micro-expressions."
    )
    retry_failed: bool = Field(False, description="Try failed samples again even if their files are unchanged.")
    verify_sources: bool = Field(False, description="Detect changed source files by content instead of size and time.")
    sample_timeout: float = Field(
        300, gt=0, description="Maximum seconds for reading one sample, or one unit of a long sequence."
    )
    sample_memory: int = Field(
        4096, ge=64, description="Maximum megabytes of memory that reading one sample may add to a worker."
    )
    limit: int | None = Field(None, ge=1, description="Render only the first N samples by key.")
    address: str = Field("local", description=ADDRESS_HELP)
    neutral: NeutralChoice = Field(
        "label",
        description="What captions of scans (`text=geometry`) are measured relative to: the subject's scan that is "
        "labelled neutral, the subject's scan of least activity (estimate; reads no label, but every scan once more), "
        "or none, which is the mean of all people.",
    )
    variant: int = Field(
        0,
        ge=0,
        description="0 draws the shapes as they are. Each other number changes them at random, all scans of a person "
        "alike: further heads to learn from, in a second set of shards, for models that read scans of other sources.",
    )
    max_frames_without_ray: int = Field(
        500,
        ge=0,
        description="Largest number of frames that `address=local` renders in a few processes without Ray, whose start "
        "would take longer; 0 always starts Ray.",
    )

    @field_validator("channels")
    @classmethod
    def _known_channels(cls, channels: tuple[str, ...]) -> tuple[str, ...]:
        for channel in channels:
            if channel not in CHANNELS:
                raise ValueError(f"unknown channel {channel!r}; choose from {', '.join(CHANNELS)}")
        # In the order of the file format, so that the same set of channels gives the same bytes.
        return tuple(channel for channel in CHANNELS if channel in channels)

    @model_validator(mode="after")
    def _drawable(self) -> Self:
        if self.size * samples_per_side(self.supersample) > MAX_SIDE:
            raise ValueError(
                f"`size={self.size}` with `supersample={self.supersample}`: draws over {MAX_SIDE} pixels a side"
            )
        if self.landmarks == "none" and LANDMARKS in self.channels:
            raise ValueError(f"`landmarks=none`: there is nothing to draw in the channel `{LANDMARKS}`")
        return self

    @property
    def filter(self) -> SampleFilter:
        """The filter that selects samples."""
        return SampleFilter.model_validate({name: getattr(self, name) for name in SampleFilter.model_fields})

    @property
    def limits(self) -> Limits:
        """Limits on the reading of one unit."""
        return Limits(seconds=self.sample_timeout, megabytes=self.sample_memory)

    @model_validator(mode="after")
    def _has_reference(self) -> Self:
        if self.neutral != "label" and (self.text != "geometry" or "flow" in self.channels):
            raise ValueError(f"`neutral={self.neutral}` is for `text=geometry`, without the channel flow")
        return self

    def _has_gpu(self) -> bool:
        if self.address == "local":
            return has_local_gpu()
        # The job checks a named renderer when it starts: a run with nothing to do needs no cluster.
        return self.renderer != "auto" or cluster_has_gpu(self.address)

    def resolve(self) -> RenderSettings:
        """Return the settings that the bytes of the output depend on.

        Raises:
            UsageError: the rig, the prompt bank or the renderer is not available, the renderer does not use the GPU
                that `jpeg` needs, or there is no Ray cluster at `address`.
        """
        renderer = choose_renderer(self.renderer, self._has_gpu)
        if self.jpeg == "gpu" and renderer not in GPU_RENDERERS:
            raise UsageError(
                f"`renderer={renderer}` uses no GPU; use `jpeg=cpu`, or a renderer for GPUs", field="jpeg", value="gpu"
            )
        return RenderSettings(
            renderer=renderer,
            renderer_version=renderer_version(renderer),
            views=build_views(self.rig, self.yaw),
            size=self.size,
            projection=self.projection,
            samples=self.supersample,
            jitter_deg=self.jitter_deg,
            jitter_seed=self.jitter_seed if self.jitter_deg else 0,
            channels=self.channels,
            axes=resolve_axes(self.up, self.axes),
            units=self.units,
            landmarks=self.landmarks,
            jpeg=self.jpeg if "rgb" in self.channels else "cpu",
            sequences=SequenceSettings(
                frames=self.frames,
                sampling=self.sampling,
                temporal=self.temporal,
                window=self.window,
                magnify=self.magnify,
            ),
            text_source=self.text,
            neutral=self.neutral,
            variant=self.variant,
            prompts=load_bank(self.prompts),
        )
