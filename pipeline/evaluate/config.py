"""The options of the evaluation stage."""

from typing import Annotated

from pydantic import Field

from smile_pipe.pipeline.common.filters import WHERE_HELP
from smile_pipe.pipeline.common.option_types import CommaSeparated
from smile_pipe.pipeline.data.integrity import ON_BAD_SHARD_HELP, OnBadShard
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.splits import HELP as SPLIT_HELP
from smile_pipe.shards.storage import StoragePath


class EvaluateConfig(Frozen):
    """Options of `smile-pipe evaluate`."""

    run: StoragePath = Field(description="Directory of a finished training run, or its URL.")
    shards: str = Field(description="Shards: a directory, manifest.json, glob, brace pattern or URL.")
    protocol: Annotated[tuple[Protocol, ...], CommaSeparated] = Field(
        ("zero-shot", "knn", "probe"),
        min_length=1,
        description="How to score: any of zero-shot (for a run with a classifier, that one), knn, probe and finetune.",
    )
    split: str | None = Field(
        None, description=f"{SPLIT_HELP}; all scores every sample; without it, the subjects that the run left out."
    )
    fit_on: str | None = Field(
        None,
        description="Other shards that knn and probe are fitted on, such as those that the run learned from; all of "
        "`shards` is scored then, as in evaluation across datasets.",
    )
    where: str | None = Field(None, description=WHERE_HELP)
    batch_size: int = Field(64, ge=1, description="Samples embedded at a time.")
    on_bad_shard: OnBadShard = Field("fail", description=ON_BAD_SHARD_HELP)
    finetune_epochs: int = Field(5, ge=1, description="How long finetune trains a copy of the model.")
    seed: int = Field(0, ge=0, description="Of the probe's inner split, of finetune, and of the intervals' draws.")
    use_gpu: bool = Field(False, description="Embed on the GPU.")
