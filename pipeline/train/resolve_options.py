"""What a training is made of where its options leave it open: each `auto` resolved, or refused with a reason.

Goes in: the options, and what the shards hold. Comes out: channel, text, sequences and precision as the manifest says.
"""

from smile_pipe.model.config import RECIPES, Precision, RunTextSource
from smile_pipe.model.towers import brings_weights, native_precision
from smile_pipe.pipeline.data.temporal import TemporalRead, can_read, default_temporal
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import ShardManifest


def input_channel(config: TrainConfig, manifest: ShardManifest) -> str:
    """The channel that the image tower sees.

    `auto` is `rgb` for pretrained towers, which know photographs, and else `normal`, which shows shape without skin
    tone and light (model/README.md).
    """
    if config.channel == "auto":
        knows_photographs = config.pretrained or brings_weights(config.arch)
        preferred = ("rgb", "normal", "depth", "flow") if knows_photographs else ("normal", "rgb", "depth", "flow")
        return next(channel for channel in preferred if channel in manifest.channels)
    if config.channel not in manifest.channels:
        raise UsageError(f"the shards have {', '.join(manifest.channels)}", field="channel", value=config.channel)
    return config.channel


def text_source(config: TrainConfig, manifest: ShardManifest) -> RunTextSource:
    """Where the text that is learned from comes from: the shards, clusters of the model's own, or none.

    Raises:
        UsageError: the recipe cannot learn from what was asked for, or the shards do not carry it.
    """
    recipe, carried, asked = RECIPES[config.recipe], manifest.text_source, config.text
    need = recipe.text
    wanted: RunTextSource = need if need in ("pseudo", "none") else carried
    source = wanted if asked == "auto" else asked
    if need == "none" and source != "none":
        raise UsageError("learns without text; leave `text` out", field="recipe", value=config.recipe)
    if source == "none" and not set(recipe.text_free) - set(config.without):
        raise UsageError("has no loss left without text", field="recipe", value=config.recipe)
    if need == "label" and source != "label":
        hint = "render the shards with `text=label`" if carried != "label" else "leave `text` out"
        raise UsageError(f"learns from labels, not from {source}; {hint}", field="recipe", value=config.recipe)
    if source == "pseudo":
        missing = [name for name in manifest.expressions if not manifest.prompts.get(name)]
        if missing or len(manifest.expressions) < 2:
            reason = f"no prompts for {', '.join(missing[:5])}" if missing else "one expression only"
            raise UsageError(
                f"chooses among the prompts of the shards, which have {reason}", field="text", value="pseudo"
            )
    elif source not in ("none", carried):
        has = "no prompts" if carried == "none" else f"prompts from {carried}"
        raise UsageError(
            f"the shards carry {has}; use `text={carried}`, or render them with `text={source}`",
            field="text",
            value=source,
        )
    return source


def uses_metadata_prompts(config: TrainConfig, source: RunTextSource) -> bool:
    """Whether half of the prompts also say who is shown.

    Raises:
        UsageError: that was asked for, and there are no prompts of samples to say it in.
    """
    has_prompts = source not in ("none", "pseudo") and config.recipe != "supervised"
    if config.metadata == "on" and not has_prompts:
        raise UsageError(
            "adds to the prompts of the shards, and none of these is read here", field="metadata", value="on"
        )
    return has_prompts and (config.metadata == "on" or (config.metadata == "auto" and RECIPES[config.recipe].metadata))


def temporal_read(config: TrainConfig, stored: TemporalRead) -> TemporalRead:
    """What is read of sequences, of which the shards hold `stored`.

    Raises:
        UsageError: they do not hold what was asked for.
    """
    if config.temporal == "auto":
        return default_temporal(stored)
    if stored == "none":
        raise UsageError(
            "the samples to learn from are all scans; leave it out", field="temporal", value=config.temporal
        )
    if not can_read(stored, config.temporal):
        raise UsageError(
            f"of sequences the shards hold {stored}; use `temporal={stored}`, "
            f"or render them with `temporal={config.temporal}`",
            field="temporal",
            value=config.temporal,
        )
    return config.temporal


def precision_of(config: TrainConfig) -> Precision:
    """What a training that is begun here computes in; one that is gone on with keeps its own."""
    return native_precision("cuda" if config.use_gpu else "cpu") if config.precision == "auto" else config.precision
