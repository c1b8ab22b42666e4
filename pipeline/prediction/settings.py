"""How scans to be named are rendered: as the shards were that the run learned from."""

from pydantic import ValidationError

from pipeline.prompts.bank import PromptBank
from pipeline.render_settings import RenderSettings
from pipeline.rendering.choice import RendererName, renderer_version
from pipeline.training.manifest import RunManifest
from shards.errors import UsageError
from shards.images import CHANNELS
from shards.places import Place


def settings_of(root: Place, run: RunManifest, renderer: RendererName) -> RenderSettings:
    """Those of the run's shards, with colours beside what the model sees, for people, and without jitter.

    Raises:
        UsageError: the run does not say how its shards were rendered.
    """
    sequences = dict(run.settings.get("sequences", {}))
    if run.temporal != "none":
        sequences["temporal"] = run.temporal
    elif sequences.get("temporal") == "both":
        sequences["temporal"] = "frames"
    changes = {
        "renderer": renderer,
        "renderer_version": renderer_version(renderer),
        "jitter_deg": 0.0,
        "channels": [channel for channel in CHANNELS if channel in (run.channel, "rgb")],
        "sequences": sequences,
        "text_source": "label",
        # Nobody reads the prompts of what is to be named.
        "prompts": PromptBank(templates={}, others=("{}",)),
    }
    try:
        return RenderSettings.model_validate({**run.settings, **changes})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{root}: its shards do not say how they were rendered ({where}: {first['msg']})") from None
