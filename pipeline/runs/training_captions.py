"""The captions that a run was trained with, in its directory, so that they can name expressions without the shards.

`captions.json` has each distinct caption with the activities of its samples (`smile_pipe.pipeline.captions.naming`),
and the expression knowledge of the training. Nothing in it is read from a label of an expression.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from smile_pipe.pipeline.captions.knowledge import Knowledge
from smile_pipe.pipeline.captions.naming import AXES, Activity, ExpressionNamer, activity_of
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen, canonical_json
from smile_pipe.shards.sample import Sample
from smile_pipe.shards.storage import StoragePath

if TYPE_CHECKING:
    from smile_pipe.pipeline.runs.load_model import TrainedModel

_BATCH = 256
CAPTION_SOURCES = ("geometry", "au", "knowledge")
"""Text sources of runs that were trained with captions."""


class TrainingCaptions(Frozen):
    """Captions of the training samples.

    Attributes:
        source: What captions were made from.
        knowledge: Prototypes of expressions, as the training used them.
        captions: Activities of the samples of each distinct caption, by its text.
    """

    schema_version: Literal[1] = 1
    source: Literal["geometry", "au"]
    knowledge: Knowledge
    captions: Mapping[str, tuple[Activity, ...]]

    @model_validator(mode="after")
    def _fits_axes(self) -> Self:
        num_axes = len(AXES[self.source])
        if any(len(activity.strengths) != num_axes for given in self.captions.values() for activity in given):
            raise ValueError(f"an activity of {self.source} has {num_axes} strengths")
        return self

    @classmethod
    def collect(cls, samples: Iterable[Sample], knowledge: Knowledge, source: str) -> Self:
        """Collect the captions of samples, which are from `source`; samples whose record has none are left out."""
        captions: dict[str, list[Activity]] = {}
        for sample in samples:
            if sample.record.caption is not None:
                captions.setdefault(sample.text, []).append(activity_of(sample.record.caption))
        # Sorted, so that the order of the samples does not matter.
        ordered = {text: sorted(captions[text], key=lambda activity: activity.strengths) for text in sorted(captions)}
        return cls.model_validate({"source": source, "knowledge": knowledge, "captions": ordered})

    @classmethod
    def read(cls, root: StoragePath) -> Self:
        """Read the captions of a run.

        Raises:
            UsageError: The run has none, or they are damaged.
        """
        path = RunDirectory(root).captions_path
        try:
            found = cls.model_validate_json(path.read_bytes()) if path.exists() else None
        except ValidationError as error:
            raise UsageError(f"{path}: not captions of a run ({error.errors()[0]['msg']}); train again") from None
        if found is None or not found.captions:
            raise UsageError(
                f"{root}: has no captions; train on shards with captions (`text=geometry`), by this release"
            )
        return found

    def write(self, root: StoragePath) -> None:
        """Write `captions.json` into the directory of a run."""
        RunDirectory(root).captions_path.write_atomically(canonical_json(self, indent=None).encode())

    def votes(self, classes: Sequence[str], knowledge: Knowledge | None = None) -> NDArray[np.float64]:
        """Count the samples of each caption by the expression that knowledge gives them.

        Args:
            classes: Codes of the K expressions to choose from.
            knowledge: Prototypes instead of those of the training.

        Returns:
            float64 [C, K]; columns of expressions that knowledge lacks are 0. A sample that matches no expression is
            divided among the known ones.

        Raises:
            UsageError: Knowledge has none of the expressions.
        """
        namer = ExpressionNamer(knowledge or self.knowledge, classes, self.source)
        if not namer.known.any():
            raise UsageError(
                f"the expression knowledge has none of {', '.join(list(classes)[:5])}; add prototypes of your own",
                field="knowledge",
            )
        unnamed = namer.known / namer.known.sum()
        one_hot = np.eye(len(namer.classes))
        votes = np.zeros((len(self.captions), len(namer.classes)))
        for row, activities in zip(votes, self.captions.values(), strict=True):
            names = [namer.name(activity) for activity in activities]
            row[:] = np.sum([unnamed if name is None else one_hot[name] for name in names], axis=0)
        return votes


def embed_captions(model: "TrainedModel", captions: TrainingCaptions) -> NDArray[np.float32]:
    """Embed the texts of captions, float32 [C, D] in their order."""
    texts = list(captions.captions)
    parts = [model.embed_prompts(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
    return np.concatenate(parts)
