"""The README of an exported model: what it is, what images it takes, and how a face is embedded with it.

Goes in: a model and the manifest of its run. Comes out: Markdown, whose code is from pipeline/exporting/example.py.
Promised: nothing in it says where the run or its shards lay.
"""

from collections.abc import Mapping

from model.systems import Recipe, Supervised
from pipeline.cards.words import prompts_of
from pipeline.exporting.example import example
from pipeline.training.faces import FLOW_BEND
from pipeline.training.manifest import RunManifest
from pipeline.training.sequences import in_words
from shards.words import counted

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


def model_card(model: Recipe, run: RunManifest) -> str:
    """Markdown about a model of a run."""
    others = ["projectors", "view-aware fusion", "temporal pooling", "the temperature (`log_scale`)"]
    if isinstance(model, Supervised):
        others.append(f"`anchors`, one of each class: {', '.join(run.classes)}")
    elif hasattr(model, "aggregation"):
        others.append("attention across views (`aggregation`)")
    return _TEXT.format(
        recipe=run.recipe["name"],
        fingerprint=run.fingerprint,
        samples=counted(run.num_train_samples, "sample"),
        words="their labels" if isinstance(model, Supervised) else f"prompts, {prompts_of(run.text_source)}",
        arch=model.config.arch,
        others=", ".join(others),
        dim=model.config.joint_dim,
        channel=run.channel,
        image=_IMAGES[run.channel],
        size=model.towers.image_size,
        views=", ".join(run.views),
        temporal=in_words(run.temporal, run.max_frames),
        pooling=_POOLING if run.temporal != "none" else "",
        code=example(model, run),
    )
