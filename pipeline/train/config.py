"""Options of the training stage."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from smile_pipe.model.config import (
    RECIPES,
    PoolingKind,
    Precision,
    RecipeConfig,
    RunTextSource,
    has_classifier,
    is_hub_model,
)
from smile_pipe.pipeline.captions.knowledge import KNOWLEDGE_HELP
from smile_pipe.pipeline.common.filters import WHERE_HELP
from smile_pipe.pipeline.common.optimization import LEARNING_RATE, PRETRAINED_LEARNING_RATE
from smile_pipe.pipeline.common.option_types import (
    ADDRESS_HELP,
    DEFAULT_CACHE_GB,
    SHARDS_HELP,
    CacheFolder,
    CacheGigabytes,
    CommaSeparated,
    Repeated,
    SetsOfShards,
)
from smile_pipe.pipeline.data.integrity import ON_BAD_SHARD_HELP, OnBadShard
from smile_pipe.shards.images import CHANNELS
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.sample import Temporal
from smile_pipe.shards.splits import HELP as SPLIT_HELP
from smile_pipe.shards.storage import StoragePath


def _check_channels(value: str) -> str:
    names = [name.strip() for name in value.split(",")]
    if names != ["auto"] and not set(names) <= set(CHANNELS):
        raise ValueError(f"choose auto, or from {', '.join(CHANNELS)}")
    if len(set(names)) < len(names):
        raise ValueError("names a channel twice")
    return ",".join(names)


InputChannels = Annotated[str, AfterValidator(_check_channels)]


class TrainOptions(Frozen):
    """Training hyperparameters; data and output paths are set by the caller.

    Attributes:
        OLD_NAMES: Current names of fields by their former names, which the command line accepts for one release.
        RECORDED_NAMES: Current names of fields by their names in files on disk (config.json, manifests, fingerprints),
            which do not change, so that earlier runs stay valid.
    """

    OLD_NAMES: ClassVar[Mapping[str, str]] = {
        "without": "drop_loss",
        "accumulate": "grad_cache_chunks",
        "keep": "keep_checkpoints",
        "validation": "val_fraction",
    }
    RECORDED_NAMES: ClassVar[Mapping[str, str]] = OLD_NAMES

    recipe: str = Field("smile-vlm", description=f"System to train: {', '.join(RECIPES)}.")
    drop_loss: Annotated[tuple[str, ...], CommaSeparated] = Field(
        (), description="Losses of the recipe to leave out, such as mv,cm; model/README.md lists them."
    )
    arch: str = Field(
        "smile-nano", description="Architecture of the towers, by open_clip's name; smile-nano is for CPUs."
    )
    pretrained: str | None = Field(None, description="Weights of the towers: an open_clip tag or a file.")
    channel: InputChannels = Field(
        "auto",
        description=f"Input of the image tower: {', '.join(CHANNELS)}, or several, such as normal,landmarks, each with "
        "towers and losses of its own; auto takes rgb with `pretrained`, else normal if the shards have it.",
    )
    temporal: Literal["auto", Temporal] = Field(
        "auto",
        description="Input of a sequence: frames, its dynamic image, or both; auto takes frames if the shards have "
        "them.",
    )
    max_frames: int = Field(16, ge=1, le=256, description="Largest number of frames of a sequence, evenly spaced.")
    temporal_pooling: PoolingKind = Field(
        "attention",
        description="Pooling of the frame embeddings of a sequence: attention over content and time, or mean.",
    )
    text: Literal["auto", RunTextSource] = Field(
        "auto",
        description="Source of the text: auto takes what the recipe needs and the shards have; pseudo takes prompts of "
        "clusters, assigned without labels; knowledge takes the captions of the shards, and prompts of the expression "
        "that published prototypes give for each caption; none trains without text; others must be in the shards.",
    )
    knowledge: Path | None = Field(
        None, description=f"For `text=knowledge` and `pseudo_start=knowledge`: {KNOWLEDGE_HELP}"
    )
    pseudo_start: Literal["prompts", "knowledge"] = Field(
        "prompts",
        description="Where the clusters of pseudo-labels start: at the prompts, with clusters of equal size; or, for "
        "shards with measured captions, by knowledge: each at the mean of the samples that prototypes give its "
        "expression, with as large a share.",
    )
    crit: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Weight of the loss crit, for measured captions: a face is nearer to its caption than to the same "
        "one with a phrase that the face lacks. 0 leaves it out.",
    )
    metadata: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Description of the person (sex, age, ancestry) in half of the prompts, where labels have it; auto "
        "follows the recipe.",
    )
    where: str | None = Field(None, description=WHERE_HELP)
    epochs: int = Field(30, ge=1, description="Passes over the training samples.")
    batch_size: int = Field(32, ge=2, description="Samples per worker in a step.")
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="Peak learning rate of all weights; the schedule is linear warm-up, then half a cosine. auto takes "
        f"{LEARNING_RATE}, and {PRETRAINED_LEARNING_RATE} for towers with `pretrained` weights.",
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Fraction of all steps in which the learning rate rises.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay of AdamW, applied to matrices only.")
    num_workers: int = Field(1, ge=1, description="Training processes; more than one train data-parallel.")
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="How samples are drawn: uniform reads each once per epoch; balanced reads each expression equally "
        "often, by its label, and so rare ones several times.",
    )
    shard_weights: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], CommaSeparated] = Field(
        (),
        description="How often samples of each set of `shards` are read, relative to those of the others, such as 1,3. "
        "By default all are read once per epoch.",
    )
    partitions: int = Field(
        0,
        ge=0,
        description="Parts that the samples are divided into for the whole training; each worker reads its own, which "
        "its caches then hold. 0 takes one for each worker (with balanced `sampling` or `shard_weights`, one for all); "
        "1 makes the order independent of the number of workers.",
    )
    precision: Literal["auto", Precision] = Field(
        "auto",
        description="Precision of the towers; auto takes bfloat16 where the hardware has it. tf32 is single precision "
        "with products of TF32, on GPUs only.",
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, often 0.999; the average becomes the "
        "result. 0 disables it.",
    )
    grad_cache_chunks: int = Field(
        1,
        ge=1,
        description="Chunks that a batch is embedded in (GradCache): the same losses with less memory, more slowly.",
    )
    checkpoint_activations: bool = Field(
        False, description="Recompute the activations of the towers in the backward pass: less memory, more slowly."
    )
    compile: bool = Field(
        False,
        description="Compile the image tower: a start of minutes, for GPUs (model/README.md); needs a C++ compiler.",
    )
    val_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the training subjects that is held out and scored after every epoch.",
    )
    use_gpu: bool = Field(False, description="Give each worker a GPU.")
    seed: int = Field(0, ge=0, description="Random seed for initialisation, shuffling and augmentation.")
    cache_mb: int = Field(1024, ge=0, description="Memory for decoded images, in MiB per worker.")
    cache_dir: CacheFolder = None
    cache_gb: CacheGigabytes = DEFAULT_CACHE_GB
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints to keep; one is written after every epoch.")
    save_every: int = Field(0, ge=0, description="Steps between further checkpoints within an epoch; 0 for none.")
    on_bad_shard: OnBadShard = Field("fail", description=ON_BAD_SHARD_HELP)
    wandb: str | None = Field(None, min_length=1, description="Project of Weights & Biases to log to as well.")
    address: str = Field("local", description=ADDRESS_HELP)

    @property
    def is_pretrained(self) -> bool:
        """Whether the towers start from pretrained weights."""
        return self.pretrained is not None or is_hub_model(self.arch)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Peak learning rates of the `towers` and of the `heads`, which are all other weights and always new."""
        if self.learning_rate != "auto":
            return {"towers": self.learning_rate, "heads": self.learning_rate}
        towers = PRETRAINED_LEARNING_RATE if self.is_pretrained else LEARNING_RATE
        return {"towers": towers, "heads": LEARNING_RATE}

    def recipe_config(self, num_classes: int = 0, num_channels: int = 1) -> RecipeConfig:
        """The options that define the model; `num_classes` is the number of expressions of the samples."""
        return RecipeConfig(
            name=self.recipe,
            num_classes=num_classes if has_classifier(self.recipe) else 0,
            without=self.drop_loss,
            arch=self.arch,
            pretrained=self.pretrained,
            temporal_pooling=self.temporal_pooling,
            num_channels=num_channels,
            crit=self.crit,
        )

    def to_record(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Options as files on disk hold them: JSON values under the names of `RECORDED_NAMES`, without `exclude`."""
        names = {current: recorded for recorded, current in self.RECORDED_NAMES.items()}
        options = self.model_dump(mode="json", exclude=set(exclude))
        return {names.get(name, name): value for name, value in options.items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a file on disk under their current names; unknown fields are dropped."""
        options = {cls.RECORDED_NAMES.get(name, name): value for name, value in record.items()}
        return {name: value for name, value in options.items() if name in cls.model_fields}


# Options that do not appear in the record of a run: paths, and what the process needs. A damaged run is resumed with
# another `on_bad_shard`; the manifest says what it skipped.
_NOT_RECORDED = frozenset(("out", "shards", "address", "resume", "keep_checkpoints", "save_every")) | frozenset(
    ("cache_mb", "cache_dir", "cache_gb", "cpus_per_worker", "on_bad_shard", "knowledge")
)

# Options that decide how a result is computed and not what it is: how the samples of a step are distributed over
# workers, chunks and memory. They change rounding, and over which samples BatchNorm takes its statistics.
_NOT_IN_FINGERPRINT = frozenset(
    ("num_workers", "partitions", "batch_size", "grad_cache_chunks", "checkpoint_activations", "compile", "wandb")
)


class TrainConfig(TrainOptions):
    """Options of `smile-pipe train`."""

    shards: Annotated[str, SetsOfShards, Repeated] = Field(description=SHARDS_HELP)
    out: StoragePath = Field(description="Directory of the run, or its URL: checkpoints, metrics, manifest.")
    split: str = Field("kfold:10:0", description=f"{SPLIT_HELP}; the test side is never read.")
    resume: bool = Field(False, description="Continue from the last checkpoint in `out`.")
    cpus_per_worker: int | None = Field(
        None, ge=1, description="CPU cores per worker; by default one with a GPU, else as many as the nodes have."
    )

    @property
    def joined_batch_size(self) -> int:
        """Samples of all workers in a step."""
        return self.batch_size * self.num_workers

    def recorded(self) -> dict[str, Any]:
        """The options that config.json and the manifest of a run hold."""
        return self.to_record(_NOT_RECORDED)

    def for_fingerprint(self) -> dict[str, Any]:
        """The options that decide the result, and so whether a run can be resumed."""
        rates = self.learning_rates
        # One number if it is one, as in runs from before there were two.
        learning_rate = rates["heads"] if rates["heads"] == rates["towers"] else rates
        options = self.to_record(_NOT_RECORDED | _NOT_IN_FINGERPRINT) | {
            "joined_batch_size": self.joined_batch_size,
            "learning_rate": learning_rate,
        }
        # Runs from before there was a choice have no such field.
        if self.sampling == "uniform":
            del options["sampling"]
        if not self.shard_weights:
            del options["shard_weights"]
        if self.pseudo_start == "prompts":
            del options["pseudo_start"]
        if not self.crit:
            del options["crit"]
        return options
