"""The code in the README of an exported model: Python that embeds a face with open_clip and the weights beside it.

Goes in: a model and the manifest of its run. Comes out: source code that needs open_clip, safetensors and Pillow.
Promised: it computes what the model computes (a test runs it), and has only what the model has.

The README of an exported model: what it is, what images it takes, and how a face is embedded with it.

Goes in: a model and the manifest of its run. Comes out: Markdown, whose code is from pipeline/export/model_card.py.
Promised: nothing in it says where the run or its shards lay.
"""

from collections.abc import Mapping

from smile_pipe.model.fusion import NUM_OCTAVES
from smile_pipe.model.objectives import ContrastiveModel, FacetVLM, Supervised
from smile_pipe.pipeline.data.dataset import FLOW_BEND
from smile_pipe.pipeline.data.temporal import describe_temporal
from smile_pipe.pipeline.runs.cards import prompts_of
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.formatting import pluralize

_START = """\
import json

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

FOLDER = "."  # where this file lies
model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{FOLDER}")
model.eval()
weights = load_file(f"{FOLDER}/fusion.safetensors")


def project(embeddings, name):
    \"\"\"Embeddings of a tower -> the joint space.\"\"\"
    hidden = F.gelu(F.linear(embeddings, weights[f"{name}.0.weight"], weights[f"{name}.0.bias"]))
    return F.linear(hidden, weights[f"{name}.2.weight"], weights[f"{name}.2.bias"])


def embed_views(images):
    \"\"\"Images of a face from V sides -> [V, D].\"\"\"
    return project(model.encode_image(torch.stack([preprocess(image) for image in images])), "project_image")


"""

_FUSE = """\
def fuse(views, directions):
    \"\"\"Embeddings of views [V, D], unit vectors from the face towards their cameras [V, 3] -> the face's [D].\"\"\"
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
    \"\"\"Views at T moments of a sequence [T, V, D] -> [V, D].

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
    \"\"\"Views at T moments of a sequence [T, V, D] -> [V, D]; `times` [T] do not count.\"\"\"
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


def example(model: ContrastiveModel, run: RunManifest) -> str:
    """The code for a model; what it reads and what it leaves is told in pipeline/export/model_card.py."""
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


_IMAGES: Mapping[str, str] = {
    "rgb": "colour images",
    "normal": "normals n as they are stored, 127.5 (n + 1): red is x, to the right, green y, up, blue z, to the viewer",
    "depth": "depth as grey: of the stored 16 bits d, 255 - d // 258, and 0 where d is 0, the background",
    "flow": f"flow, d frame units since the onset (a unit is 90 mm), as 128 + 127 tanh(d / {FLOW_BEND}) in red, green "
    "and blue; the stored 16 bits are (d - 32768) `flow.step`, as in the sample's JSON",
}

_TEXT = """\
# {recipe}: embeddings of faces seen from several sides

Made by `smile-pipe export` from the run `{fingerprint}`, which learned from {samples} and
{words}.

| file | what |
|---|---|
| `open_clip_config.json`, `open_clip_model.safetensors` | image and text tower (`{arch}`), for open_clip |
| `fusion.safetensors` | what open_clip has no place for: {others} |

**`encode_image` gives the image tower's embedding of one view.** open_clip has no projector of two layers, so the
model's embedding of the view, in a space of {dim} dimensions, is `project(encode_image(...))` as below; that of a text
likewise. A face is its views, fused; fusion knows from where each looks. Embeddings are not of unit length: bring them
to it where you take cosines, and not before they are fused. Call `model.eval()`, as open_clip gives models in training
mode.

## Images

- The channel `{channel}`, as 8-bit RGB: {image}.
- {size} x {size} pixels. Ones at least twice as large are best shrunk by
  `image.resize(({size}, {size}), Image.Resampling.BOX)`, within a level of what the run saw of PNGs; `preprocess`
  shrinks with another filter, and gives a somewhat other embedding.
- The run saw the views {views}; any number of views, in any order, can be fused.
- A direction is the unit vector from the face towards the camera, (sin yaw cos pitch, sin pitch, cos yaw cos pitch);
  yaw > 0 is on the subject's left, pitch > 0 above. Of a rendered sample it is in `KEY.json`, as below.
- The run learned from {temporal}.{pooling}

## A face's embedding

The code reads `sample.json`, the `KEY.json` of a sample, and an image `VIEW.png` for each of its cameras.

```python
{code}```
"""

_POOLING = """ A sequence is
  `fuse(pool(moments, times), directions)`, where `moments` are the `embed_views` of each, stacked."""


def model_card(model: ContrastiveModel, run: RunManifest) -> str:
    """Markdown about a model of a run."""
    others = ["projectors", "view-aware fusion", "temporal pooling", "the temperature (`log_scale`)"]
    if isinstance(model, Supervised):
        others.append(f"`anchors`, one of each class: {', '.join(run.classes)}")
    elif hasattr(model, "aggregation"):
        others.append("attention across views (`aggregation`)")
    return _TEXT.format(
        recipe=run.recipe["name"],
        fingerprint=run.fingerprint,
        samples=pluralize(run.num_train_samples, "sample"),
        words="their labels" if isinstance(model, Supervised) else f"prompts, {prompts_of(run.text_source)}",
        arch=model.config.arch,
        others=", ".join(others),
        dim=model.config.joint_dim,
        channel=run.channel,
        image=_IMAGES[run.channel],
        size=model.towers.image_size,
        views=", ".join(run.views),
        temporal=describe_temporal(run.temporal, run.max_frames),
        pooling=_POOLING if run.temporal != "none" else "",
        code=example(model, run),
    )
