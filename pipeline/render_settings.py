"""The part of a render's configuration that its output depends on: what the manifest records and fingerprints cover."""

from functools import cached_property

from pipeline.prompts.bank import PromptBank
from pipeline.rendering.choice import RendererName
from pipeline.rendering.rig import Projection, Rig, View
from pipeline.sequences.settings import SequenceSettings
from shards.manifest import Frozen, TextSource, fingerprint

# Raise it when the bytes of a sample change for another reason than its renderer: framing, codecs, the record.
DATA_VERSION = 4


class RenderSettings(Frozen):
    """Everything but the scans themselves that decides the bytes of a shard."""

    data_version: int = DATA_VERSION
    renderer: RendererName
    renderer_version: str
    views: tuple[View, ...]
    size: int
    projection: Projection
    channels: tuple[str, ...]
    sequences: SequenceSettings = SequenceSettings()
    text_source: TextSource = "label"
    prompts: PromptBank

    @cached_property
    def images_fingerprint(self) -> str:
        """Changes exactly when every image has to be rendered again."""
        return fingerprint(self.model_dump(mode="json", exclude={"text_source", "prompts"}))

    @property
    def needs_neutral(self) -> bool:
        """Whether a scan is compared with its subject's neutral one."""
        return self.text_source == "geometry" or "flow" in self.channels

    @cached_property
    def rig(self) -> Rig:
        """The cameras of the views."""
        return Rig.build(self.views, self.size, self.projection)
