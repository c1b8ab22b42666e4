"""The README of an exported model: its input images, and Python code that embeds a face with it.

The code needs open_clip, safetensors and Pillow, and computes what the model computes (a test runs it). The README does
not contain paths of the run or its shards.
"""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import ModelCardData
from jinja2 import StrictUndefined, Template

from smile_pipe.model import patch_cnn
from smile_pipe.model.fusion import NUM_OCTAVES
from smile_pipe.model.objectives import ContrastiveModel, FacetVLM, Supervised
from smile_pipe.pipeline.data.input_images import DEPTH_HALF_RANGE, FLOW_BEND
from smile_pipe.pipeline.data.temporal import describe_temporal
from smile_pipe.pipeline.rendering.cameras import DISTANCE
from smile_pipe.pipeline.runs.cards import MODEL_TAGS, describe_text_source, front_matter
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.formatting import pluralize

_CHANNELS: Mapping[str, str] = {
    "rgb": "colour images",
    "normal": "normals n as stored, 127.5 (n + 1): red is x (to the right), green y (up), blue z (towards the viewer)",
    "depth": f"depth d as grey: 128 - 127 (d - {DISTANCE:g}) / {DEPTH_HALF_RANGE}, at least 1 and at most 255, and 0 "
    "for background; d is in frame units (90 mm), `depth.near` + (v - 1) `depth.step` for a stored 16-bit value v > 0, "
    "with both numbers from the sample's JSON",
    "flow": f"displacement d since the onset in frame units (90 mm), as 128 + 127 tanh(d / {FLOW_BEND}) in red, green "
    "and blue; a stored 16-bit value v is (v - 32768) `flow.step`, with `flow.step` from the sample's JSON",
    "landmarks": "outlines through the landmarks as stored: red has the brows, green eyes and nose, blue the lips",
}
# Of runs whose `input_version` is 1.
_OLD_DEPTH = "depth as grey: 255 - d // 258 of the stored 16-bit value d, and 0 for the background, where d is 0"


def model_card(model: ContrastiveModel, run: RunManifest) -> str:
    """Return the README as Markdown.

    Args:
        model: the model.
        run: manifest of its run.
    """
    template = Template(
        Path(__file__).with_name("model_card.md.jinja").read_text(),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    data = ModelCardData(library_name="open_clip", pipeline_tag="image-feature-extraction", tags=[*MODEL_TAGS])
    return template.render(
        front_matter=front_matter(data),
        model=model,
        run=run,
        samples=pluralize(run.num_train_samples, "sample"),
        text_source=describe_text_source(run.text_source),
        image=_OLD_DEPTH if (run.channel, run.input_version) == ("depth", 1) else _CHANNELS[run.channel],
        size=model.towers.image_size,
        temporal=describe_temporal(run.temporal, run.max_frames),
        pooling=model.config.temporal_pooling if run.temporal != "none" else "",
        num_octaves=NUM_OCTAVES,
        attention=model.aggregation.attention if isinstance(model, FacetVLM) else None,
        needs_tower=model.config.arch == patch_cnn.ARCH,
        is_supervised=isinstance(model, Supervised),
    )
