"""Resolution of the options that are `auto`: channel, text, sequences and precision, from what the shards hold."""

from smile_pipe.model.config import RECIPES, Precision, RunTextSource
from smile_pipe.model.towers import native_precision
from smile_pipe.pipeline.captions.knowledge import load_knowledge
from smile_pipe.pipeline.captions.naming import ExpressionNamer
from smile_pipe.pipeline.data.temporal import TemporalRead, can_read, default_temporal
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import ShardManifest


def resolve_channels(config: TrainConfig, manifest: ShardManifest) -> tuple[str, ...]:
    """Choose the channels of the input images.

    `auto` is `rgb` for pretrained towers, which were trained on photographs, and otherwise `normal`, which shows shape
    without skin tone and light (model/README.md).

    Raises:
        UsageError: The shards lack a channel.
    """
    if config.channel == "auto":
        preferred = ("rgb", "normal") if config.is_pretrained else ("normal", "rgb")
        return (next(name for name in (*preferred, "depth", "flow", "landmarks") if name in manifest.channels),)
    channels = tuple(config.channel.split(","))
    if not set(channels) <= set(manifest.channels):
        raise UsageError(
            f"the shards have {', '.join(manifest.channels)}; choose from these",
            field="channel",
            value=config.channel,
        )
    return channels


def resolve_text_source(config: TrainConfig, manifest: ShardManifest) -> RunTextSource:
    """Choose the source of the text: the shards, expression knowledge, clusters of the model's embeddings, or none.

    Raises:
        UsageError: The recipe cannot learn from the source, the shards do not have it, or samples are drawn by labels
            that it does not use.
    """
    recipe, stored, requested = RECIPES[config.recipe], manifest.text_source, config.text
    need = recipe.text
    default: RunTextSource = need if need in ("pseudo", "none") else stored
    source = default if requested == "auto" else requested
    if need == "none" and source != "none":
        raise UsageError("learns without text; leave `text` out", field="recipe", value=config.recipe)
    if source == "none" and not set(recipe.text_free) - set(config.drop_loss):
        raise UsageError("has no loss left without text; choose another recipe", field="recipe", value=config.recipe)
    if need == "label" and source != "label":
        hint = "render the shards with `text=label`" if stored != "label" else "leave `text` out"
        raise UsageError(f"learns from labels, not from {source}; {hint}", field="recipe", value=config.recipe)
    if source == "pseudo":
        missing = [name for name in manifest.expressions if not manifest.prompts.get(name)]
        if missing or len(manifest.expressions) < 2:
            reason = f"no prompts for {', '.join(missing[:5])}" if missing else "one expression only"
            raise UsageError(
                f"needs prompts of several expressions, and the shards have {reason}", field="text", value="pseudo"
            )
    elif source not in ("none", "knowledge", stored):
        has = "no prompts" if stored == "none" else f"prompts from {stored}"
        raise UsageError(
            f"the shards have {has}; use `text={stored}`, or render them with `text={source}`",
            field="text",
            value=source,
        )
    _check_knowledge(config, manifest, source)
    if config.crit and source not in ("geometry", "knowledge"):
        raise UsageError(
            "needs measured captions as text; render the shards with `text=geometry`, and train with it or with "
            "`text=knowledge`",
            field="crit",
            value=config.crit,
        )
    if config.sampling == "balanced" and source not in ("label", "au"):
        raise UsageError(
            f"draws samples by their labels, and this training learns without them (text {source}); leave it out",
            field="sampling",
            value="balanced",
        )
    return source


def _check_knowledge(config: TrainConfig, manifest: ShardManifest, source: RunTextSource) -> None:
    """Check that knowledge is given only where it is read, and that shards have the captions and prompts that it needs.

    Raises:
        UsageError: A condition does not hold.
    """
    if config.pseudo_start == "knowledge" and source != "pseudo":
        raise UsageError("needs `text=pseudo`", field="pseudo_start", value="knowledge")
    if source != "knowledge" and config.pseudo_start != "knowledge":
        if config.knowledge:
            raise UsageError(
                "needs `text=knowledge` or `pseudo_start=knowledge`; without it, give the file to evaluate and predict",
                field="knowledge",
                value=config.knowledge,
            )
        return
    if manifest.text_source != "geometry":
        # Action units that people coded are labels, and this training claims to read none.
        raise UsageError("knowledge needs measured captions; render the shards with `text=geometry`")
    classes = [name for name in manifest.expressions if manifest.prompts.get(name)]
    if ExpressionNamer(load_knowledge(config.knowledge), classes, manifest.text_source).known.sum() < 2:
        raise UsageError(
            "knowledge needs prototypes and prompts of at least two expressions of the shards; add prototypes with the "
            "option `knowledge`"
        )


def uses_metadata_prompts(config: TrainConfig, source: RunTextSource) -> bool:
    """Whether half of the prompts also describe the person.

    Raises:
        UsageError: The option requires it, and the training reads no prompts of the shards.
    """
    has_prompts = source not in ("none", "knowledge", "pseudo") and not RECIPES[config.recipe].has_classifier
    if config.metadata == "on" and not has_prompts:
        raise UsageError(
            "extends the prompts of the shards, and this training reads none; leave it out",
            field="metadata",
            value="on",
        )
    return has_prompts and (config.metadata == "on" or (config.metadata == "auto" and RECIPES[config.recipe].metadata))


def resolve_temporal(config: TrainConfig, stored: TemporalRead) -> TemporalRead:
    """Choose what is read of sequences.

    Args:
        config: The options.
        stored: What the shards store of sequences; `none` if there are no sequences.

    Raises:
        UsageError: The shards do not store it.
    """
    if config.temporal == "auto":
        return default_temporal(stored)
    if stored == "none":
        raise UsageError("all training samples are scans; leave it out", field="temporal", value=config.temporal)
    if not can_read(stored, config.temporal):
        raise UsageError(
            f"the shards store {stored} of sequences; use `temporal={stored}`, "
            f"or render them with `temporal={config.temporal}`",
            field="temporal",
            value=config.temporal,
        )
    return config.temporal


def resolve_precision(config: TrainConfig) -> Precision:
    """Choose the precision of a new run on this machine; a resumed run keeps its own.

    Raises:
        UsageError: Only GPUs have the precision.
    """
    if config.precision == "tf32" and not config.use_gpu:
        raise UsageError("only GPUs have it; leave it out, or set `use_gpu`", field="precision", value="tf32")
    return native_precision("cuda" if config.use_gpu else "cpu") if config.precision == "auto" else config.precision
