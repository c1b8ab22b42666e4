"""The settings that the bytes of a render depend on, which the manifest records and fingerprints cover."""

from functools import cache, cached_property
from importlib.metadata import version
from typing import Literal

from blake3 import blake3
from pydantic import Field

from smile_pipe.pipeline.captions.bank import PromptBank
from smile_pipe.pipeline.landmarks.axes import UPRIGHT, Axes
from smile_pipe.pipeline.landmarks.length_units import LengthUnit
from smile_pipe.pipeline.landmarks.source import LandmarkSource, detector_version
from smile_pipe.pipeline.meshes.variation import VERSION as VARIATION_VERSION
from smile_pipe.pipeline.rendering.cameras import Projection, Rig, View, jitter_views
from smile_pipe.pipeline.rendering.choose_backend import RendererName
from smile_pipe.pipeline.sequences.sampling import SequenceSettings
from smile_pipe.shards.images import LANDMARKS
from smile_pipe.shards.manifest import Frozen, TextSource, fingerprint

# Increment when the images or the record of a sample change for another reason than its renderer: alignment, codecs.
# How they are packed is the schema version of the manifest.
DATA_VERSION = 7
NeutralChoice = Literal["label", "estimate", "none"]
# Codecs, and the compiler of the kernels: another version may give other bytes.
LIBRARIES = ("imagecodecs", "numba", "pillow", "simplejpeg", "zlib-ng")


@cache
def library_versions() -> dict[str, str]:
    """The installed versions of the libraries that the bytes of a render depend on."""
    return {name: version(name) for name in LIBRARIES}


def _detector_of(landmarks: LandmarkSource) -> str:
    return detector_version() if landmarks in ("auto", "detect") else ""


class RenderSettings(Frozen):
    """Everything that decides the bytes of a shard, except the scans.

    Attributes:
        detector: version of the landmark detector, "" where none is used.
        neutral: what captions of scans are measured relative to: the scan that is labelled as neutral, an estimated
            one, or none, which is the population mean.
        variant: 0, or the number of a random change of the shapes, see `smile_pipe.pipeline.meshes.variation`.
        needs_colors: whether a scan fails if its images cannot be read and `rgb` is drawn. It is True for shards, and
            not recorded.
    """

    data_version: int = DATA_VERSION
    renderer: RendererName
    renderer_version: str
    libraries: dict[str, str] = Field(default_factory=library_versions)
    views: tuple[View, ...]
    size: int
    projection: Projection
    samples: int = 1
    jitter_deg: float = 0.0
    jitter_seed: int = 0
    channels: tuple[str, ...]
    jpeg: Literal["cpu", "gpu"] = "cpu"
    axes: Axes = UPRIGHT
    units: LengthUnit = "auto"
    landmarks: LandmarkSource = "auto"
    detector: str = Field(default_factory=lambda given: _detector_of(given["landmarks"]))
    sequences: SequenceSettings = SequenceSettings()
    text_source: TextSource = "label"
    neutral: NeutralChoice = "label"
    prompts: PromptBank
    variant: int = Field(0, ge=0)
    needs_colors: bool = Field(default=True, exclude=True)

    @cached_property
    def images_fingerprint(self) -> str:
        """Fingerprint of the settings that images depend on; if it changes, all images are rendered again."""
        # Earlier versions have neither `units` nor `variant`.
        unset = {name for name, value in (("units", "auto"), ("variant", 0)) if getattr(self, name) == value}
        shown = self.model_dump(mode="json", exclude={"text_source", "neutral", "prompts", *unset})
        return fingerprint(shown, VARIATION_VERSION) if self.variant else fingerprint(shown)

    @property
    def needs_neutral(self) -> bool:
        """Whether a scan is compared with its subject's neutral one, labelled or estimated."""
        return (self.text_source == "geometry" and self.neutral != "none") or "flow" in self.channels

    @property
    def reads_landmarks(self) -> bool:
        """Whether each frame of a sequence needs its own landmarks, for its caption or for its image of them."""
        return self.text_source == "geometry" or LANDMARKS in self.channels

    @property
    def rendered_channels(self) -> tuple[str, ...]:
        """The channels that a renderer draws from the surface: all but `landmarks`, and at least one."""
        return tuple(name for name in self.channels if name != LANDMARKS) or ("depth",)

    def rig_of(self, key: str) -> Rig:
        """Return the cameras of a sample: those of the views, or with jitter the sample's own."""
        if not self.jitter_deg:
            return self._rig
        digest = blake3(f"{self.jitter_seed} {key}".encode()).digest(8)
        return self._build(jitter_views(self.views, self.jitter_deg, int.from_bytes(digest)))

    @cached_property
    def _rig(self) -> Rig:
        return self._build(self.views)

    def _build(self, views: tuple[View, ...]) -> Rig:
        return Rig.build(views, self.size, self.projection)
