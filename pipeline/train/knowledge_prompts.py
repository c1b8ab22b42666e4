"""Prompts of expression knowledge: half of the texts are a sample's caption, half a prompt of what it is named.

The name of a sample is the expression whose published prototypes its caption matches best
(`smile_pipe.pipeline.captions.naming`). It is the concept of both kinds of text. No label is read.
"""

from collections.abc import Mapping, Sequence

from blake3 import blake3

from smile_pipe.pipeline.captions.knowledge import Knowledge
from smile_pipe.pipeline.captions.naming import ExpressionNamer, activity_of
from smile_pipe.pipeline.data.dataset import Batch
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.streaming import sample_pipeline


class KnowledgePrompts:
    """Names of samples, and texts drawn for them."""

    def __init__(self, prompts: Mapping[str, tuple[str, ...]], knowledge: Knowledge, source: str, seed: int) -> None:
        """Prepare the names.

        Args:
            prompts: Prompts by expression; expressions without any are never a name.
            knowledge: Prototypes of expressions.
            source: Source of the captions.
            seed: Random seed.
        """
        self.prompts = {name: texts for name, texts in prompts.items() if texts}
        self.classes = tuple(self.prompts)
        self.namer, self.seed = ExpressionNamer(knowledge, self.classes, source), seed

    def draw(self, batch: Batch, epoch: int) -> tuple[list[str], list[str]]:
        """Draw a text for each sample, another one each epoch, equal in every process.

        Returns:
            Texts, and the names of the samples. A sample that matches no expression has its caption for both.
        """
        texts, names = [], []
        for key, text, caption in zip(batch.keys, batch.texts, batch.captions, strict=True):
            number = None if caption is None else self.namer.name(activity_of(caption))
            if number is not None:
                name = self.classes[number]
                draw = int.from_bytes(blake3(f"{self.seed} {epoch} {key} text".encode()).digest(length=8), "little")
                choices = self.prompts[name]
                texts.append(choices[(draw >> 1) % len(choices)] if draw & 1 else text)
                names.append(name)
            else:
                texts.append(text)
                names.append(text)
        return texts, names


def name_samples(
    shards: ShardSet, rows: Sequence[SampleRow], knowledge: Knowledge, classes: Sequence[str]
) -> list[int]:
    """Name samples by their captions, for which their records are read.

    Returns:
        The index of each sample's expression in `classes`, in the order of the rows; -1 for a sample that has no name,
        or cannot be read.
    """
    namer = ExpressionNamer(knowledge, classes, shards.manifest.text_source)
    numbers: dict[str, int | None] = {}
    for sample in sample_pipeline(shards, rows, lambda row, error: None):
        caption = sample.record.caption
        numbers[sample.record.key] = None if caption is None else namer.name(activity_of(caption))
    return [-1 if (number := numbers.get(row.key)) is None else number for row in rows]
