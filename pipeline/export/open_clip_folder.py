"""Export a model as a directory that open_clip loads by `local-dir:DIR`.

    DIR/open_clip_config.json        architecture and image normalisation; written last
    DIR/open_clip_model.safetensors  the towers, by open_clip's names
    DIR/fusion.safetensors           all other weights: projectors, fusion, temporal pooling, a classifier's anchors
    DIR/README.md                    input images, and code that embeds a face
    DIR/patch_cnn.py                 the image tower of `smile-nano`, which open_clip does not have

The directory contains all weights of the run. If the architecture is one of open_clip's or ours, it can be used without
smile-pipe and offline.
"""

import tempfile
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors.torch import save
from torch import Tensor

from smile_pipe.model import patch_cnn
from smile_pipe.model.multichannel import MultiChannelModel
from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.model.towers import check_arch
from smile_pipe.pipeline.export.model_card import model_card
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import canonical_json
from smile_pipe.shards.storage import PathLike, StoragePath

CONFIG, TOWERS, FUSION, CARD = "open_clip_config.json", "open_clip_model.safetensors", "fusion.safetensors", "README.md"
"""With several files of weights in a directory, open_clip loads the towers from the one with this name."""

_TOWERS_PREFIX = "towers."
_CLIP_PREFIX = "towers.clip."


@runtime_checkable
class _SavableTokenizer(Protocol):
    def save_pretrained(self, directory: str) -> object: ...


def check_folder(folder: StoragePath) -> None:
    """Raise UsageError if a directory contains anything but an earlier export, such as a README.md of the user."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file; name a directory", field="open_clip", value=folder)
    if folder.is_dir() and not (folder / CONFIG).exists() and any(folder.iterdir()):
        raise UsageError("holds other files; name a new or empty directory", field="open_clip", value=folder)


def check_towers(trained: TrainedModel, run: RunManifest) -> None:
    """Raise UsageError if a model has several image towers, for which open_clip's format has no place."""
    if isinstance(trained.model, MultiChannelModel):
        raise UsageError(
            f"the run has a tower for each of {' and '.join(run.channels)}, and the format has one; use `onnx`",
            field="open_clip",
        )


def write_open_clip(folder: PathLike, trained: TrainedModel, run: RunManifest, metadata: Mapping[str, str]) -> None:
    """Write the directory.

    Args:
        folder: output directory.
        trained: a model on the CPU.
        run: manifest of its run.
        metadata: metadata of the files of weights.
    """
    model = trained.model
    assert isinstance(model, ContrastiveModel), "see `check_towers`"
    folder = StoragePath(folder)
    folder.ensure_folder()
    # Without its config the directory cannot be loaded; while files are written, they may be of different models.
    (folder / CONFIG).unlink(missing_ok=True)
    weights = model.state_dict()
    clip = {
        name.removeprefix(_CLIP_PREFIX): tensor for name, tensor in weights.items() if name.startswith(_CLIP_PREFIX)
    }
    others = {name: tensor for name, tensor in weights.items() if not name.startswith(_TOWERS_PREFIX)}
    _save(folder / TOWERS, clip, metadata)
    _save(folder / FUSION, others, metadata)
    _save_tokenizer(folder, trained.tokenizer)
    if model.config.arch == patch_cnn.ARCH:
        tower = Path(patch_cnn.__file__)
        (folder / tower.name).write_atomically(tower.read_bytes())
    (folder / CARD).write_atomically(model_card(model, run).encode())
    (folder / CONFIG).write_atomically(canonical_json(_config(model)).encode())


def _config(model: ContrastiveModel) -> dict[str, Any]:
    """Return the config: `preprocess` stretches to a square as in training, and normalises as the checkpoint."""
    towers = model.towers
    preprocess = {
        "size": towers.image_size,
        "mean": towers.get_buffer("mean").flatten().tolist(),
        "std": towers.get_buffer("std").flatten().tolist(),
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    return {"model_cfg": deepcopy(check_arch(model.config.arch)), "preprocess_cfg": preprocess}


def _save(path: StoragePath, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    # A single entry: safetensors writes several in random order, and equal models would differ in bytes.
    entry = {"smile_pipe": canonical_json(dict(metadata), indent=None)}
    path.write_atomically(save({name: tensor.contiguous() for name, tensor in weights.items()}, entry))


def _save_tokenizer(folder: StoragePath, tokenizer: object) -> None:
    """Save the files of a tokenizer from another library, which open_clip loads from the directory."""
    if not isinstance(tokenizer, _SavableTokenizer):
        return
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as scratch:
        tokenizer.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir()):
            (StoragePath(folder) / file.name).write_atomically(file.read_bytes())
