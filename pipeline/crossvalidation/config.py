"""The options of cross-validation: how each fold is trained and scored, and which folds there are."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.crossvalidation.protocols import HELP, check_protocol
from pipeline.evaluation.config import Protocol
from pipeline.options import CommaSeparated
from pipeline.training.config import TrainConfig, TrainOptions
from shards.places import AnyPlace


class CrossvalConfig(TrainOptions):
    """Options of `smile-pipe crossval`."""

    shards: str = Field(description="Shards: a directory, manifest.json, glob, brace pattern or URL.")
    out: AnyPlace = Field(description="Directory, or its URL: a run for each fold, the report and the manifest.")
    protocol: str = Field("kfold:10", description=HELP)
    subset: Literal["I", "II"] | None = Field(
        None, description="Of bu3dfe: I is the two highest levels, II all four. [default: II]"
    )
    num_subjects: int | None = Field(
        None, ge=2, description="Only so many subjects, drawn by --seed, as in protocols with 60 of BU-3DFE's."
    )
    score: Annotated[tuple[Protocol, ...], CommaSeparated] = Field(
        ("zero-shot", "knn", "probe"), min_length=1, description="How each fold is scored, as --protocol of evaluate."
    )
    cores_per_fold: int = Field(1, ge=1, description="Cores that train a fold; others train at the same time.")

    @field_validator("protocol")
    @classmethod
    def _known(cls, protocol: str) -> str:
        return check_protocol(protocol)

    def of_fold(self, split: str, where: str | None, out: AnyPlace) -> TrainConfig:
        """How the fold that `split` names is trained."""
        options = self.model_dump(include=set(TrainOptions.model_fields))
        return TrainConfig.model_validate(
            {**options, "shards": self.shards, "out": out, "split": split, "where": where}
        )
