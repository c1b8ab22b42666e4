"""Options of the evaluation stage."""

from pathlib import Path
from typing import Annotated, cast, get_args

from pydantic import Field

from smile_pipe.pipeline.captions.knowledge import KNOWLEDGE_HELP
from smile_pipe.pipeline.common.filters import WHERE_HELP
from smile_pipe.pipeline.common.option_types import (
    DEFAULT_CACHE_GB,
    SHARDS_HELP,
    CacheFolder,
    CacheGigabytes,
    CommaSeparated,
    Repeated,
    SetsOfShards,
)
from smile_pipe.pipeline.data.integrity import ON_BAD_SHARD_HELP, OnBadShard
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.pipeline.runs.question_scores import Fewshot, Question
from smile_pipe.pipeline.runs.selection import SampleSelection
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.splits import HELP as SPLIT_HELP
from smile_pipe.shards.storage import StoragePath


class EvaluateConfig(Frozen):
    """Options of `smile-pipe evaluate`."""

    run: StoragePath = Field(description="Directory of a finished training run, or its URL.")
    shards: Annotated[str, SetsOfShards, Repeated] = Field(description=SHARDS_HELP)
    protocol: Annotated[tuple[Protocol | Question | Fewshot, ...], CommaSeparated] = Field(
        ("zero-shot", "knn", "probe"),
        min_length=1,
        description="Evaluation protocols: any of zero-shot (for a run with a classifier: the classifier), knn, probe, "
        "finetune, and caption-vote (the captions of training name the face, by expression knowledge); and questions: "
        "any of analogy, missing-views, few-labels (with finetune too, if it is named), printed-word, fewshot:K, and "
        "caption-check (for a run with text=geometry).",
    )
    knowledge: Path | None = Field(None, description=f"For caption-vote: {KNOWLEDGE_HELP} [default: as in training]")
    split: str | None = Field(
        None, description=f"{SPLIT_HELP}; all scores every sample. [default: the test subjects of the run]"
    )
    fit_on: Annotated[str | None, SetsOfShards, Repeated] = Field(
        None,
        description="Other shards to fit knn and probe on, such as the training shards; all of `shards` is scored "
        "(cross-dataset evaluation).",
    )
    where: str | None = Field(None, description=WHERE_HELP)
    batch_size: int = Field(64, ge=1, description="Number of samples embedded at a time.")
    cache_dir: CacheFolder = None
    cache_gb: CacheGigabytes = DEFAULT_CACHE_GB
    on_bad_shard: OnBadShard = Field("fail", description=ON_BAD_SHARD_HELP)
    finetune_epochs: int = Field(5, ge=1, description="Number of epochs of finetune.")
    seed: int = Field(
        0, ge=0, description="Random seed for the probe's inner split, finetune, and the bootstrap of intervals."
    )
    use_gpu: bool = Field(False, description="Embed on the GPU.")

    @property
    def class_protocols(self) -> list[Protocol]:
        """The requested protocols that predict the classes of samples."""
        return [cast(Protocol, name) for name in self.protocol if name in get_args(Protocol)]

    @property
    def questions(self) -> tuple[str, ...]:
        """The requested questions."""
        return tuple(dict.fromkeys(name for name in self.protocol if name not in get_args(Protocol)))

    @property
    def selection(self) -> SampleSelection:
        """The options that select samples."""
        return SampleSelection(self.shards, self.split, self.where, self.on_bad_shard, self.fit_on)
