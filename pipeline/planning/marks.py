"""Marks: fingerprints by which a render knows what has to be done again, and what need not.

A sample has two. The mark of its images covers the files that they show and the settings that they were rendered with;
the mark of the whole covers also the labels, and what its prompt is made from. Equal marks mean equal bytes.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from blake3 import blake3

from pipeline.layouts.layout import SampleSource
from pipeline.render_settings import RenderSettings
from shards.index import SourceFile
from shards.manifest import fingerprint

# Neither pydantic nor sorted keys: they would take most of the time of a plan for 100,000 samples.
_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)


@dataclass(frozen=True)
class Marks:
    """The marks of samples under some settings.

    Attributes:
        layout: the name of the layout; it stands in the records.
        images_settings: fingerprint of the settings that decide the images.
        prompt_settings: what of the settings decides a sample's prompt.
        shows_neutral: whether the images depend on the subject's neutral scan.
    """

    layout: str
    images_settings: str
    prompt_settings: Callable[[SampleSource], str]
    shows_neutral: bool = False

    @classmethod
    def of(cls, settings: RenderSettings, layout: str) -> Self:
        """The marks of a render."""

        @cache
        def templates(expression: str) -> str:
            return fingerprint(settings.prompts.templates_for(expression))

        def prompt(sample: SampleSource) -> str:
            return templates(sample.expression) if settings.text_source == "label" else settings.text_source

        return cls(layout, settings.images_fingerprint, prompt, "flow" in settings.channels)

    def images(self, sample: SampleSource, files: Sequence[SourceFile]) -> str:
        """The mark of a sample's images, given its files as they are."""
        neutral = set() if self.shows_neutral or sample.neutral is None else set(sample.neutral.paths)
        shown = [[file.path, file.blake3] for file in files if file.path not in neutral]
        return _digest([self.images_settings, shown, self._roles(sample)])

    def whole(self, sample: SampleSource, images: str, files: Sequence[SourceFile]) -> str:
        """The mark of all of a sample; `images` is that of its images."""
        labels = [sample.key, sample.subject, sample.expression, sample.level, sorted(sample.labels.items())]
        units = None if sample.action_units is None else sorted(sample.action_units.items())
        neutral = None if sample.neutral is None else [file.blake3 for file in files]
        # The roles stand here too: where the files are the same, they alone can make the images others.
        return _digest([images, self.layout, labels, units, self.prompt_settings(sample), neutral, self._roles(sample)])

    def _roles(self, sample: SampleSource) -> list[Any]:
        """What each file is in the sample."""
        frames = [[scan.mesh, scan.texture, scan.landmarks] for scan in sample.frames]
        is_neutral = sample.expression == "NE" if self.shows_neutral else None
        return [frames, sample.frame_rate, sample.numbers, sample.num_recorded, is_neutral]


def _digest(value: Any) -> str:
    return blake3(_ENCODER.encode(value).encode()).hexdigest(length=16)
