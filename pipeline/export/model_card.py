"""The README of an exported model: its input images, and Python code that embeds a face with it.

The code needs open_clip, safetensors and Pillow, and computes what the model computes (a test runs it). The README does
not contain paths of the run or its shards.
"""

from collections.abc import Mapping

from smile_pipe.model.fusion import NUM_OCTAVES
from smile_pipe.model.objectives import ContrastiveModel, FacetVLM, Supervised
from smile_pipe.pipeline.data.dataset import FLOW_BEND
from smile_pipe.pipeline.data.temporal import describe_temporal
from smile_pipe.pipeline.runs.cards import describe_text_source
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.formatting import pluralize

_START = """\
import json

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

FOLDER = "."  # the directory of this file
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
model.eval()
weights = load_file(f"{FOLDER}/fusion.safetensors")


def project(embeddings, name):
    \"\"\"Project embeddings of a tower into the joint space.\"\"\"
    hidden = F.gelu(F.linear(embeddings, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"]))
    return F.linear(hidden, weights[f"{name}.2.weight"], weights[f"{name}.2.bias"])


def embed_views(images):
    \"\"\"Embed images of a face from V views; returns [V, D].\"\"\"
    return project(model.encode_image(torch.stack([preprocess(image) for image in images])), "project_image")


"""

_FUSE = """\
def fuse(views, directions):
    \"\"\"Fuse views [V, D] with unit vectors from the face towards their cameras [V, 3]; returns [D].\"\"\"
{aggregate}    hidden = F.linear(views, weights["fusion.from_embedding.weight"], weights["fusion.from_embedding.bias"])
    hidden = torch.tanh(hidden + F.linear(directions, weights["fusion.from_direction.weight"]))
    return (F.linear(hidden, weights["fusion.score.weight"]).softmax(dim=0) * views).sum(dim=0)


"""

_AGGREGATE = """\
    known = F.layer_norm(views, views.shape[1:], weights["aggregation.norm.weight"], weights["aggregation.norm.bias"])
    known = known + F.linear(directions, weights["aggregation.from_direction.weight"])
    views = views + attention(known, known, known, need_weights=False)[0]
"""

_ATTENTION = """\
PREFIX = "aggregation.attention."
attention = torch.nn.MultiheadAttention({dim}, {num_heads})
attention.load_state_dict({{n.removeprefix(PREFIX): w for n, w in weights.items() if n.startswith(PREFIX)}})


"""

_POOL_BY_ATTENTION = """\
def pool(moments, times):
    \"\"\"Pool the views at T moments of a sequence [T, V, D]; returns [V, D].

    `times` [T]: from 0, the onset, to 1, the end of the sequence; -1 for a dynamic image.
    \"\"\"
    angles = times.clamp(min=0)[:, None] * torch.pi * 2.0 ** torch.arange({num_octaves})
    time = torch.cat([angles.sin(), angles.cos() - 1, (times < 0).float()[:, None]], dim=1)[:, None]
    hidden = F.linear(moments, weights["temporal.from_embedding.weight"], weights["temporal.from_embedding.bias"])
    hidden = torch.tanh(hidden + F.linear(time, weights["temporal.from_time.weight"]))
    gained = moments * (1 + F.linear(time, weights["temporal.gain.weight"]))
    return (F.linear(hidden, weights["temporal.score.weight"]).softmax(dim=0) * gained).sum(dim=0)


"""

_POOL_BY_MEAN = """\
def pool(moments, times):
    \"\"\"Pool the views at T moments of a sequence [T, V, D]; `times` [T] are ignored; returns [V, D].\"\"\"
    return moments.mean(dim=0)


"""

_USE = """\
with torch.inference_mode(), open("sample.json") as file:
    cameras = json.load(file)["cameras"]
    directions = torch.tensor([[-row[2] for row in camera["R"]] for camera in cameras])
    views = embed_views([Image.open(f"{camera['name']}.png") for camera in cameras])
    face = fuse(views, directions)
"""

_TEXTS = """\
    tokenize = open_clip.get_tokenizer(f"local-dir:{FOLDER}")
    texts = project(model.encode_text(tokenize(["a happy face", "a sad face"])), "project_text")
    cosines = F.cosine_similarity(face[None], texts)
"""

_CLASSES = """\
    cosines = F.cosine_similarity(face[None], weights["anchors"])
    named = dict(zip({classes!r}, cosines.tolist()))
"""


_CHANNELS: Mapping[str, str] = {
    "rgb": "colour images",
    "normal": "normals n as stored, 127.5 (n + 1): red is x (to the right), green y (up), blue z (towards the viewer)",
    "depth": "depth as grey: 255 - d // 258 of the stored 16-bit value d, and 0 for the background, where d is 0",
    "flow": f"displacement d since the onset in frame units (90 mm), as 128 + 127 tanh(d / {FLOW_BEND}) in red, green "
    "and blue; a stored 16-bit value v is (v - 32768) `flow.step`, with `flow.step` from the sample's JSON",
}

_README = """\
# {recipe}: embeddings of faces from several views

Exported by `smile-pipe export` from the run `{fingerprint}`, which was trained on {samples} and
{supervision}.

| file | content |
|---|---|
| `open_clip_config.json`, `open_clip_model.safetensors` | image and text tower (`{arch}`), for open_clip |
| `fusion.safetensors` | weights that open_clip does not load: {others} |

**`encode_image` returns the image tower's embedding of one view.** open_clip has no projector of two layers, so the
model's embedding of the view, in a space of {dim} dimensions, is `project(encode_image(...))` as below; the same holds
for text. A face is represented by its fused views; fusion uses the direction of each view. Embeddings are not of unit
length: normalise them for cosines, but not before fusion. Call `model.eval()`, since open_clip returns models in
training mode.

## Images

- The channel `{channel}`, as 8-bit RGB: {image}.
- {size} x {size} pixels. Reduce images of at least twice that size with
  `image.resize(({size}, {size}), Image.Resampling.BOX)`: of PNGs, this differs from the run's input by at most one grey
  level. `preprocess` resizes with another filter, and gives a slightly different embedding.
- The run was trained on the views {views}; any number of views, in any order, can be fused.
- A direction is the unit vector from the face towards the camera, (sin yaw cos pitch, sin pitch, cos yaw cos pitch);
  yaw > 0 is on the subject's left, pitch > 0 above. For a rendered sample it is in `KEY.json`, as below.
- The run was trained on {temporal}.{pooling}

## A face's embedding

The code reads `sample.json`, the `KEY.json` of a sample, and an image `VIEW.png` for each of its cameras.

```python
{code}```
"""

_POOLING = """ The embedding of a
  sequence is `fuse(pool(moments, times), directions)`, where `moments` are the stacked `embed_views` of all moments."""


def model_card(model: ContrastiveModel, run: RunManifest) -> str:
    """Return the README as Markdown.

    Args:
        model: the model.
        run: manifest of its run.
    """
    others = ["projectors", "view-aware fusion", "temporal pooling", "the temperature (`log_scale`)"]
    is_supervised = isinstance(model, Supervised)
    if is_supervised:
        others.append(f"`anchors`, one of each class: {', '.join(run.classes)}")
    elif hasattr(model, "aggregation"):
        others.append("attention across views (`aggregation`)")
    return _README.format(
        recipe=run.recipe["name"],
        fingerprint=run.fingerprint,
        samples=pluralize(run.num_train_samples, "sample"),
        supervision="their labels" if is_supervised else f"prompts, {describe_text_source(run.text_source)}",
        arch=model.config.arch,
        others=", ".join(others),
        dim=model.config.joint_dim,
        channel=run.channel,
        image=_CHANNELS[run.channel],
        size=model.towers.image_size,
        views=", ".join(run.views),
        temporal=describe_temporal(run.temporal, run.max_frames),
        pooling=_POOLING if run.temporal != "none" else "",
        code=_example_code(model, run),
    )


def _example_code(model: ContrastiveModel, run: RunManifest) -> str:
    """Assemble the code from the parts that the model has."""
    parts = [_START]
    if isinstance(model, FacetVLM):
        attention = model.aggregation.attention
        parts.append(_ATTENTION.format(dim=attention.embed_dim, num_heads=attention.num_heads))
    parts.append(_FUSE.format(aggregate=_AGGREGATE if isinstance(model, FacetVLM) else ""))
    if run.temporal != "none":
        by_attention = model.config.temporal_pooling == "attention"
        parts.append(_POOL_BY_ATTENTION.format(num_octaves=NUM_OCTAVES) if by_attention else _POOL_BY_MEAN)
    parts.append(_USE)
    if isinstance(model, Supervised):
        parts.append(_CLASSES.format(classes=list(run.classes)))
    elif run.text_source != "none":
        parts.append(_TEXTS)
    return "".join(parts)
