"""`export --open-clip`: open_clip and the code of the README compute what the run computes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from helpers.samples import make_timeline, write_shard_set
from helpers.small_runs import learn, reader_of, register, result, shake, weights
from smile_pipe.model.towers import OWN_ARCHS
from smile_pipe.pipeline.data.dataset import FaceSample
from smile_pipe.pipeline.data.resize import fit_image
from smile_pipe.pipeline.export import open_clip_folder
from smile_pipe.pipeline.export.config import ExportConfig
from smile_pipe.pipeline.export.model_card import model_card
from smile_pipe.pipeline.export.stage import run as export
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

FILES = {"README.md", "fusion.safetensors", "open_clip_config.json", "open_clip_model.safetensors"}
# Batches have another size, so results may differ by rounding.
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


def trained(shards: Path, out: Path, **options: Any) -> Path:
    learn(shards, out, epochs=1, **options)
    shake(out)
    return out


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory) -> Path:
    return trained(shards, tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "model"
    export(ExportConfig(run=run, open_clip=out))
    return out


def code_of(folder: Path) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return code


def write_sample(shards: Path, run: Path, folder: Path, number: int = 0) -> FaceSample:
    """Write the files of a sample that the README reads: its first moment, in the image size of the tower."""
    reader = reader_of(shards, run)
    face = reader.read(row := reader.shards.rows[number])
    record = reader.shards.read(row).record
    (folder / "sample.json").write_text(record.model_dump_json())
    for camera, view in zip(record.cameras, face.views[0], strict=True):
        image_of(view).save(folder / f"{camera.name}.png")
    return face


def image_of(view: Any) -> Image.Image:
    return Image.fromarray(view.transpose(1, 2, 0))


def follow_readme(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Run the code of the README; returns its variables."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code_of(folder), names)
    return names


def expected(shards: Path, run: Path, number: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings of a sample by the run: views [V, D] and their fusion [D]."""
    reader = reader_of(shards, run)
    (found,) = result(run).embed_views(reader, [reader.shards.rows[number]], 1)
    return torch.from_numpy(found.views[0]), torch.from_numpy(found.fused[0])


def test_open_clip_computes_the_embeddings_of_the_towers(folder, shards, run):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    face, towers = reader_of(shards, run).read(reader_of(shards, run).shards.rows[0]), result(run).model.towers
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a face of anger", "a smile"])
    with torch.inference_mode():
        images = torch.stack([preprocess(image_of(view)) for view in face.views[0]])
        found, texts = model.eval().encode_image(images), model.encode_text(tokens)
        own = towers.encode_images(torch.from_numpy(face.views[0]).float() / 255)
        unit_vectors = model.encode_image(images, normalize=True)
        torch.testing.assert_close(found, own, **CLOSE)
        torch.testing.assert_close(unit_vectors, torch.nn.functional.normalize(own, dim=-1), **CLOSE)
        torch.testing.assert_close(texts, towers.encode_text(tokens), **CLOSE)
    assert not torch.allclose(own[0], own[1], **CLOSE)


def test_config_has_image_size_and_normalisation(folder, run):
    preprocess = json.loads((folder / "open_clip_config.json").read_text())["preprocess_cfg"]
    towers = result(run).model.towers
    assert (preprocess["size"], preprocess["interpolation"], preprocess["resize_mode"]) == (8, "bilinear", "squash")
    torch.testing.assert_close(torch.tensor(preprocess["mean"]), towers.mean.flatten())
    torch.testing.assert_close(torch.tensor(preprocess["std"]), towers.std.flatten())


@pytest.mark.parametrize(("given", "taken"), [(224, 96), (224, 112), (64, 8)])
def test_resizing_of_the_readme_is_within_one_level_of_the_runs_input(given, taken):
    pixels = np.random.default_rng(0).integers(0, 256, (given, given, 3), np.uint8)
    seen = np.empty((3, taken, taken), np.uint8)
    fit_image(pixels, seen)
    reduced = np.asarray(Image.fromarray(pixels).resize((taken, taken), Image.Resampling.BOX)).transpose(2, 0, 1)
    assert np.abs(reduced.astype(int) - seen).max() <= 1


@pytest.mark.parametrize("recipe", ["smile-vlm", "facet-vlm", "supervised", "barlow"])
def test_readme_code_embeds_a_face_as_the_run(recipe, shards, tmp_path, monkeypatch):
    run, folder = trained(shards, tmp_path / "run", recipe=recipe), tmp_path / "model"
    export(ExportConfig(run=run, open_clip=folder))
    write_sample(shards, run, folder)
    found = follow_readme(folder, monkeypatch)
    views, fused = expected(shards, run)
    torch.testing.assert_close(found["views"], views, **CLOSE)
    torch.testing.assert_close(found["face"], fused, **CLOSE)
    assert not torch.allclose(found["face"], found["views"].mean(dim=0), rtol=1e-5)
    model = result(run)
    if recipe == "supervised":
        cosines = model.classify(fused[None].numpy())[0]
        classes = RunDirectory(run).manifest().classes
        assert found["named"] == pytest.approx(dict(zip(classes, cosines.tolist(), strict=True)), abs=1e-5)
    elif recipe == "barlow":
        assert "texts" not in found and "cosines" not in found
    else:
        own = torch.from_numpy(model.embed_prompts(["a happy face", "a sad face"]))
        torch.testing.assert_close(found["texts"], own, **CLOSE)
        torch.testing.assert_close(found["cosines"], torch.nn.functional.cosine_similarity(fused[None], own))


@pytest.mark.parametrize("pooling", ["attention", "mean"])
def test_readme_code_pools_a_sequence_as_the_run(pooling, tmp_path, monkeypatch):
    register(tmp_path)
    timelines = (None, make_timeline(2, "both"), make_timeline(5, "both"))
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",), timelines=timelines)
    options = {"temporal": "both", "max_frames": 4, "temporal_pooling": pooling}
    run, folder = trained(tmp_path / "shards", tmp_path / "run", **options), tmp_path / "model"
    export(ExportConfig(run=run, open_clip=folder))
    (longest,) = [n for n, row in enumerate(reader_of(tmp_path / "shards", run).shards.rows[:3]) if row.num_frames == 5]
    face = write_sample(tmp_path / "shards", run, folder, longest)
    assert len(face.times) == 5 and face.times[-1] == -1
    found = follow_readme(folder, monkeypatch)
    with torch.inference_mode():
        moments = torch.stack([found["embed_views"]([image_of(view) for view in views]) for views in face.views])
        pooled = found["pool"](moments, torch.from_numpy(face.times))
        fused = found["fuse"](pooled, found["directions"])
    own_views, own_fused = expected(tmp_path / "shards", run, longest)
    torch.testing.assert_close(pooled, own_views, **CLOSE)
    torch.testing.assert_close(fused, own_fused, **CLOSE)


@pytest.mark.parametrize("arch", OWN_ARCHS)
def test_small_architectures_work_without_smile_pipe(shards, tmp_path, arch):
    run, folder = tmp_path / "run", tmp_path / "model"
    learn(shards, run, epochs=1, arch=arch)
    export(ExportConfig(run=run, open_clip=folder))
    write_sample(shards, run, folder)
    alone = "import sys; sys.modules |= dict.fromkeys(('cli', 'model', 'pipeline', 'shards'))\n"
    code = alone + code_of(folder) + "print(face.tolist())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected(shards, run)[1], **CLOSE)


def test_all_weights_are_exported_unchanged(folder, run):
    towers, others = (load_file(folder / name) for name in ("open_clip_model.safetensors", "fusion.safetensors"))
    own = weights(run)
    rebuilt = {f"towers.clip.{name}": tensor for name, tensor in towers.items()} | others
    assert rebuilt.keys() == own.keys() - {"towers.mean", "towers.std"}
    assert all(torch.equal(tensor, own[name]) for name, tensor in rebuilt.items())


def test_files_name_the_run_without_paths(folder, run):
    manifest = RunDirectory(run).manifest()
    assert {path.name for path in folder.iterdir()} - {"sample.json"} == FILES
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\nlibrary_name: open_clip\n")
    for expected_text in (
        manifest.fingerprint,
        "smile-vlm",
        "`rgb`",
        "8 x 8 pixels",
        "resize((8, 8), Image.Resampling.BOX)",
        "front, left, right",
        "15 samples",
    ):
        assert expected_text in readme
    assert "prompts, `label`, derived from each sample's label: text is supervision here" in readme
    for path in folder.iterdir():
        assert str(run.parent).encode() not in path.read_bytes()
    with safe_open(folder / "fusion.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["smile_pipe"])
    assert (metadata["run_fingerprint"], metadata["text_source"]) == (manifest.fingerprint, "label")


def test_count_of_one_is_singular(run):
    manifest = RunDirectory(run).manifest().model_copy(update={"num_train_samples": 1})
    assert "which was trained on 1 sample and\n" in model_card(result(run).model, manifest)


class TestFolder:
    """Output directories, and what is left after a failure."""

    def test_foreign_files_are_not_overwritten(self, run, tmp_path):
        (tmp_path / "README.md").write_text("mine")
        with pytest.raises(UsageError, match="holds other files; name a new or empty directory"):
            export(ExportConfig(run=run, open_clip=tmp_path))
        with pytest.raises(UsageError, match="is a file"):
            export(ExportConfig(run=run, open_clip=tmp_path / "README.md"))
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("README.md", "mine")]

    def test_earlier_export_is_replaced_and_incomplete_export_cannot_be_loaded(self, run, tmp_path, monkeypatch):
        out = tmp_path / "model"
        export(ExportConfig(run=run, open_clip=out))
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        export(ExportConfig(run=run, open_clip=out))
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before

        def full(*_: object) -> str:
            raise OSError("no space left")

        monkeypatch.setattr(open_clip_folder, "model_card", full)
        with pytest.raises(OSError, match="no space left"):
            export(ExportConfig(run=run, open_clip=out))
        with pytest.raises(FileNotFoundError, match="config file missing"):
            open_clip.create_model(f"local-dir:{out}")

    def test_output_may_be_a_url(self, run):
        out = StoragePath("memory://exported/model")
        export(ExportConfig(run=run, open_clip=out))
        assert {path.name for path in out.iterdir()} == FILES

    def test_tokenizer_of_another_library_is_saved(self, tmp_path):
        class WithFiles:
            def save_pretrained(self, folder: str) -> None:
                (Path(folder) / "tokenizer.json").write_text("{}")

        open_clip_folder._save_tokenizer(tmp_path, WithFiles())
        assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]
