"""Options of the cross-validation stage: the folds, and how each one is trained and scored."""

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator, model_validator

from smile_pipe.pipeline.common.option_types import SHARDS_HELP, CommaSeparated, Repeated, SetsOfShards
from smile_pipe.pipeline.crossval.protocols import HELP, check_split_protocol, is_split_protocol
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.pipeline.runs.question_scores import Fewshot, Question
from smile_pipe.pipeline.train.config import TrainConfig, TrainOptions
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

DEFAULT_SPLIT_PROTOCOL = "kfold:10"


class CrossvalConfig(TrainOptions):
    """Options of `smile-pipe crossval`."""

    OLD_NAMES: ClassVar[Mapping[str, str]] = {**TrainOptions.OLD_NAMES, "score": "protocol"}
    """Former names of options; `protocol` was `split_protocol` as well, see `_move_split_protocol`."""

    RECORDED_NAMES: ClassVar[Mapping[str, str]] = {
        **TrainOptions.RECORDED_NAMES,
        "protocol": "split_protocol",
        "score": "protocol",
    }
    """Names in `config.json`, which keeps those of earlier releases, with the present ones."""

    shards: Annotated[str | None, SetsOfShards, Repeated] = Field(None, description=SHARDS_HELP)
    train_on: Annotated[str | None, SetsOfShards, Repeated] = Field(
        None, description="Cross-dataset evaluation, instead of `shards`: shards to train on, all of them."
    )
    test_on: Annotated[str | None, SetsOfShards, Repeated] = Field(
        None, description="Cross-dataset evaluation, with `train_on`: shards to score, all of them."
    )
    out: StoragePath = Field(
        description="Output directory, or its URL: a run for each fold, the report and the manifest."
    )
    split_protocol: str | None = Field(None, description=f"{HELP} [default: {DEFAULT_SPLIT_PROTOCOL}]")
    subset: Literal["I", "II"] | None = Field(
        None, description="Levels of `split_protocol=bu3dfe`: I is the two highest levels, II all four. [default: II]"
    )
    num_subjects: int | None = Field(
        None, ge=2, description="Number of subjects to draw by `seed`, as in protocols with 60 subjects of BU-3DFE."
    )
    protocol: Annotated[tuple[Protocol | Question | Fewshot, ...], CommaSeparated] = Field(
        ("zero-shot", "knn", "probe"),
        min_length=1,
        description="Evaluation protocols that score each fold, and questions, as in `smile-pipe evaluate`.",
    )
    cores_per_fold: int = Field(
        1, ge=1, description="CPU cores for the training of one fold; the other cores train other folds in parallel."
    )

    @model_validator(mode="before")
    @classmethod
    def _move_split_protocol(cls, values: Any) -> Any:
        """Accept a split protocol as `protocol`, which was its name in earlier releases."""
        if not isinstance(values, dict) or not is_split_protocol(values.get("protocol")):
            return values
        moved = {name: value for name, value in values.items() if name not in ("protocol", "score")}
        warnings.warn(
            f"`protocol={values['protocol']}` is now called `split_protocol={values['protocol']}`; "
            "the old name will be removed",
            FutureWarning,
            stacklevel=2,
        )
        moved.setdefault("split_protocol", values["protocol"])
        return moved | ({"protocol": values["score"]} if "score" in values else {})

    @field_validator("protocol")
    @classmethod
    def _predicts_classes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not set(names) & set(get_args(Protocol)):
            raise ValueError(f"holds questions only; add one of {', '.join(get_args(Protocol))}")
        return names

    @field_validator("split_protocol")
    @classmethod
    def _is_known(cls, split_protocol: str | None) -> str | None:
        return None if split_protocol is None else check_split_protocol(split_protocol)

    @property
    def is_cross_dataset(self) -> bool:
        """Whether one dataset is trained on and another one scored, without folds.

        Raises:
            UsageError: options of both kinds are given, or some are missing.
        """
        if (self.shards is None) == (self.train_on is None and self.test_on is None):
            raise UsageError("give `shards`, or `train_on` and `test_on`")
        if self.shards is not None:
            return False
        if self.train_on is None or self.test_on is None:
            raise UsageError("`train_on` and `test_on`: give both, or `shards`")
        if self.split_protocol or self.subset or self.num_subjects:
            raise UsageError(
                "`train_on` and `test_on` have no folds; leave `split_protocol`, `subset` and `num_subjects` out"
            )
        return True

    def recorded(self) -> dict[str, Any]:
        """The options for `config.json`, without those that name places, by the names of earlier releases."""
        return self.to_record({"out", "shards", "train_on", "test_on", "address", "knowledge"})

    def train_config(self, shards: str, split: str, where: str | None, out: StoragePath) -> TrainConfig:
        """The training options of one fold.

        Args:
            shards: training shards.
            split: split of the fold.
            where: condition on samples.
            out: directory of the fold's run.
        """
        options = self.model_dump(include=set(TrainOptions.model_fields))
        # Workers of a cluster have another working directory.
        options["knowledge"] = self.knowledge and self.knowledge.absolute()
        return TrainConfig.model_validate({**options, "shards": shards, "out": out, "split": split, "where": where})
