"""The options of cross-validation: how each fold is trained and scored, and which folds there are."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from smile_pipe.pipeline.common.option_types import CommaSeparated
from smile_pipe.pipeline.crossval.protocols import HELP, check_protocol
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.pipeline.train.config import TrainConfig, TrainOptions
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

DEFAULT_PROTOCOL = "kfold:10"


class CrossvalConfig(TrainOptions):
    """Options of `smile-pipe crossval`."""

    shards: str | None = Field(None, description="Shards: a directory, manifest.json, glob, brace pattern or URL.")
    train_on: str | None = Field(None, description="Instead of `shards`: those to learn from, all of them.")
    test_on: str | None = Field(None, description="With `train_on`: those to score, all of them.")
    out: StoragePath = Field(description="Directory, or its URL: a run for each fold, the report and the manifest.")
    protocol: str | None = Field(None, description=f"{HELP} [default: kfold:10]")
    subset: Literal["I", "II"] | None = Field(
        None, description="Of bu3dfe: I is the two highest levels, II all four. [default: II]"
    )
    num_subjects: int | None = Field(
        None, ge=2, description="Only so many subjects, drawn by `seed`, as in protocols with 60 of BU-3DFE's."
    )
    score: Annotated[tuple[Protocol, ...], CommaSeparated] = Field(
        ("zero-shot", "knn", "probe"), min_length=1, description="How each fold is scored, as `protocol` of evaluate."
    )
    cores_per_fold: int = Field(1, ge=1, description="Cores that train a fold; others train at the same time.")

    @field_validator("protocol")
    @classmethod
    def _known(cls, protocol: str | None) -> str | None:
        return None if protocol is None else check_protocol(protocol)

    @property
    def is_across(self) -> bool:
        """Whether one dataset is learned from and another one scored.

        Raises:
            UsageError: that is not clear, or folds are asked for where there are none.
        """
        if (self.shards is None) == (self.train_on is None and self.test_on is None):
            raise UsageError("give `shards`, or `train_on` and `test_on`")
        if self.shards is not None:
            return False
        if self.train_on is None or self.test_on is None:
            raise UsageError("`train_on` and `test_on`: give both, or `shards`")
        if self.protocol or self.subset or self.num_subjects:
            raise UsageError(
                "`train_on` and `test_on`: are no folds; leave `protocol`, `subset` and `num_subjects` out"
            )
        return True

    def of_fold(self, shards: str, split: str, where: str | None, out: StoragePath) -> TrainConfig:
        """How the fold that `split` names is trained."""
        options = self.model_dump(include=set(TrainOptions.model_fields))
        return TrainConfig.model_validate({**options, "shards": shards, "out": out, "split": split, "where": where})
