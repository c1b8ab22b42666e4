"""Write the prompt of a sample from its label, its measured geometry or its coded action units."""

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
    """The text of a sample.

    Attributes:
        text: The prompt or caption.
        concept: Identifier of its meaning; samples with equal concepts are positives of each other in training.
        caption: Data of a caption, None for a prompt from a label.
    """

    text: str
    concept: str
    caption: Caption | None = None


def write_prompt(
    sample: SampleSource, source: TextSource, bank: PromptBank, measures: Sequence[Measures], reference: Measures
) -> Prompt:
    """Write the prompt of a sample.

    Args:
        sample: The sample; `label` uses its expression, `au` its action units, `geometry` only whether it is a
            sequence.
        source: Source of the text.
        bank: Templates for `label`.
        measures: Measures of each rendered frame for `geometry`; the frame with the strongest expression is described.
        reference: Measures to compare with for `geometry`; None for the population mean.

    Raises:
        MeshError: The sample has no action units for `au`, or no measures for `geometry`.
    """
    if source == "label":
        return Prompt(bank.prompt_for(sample.key, sample.expression), sample.expression)
    if source == "au":
        if sample.action_units is None:
            raise MeshError("has no coded action units for a caption (`text=au`)")
        # If all intensities are 0 or 1, only presence was coded.
        graded = any(intensity not in (0, 1) for intensity in sample.action_units.values())
        text = describe_units(sample.action_units, graded_intensity=graded)
        return Prompt(text, text, Caption(source="au", reference="none", numbers=sample.action_units))
    described = [describe(measured, reference) for measured in measures if measured is not None]
    if not described:
        raise MeshError("has no landmarks of a known set for a caption (`text=geometry`)")
    strongest = max(described, key=lambda description: description.strength)
    reference_name: Literal["population", "neutral", "first-frame"] = "population"
    if strongest.reference == "subject":
        reference_name = "neutral" if sample.frame_rate is None else "first-frame"
    caption = Caption(source="geometry", reference=reference_name, numbers=strongest.numbers)
    return Prompt(strongest.text, strongest.text, caption)
