"""The code in the README of an exported model: Python that embeds a face with open_clip and the weights beside it.

Goes in: a model and the manifest of its run. Comes out: source code that needs open_clip, safetensors and Pillow.
Promised: it computes what the model computes (a test runs it), and has only what the model has.
"""

from model.fusion import NUM_OCTAVES
from model.systems import FacetVLM, Recipe, Supervised
from pipeline.training.manifest import RunManifest

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


def example(model: Recipe, run: RunManifest) -> str:
    """The code for a model; what it reads and what it leaves is told in pipeline/exporting/card.py."""
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
