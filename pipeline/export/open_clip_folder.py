"""The towers as a directory that open_clip loads by `local-dir:`, and what it has no place for beside them.

    DIR/open_clip_config.json        architecture, and what an image is normalised by; written last
    DIR/open_clip_model.safetensors  the towers, by open_clip's names
    DIR/fusion.safetensors           all other weights: projectors, fusion, temporal pooling, a classifier's anchors
    DIR/README.md                    what images it takes, and how a face's embedding is had from them

Promised: neither smile-pipe nor the network is needed to use it, where its architecture is one of open_clip's own; no
weight of the run is left out.
"""

import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from smile_pipe.model.towers import check_arch
from smile_pipe.pipeline.export.model_card import model_card
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import canonical_json
from smile_pipe.shards.storage import PathLike, StoragePath

CONFIG, TOWERS, FUSION, CARD = "open_clip_config.json", "open_clip_model.safetensors", "fusion.safetensors", "README.md"
"""Of several files with weights open_clip takes the one with this name for the towers."""

_OF_TOWERS = "towers."
_OF_CLIP = "towers.clip."


def check_folder(folder: StoragePath) -> None:
    """Raise UsageError where a directory holds what is no export: its README.md may be somebody's."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file; name a directory", field="open_clip", value=folder)
    if folder.is_dir() and not (folder / CONFIG).exists() and any(folder.iterdir()):
        raise UsageError(
            "holds other files; name a directory that is empty, or not there yet", field="open_clip", value=folder
        )


def write_open_clip(folder: PathLike, trained: TrainedModel, run: RunManifest, facts: Mapping[str, str]) -> None:
    """Write a model on the CPU; `facts` become the metadata of its weights."""
    folder = StoragePath(folder)
    folder.ensure_folder()
    # Without it nothing loads the directory, in which not all files are of one model while they are written.
    (folder / CONFIG).unlink(missing_ok=True)
    weights = trained.model.state_dict()
    clip = {name.removeprefix(_OF_CLIP): tensor for name, tensor in weights.items() if name.startswith(_OF_CLIP)}
    others = {name: tensor for name, tensor in weights.items() if not name.startswith(_OF_TOWERS)}
    _save(folder / TOWERS, clip, facts)
    _save(folder / FUSION, others, facts)
    _save_tokenizer(folder, trained.tokenizer)
    (folder / CARD).write_atomically(model_card(trained.model, run).encode())
    (folder / CONFIG).write_atomically(canonical_json(_config(trained)).encode())


def _config(trained: TrainedModel) -> dict[str, Any]:
    """`preprocess` of open_clip stretches to a square, as training does; mean and deviation are the checkpoint's."""
    towers = trained.model.towers
    preprocess = {
        "size": towers.image_size,
        "mean": towers.mean.flatten().tolist(),
        "std": towers.std.flatten().tolist(),
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    return {"model_cfg": deepcopy(check_arch(trained.model.config.arch)), "preprocess_cfg": preprocess}


def _save(path: StoragePath, weights: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
    # Of several names in the metadata safetensors takes one first and then another, and equal models differ in bytes.
    metadata = {"smile_pipe": canonical_json(dict(facts), indent=None)}
    path.write_atomically(save({name: tensor.contiguous() for name, tensor in weights.items()}, metadata))


def _save_tokenizer(folder: PathLike, tokenizer: object) -> None:
    """Files of a tokenizer that is not open_clip's own, which it looks for in the directory."""
    if not hasattr(tokenizer, "save_pretrained"):
        return
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as scratch:
        tokenizer.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir()):
            (StoragePath(folder) / file.name).write_atomically(file.read_bytes())
