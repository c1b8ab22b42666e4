"""The options of the training stage."""

from typing import Annotated, Literal

from pydantic import Field

from smile_pipe.model.config import RECIPES, PoolingKind, Precision, RecipeConfig, RunTextSource
from smile_pipe.pipeline.common.filters import WHERE_HELP
from smile_pipe.pipeline.common.option_types import ADDRESS_HELP, CommaSeparated
from smile_pipe.pipeline.data.integrity import ON_BAD_SHARD_HELP, OnBadShard
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.sample import Temporal
from smile_pipe.shards.splits import HELP as SPLIT_HELP
from smile_pipe.shards.storage import StoragePath

InputChannel = Literal["auto", "rgb", "depth", "normal", "flow"]


class TrainOptions(Frozen):
    """How to train; what on and where to is the business of who asks for it."""

    recipe: str = Field("smile-vlm", description=f"System to train: {', '.join(RECIPES)}.")
    without: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (), description="Losses of the recipe to leave out, such as mv,cm; their names are in model/README.md."
    )
    arch: str = Field("smile-tiny", description="Towers, by open_clip's name; smile-tiny is made for CPUs.")
    pretrained: str | None = Field(None, description="Weights of the towers: an open_clip tag or a file.")
    channel: InputChannel = Field(
        "auto",
        description="What the image tower sees; auto takes rgb with `pretrained`, else normal where there is one.",
    )
    temporal: Literal["auto", Temporal] = Field(
        "auto",
        description="What of a sequence is seen: frames, its dynamic image, or both; auto takes frames where they are.",
    )
    max_frames: int = Field(16, ge=1, le=256, description="Frames of a sequence that are read, evenly over all it has.")
    temporal_pooling: PoolingKind = Field(
        "attention", description="How the embeddings of a sequence become one: weighted by content and time, or evenly."
    )
    text: Literal["auto", RunTextSource] = Field(
        "auto",
        description="Text to learn from: auto is what the recipe wants and the shards carry; pseudo is prompts of "
        "clusters, chosen without labels; none is no text; others must be in the shards.",
    )
    metadata: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether half of the prompts also say who is shown: sex, age and ancestry, where the labels tell "
        "them; auto is as the recipe has it.",
    )
    where: str | None = Field(None, description=WHERE_HELP)
    epochs: int = Field(30, ge=1, description="Times that every sample is seen.")
    batch_size: int = Field(32, ge=2, description="Samples of one worker in a step.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak of the schedule: linear warm-up, then half a cosine.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Part of all steps in which the learning rate rises.")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's, on matrices only.")
    num_workers: int = Field(1, ge=1, description="Training processes; over one they train data-parallel.")
    precision: Literal["auto", Precision] = Field(
        "auto", description="What the towers compute in; auto takes bfloat16 where the hardware has it."
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the running average of the weights that is the result, often 0.999; 0: none.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts that a batch is taken in: the same losses in as many times less memory, more slowly.",
    )
    checkpoint_activations: bool = Field(
        False, description="Compute the towers' activations twice and keep none: less memory, more slowly."
    )
    compile: bool = Field(False, description="Compile the image tower: it begins later and is faster then.")
    validation: float = Field(
        0.0, ge=0, lt=1, description="Part of the training subjects that is held back and scored after every epoch."
    )
    use_gpu: bool = Field(False, description="Give each worker a GPU.")
    seed: int = Field(0, ge=0, description="Of weights, order and augmentation.")
    cache_mb: int = Field(1024, ge=0, description="Memory for decoded images, per worker.")
    keep: int = Field(2, ge=1, description="Checkpoints to keep; one is written after every epoch.")
    save_every: int = Field(0, ge=0, description="Write one after so many steps, too; 0 writes none within an epoch.")
    on_bad_shard: OnBadShard = Field("fail", description=ON_BAD_SHARD_HELP)
    wandb: str | None = Field(None, min_length=1, description="Log to this project of Weights & Biases, too.")
    address: str = Field("local", description=ADDRESS_HELP)

    def recipe_config(self, num_classes: int = 0) -> RecipeConfig:
        """The part that decides the model; `num_classes` are those of the samples."""
        return RecipeConfig(
            name=self.recipe,
            num_classes=num_classes if self.recipe == "supervised" else 0,
            without=self.without,
            arch=self.arch,
            pretrained=self.pretrained,
            temporal_pooling=self.temporal_pooling,
        )


class TrainConfig(TrainOptions):
    """Options of `smile-pipe train`."""

    shards: str = Field(description="Shards: a directory, manifest.json, glob, brace pattern or URL.")
    out: StoragePath = Field(description="Directory of the run, or its URL: checkpoints, metrics, manifest.")
    split: str = Field("kfold:10:0", description=f"{SPLIT_HELP}; the test side is never read.")
    resume: bool = Field(False, description="Go on from the last checkpoint in `out`.")

    @property
    def joined_batch_size(self) -> int:
        """Samples of all workers in a step."""
        return self.batch_size * self.num_workers

    def recorded(self) -> dict:
        """The options that a run tells of itself: what was asked for, but not where it lies and what it needs to run.

        A run that damage has ended is gone on with by `on_bad_shard`; what it then leaves out is in its manifest.
        """
        ignored = {"out", "shards", "address", "resume", "keep", "save_every", "cache_mb", "on_bad_shard"}
        return self.model_dump(mode="json", exclude=ignored)

    def for_fingerprint(self) -> dict:
        """The options that decide the result, and so whether a run can be gone on with.

        Not how it is computed: over how many workers a step's samples are spread, in how many parts, with how much
        memory. That moves rounding, and what BatchNorm takes its statistics over.
        """
        how = {"num_workers", "batch_size", "accumulate", "checkpoint_activations", "compile", "wandb"}
        decisive = {name: value for name, value in self.recorded().items() if name not in how}
        return decisive | {"joined_batch_size": self.joined_batch_size}
