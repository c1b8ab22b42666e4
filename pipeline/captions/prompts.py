"""The prompt of a sample, from where it was asked to come: its label, what its mesh measures, or its action units."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from smile_pipe.pipeline.captions.action_units import describe_units
from smile_pipe.pipeline.captions.bank import PromptBank
from smile_pipe.pipeline.captions.geometry import describe
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.shards.manifest import TextSource
from smile_pipe.shards.sample import Caption

Measures = Mapping[str, float] | None


@dataclass(frozen=True)
class Prompt:
    """A sample's text; equal concepts mean the same."""

    text: str
    concept: str
    caption: Caption | None = None


def write_prompt(
    sample: SampleSource, source: TextSource, bank: PromptBank, measures: Sequence[Measures], reference: Measures
) -> Prompt:
    """The prompt of a sample.

    Args:
        sample: for `label`, only its expression is looked at; for `au`, its action units; for `geometry`, neither.
        source: where the text comes from.
        bank: the templates of `label`.
        measures: for `geometry`, what each rendered frame measures; that of the strongest expression is described.
        reference: what they are compared with; None for the population.

    Raises:
        MeshError: there is nothing to write a caption from.
    """
    if source == "label":
        return Prompt(bank.prompt_for(sample.key, sample.expression), sample.expression)
    if source == "au":
        if sample.action_units is None:
            raise MeshError("has no coded action units to write a caption from (--text au)")
        # Where every unit is 1 their presence was coded, and not how strong they are.
        graded = any(intensity not in (0, 1) for intensity in sample.action_units.values())
        text = describe_units(sample.action_units, graded_intensity=graded)
        return Prompt(text, text, Caption(source="au", reference="none", numbers=sample.action_units))
    described = [describe(measured, reference) for measured in measures if measured is not None]
    if not described:
        raise MeshError("has no landmarks of a known set to write a caption from (--text geometry)")
    strongest = max(described, key=lambda description: description.strength)
    whose: Literal["population", "neutral", "first-frame"] = "population"
    if strongest.reference == "subject":
        whose = "neutral" if sample.frame_rate is None else "first-frame"
    caption = Caption(source="geometry", reference=whose, numbers=strongest.numbers)
    return Prompt(strongest.text, strongest.text, caption)
