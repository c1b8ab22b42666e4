"""Cards: their contents come from the manifests, without paths of the machine, and text of the data is escaped."""

import re
from dataclasses import replace

import pytest
import yaml

from helpers.run_manifests import run_manifest
from helpers.samples import make_row, make_sample, write_shard_set
from smile_pipe.pipeline.datasets import LAYOUTS
from smile_pipe.pipeline.evaluate import stage as evaluate
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.runs.cards import SOURCES, TEXT_SOURCES, escape_markdown, run_card, shards_card
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.index import read_index
from smile_pipe.shards.manifest import ShardManifest


def metadata(card: str) -> dict:
    """The front matter, which hubs read."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match is not None
    return yaml.safe_load(match[1])


class TestShardsCard:
    def test_render_writes_a_card_with_counts(self, shards_dir):
        card = (shards_dir / "README.md").read_text()
        assert "webdataset" in metadata(card)["tags"]
        assert "\n35 scans of 5 subjects, each" in card and "| happiness | 5 |" in card
        assert "`label`, derived from each sample's label: text is supervision here" in card
        assert "is that of BU-3DFE. If they are" in card

    def test_card_depends_on_manifest_and_index_only(self, shards_dir):
        manifest = ShardManifest.read(shards_dir / "manifest.json")
        rows = read_index(shards_dir / "index.parquet")
        assert shards_card(manifest, rows) == (shards_dir / "README.md").read_text()
        assert str(shards_dir) not in shards_card(manifest, rows)

    @pytest.mark.parametrize("num_shards", [1, 2, 9])
    def test_hugging_face_datasets_loads_the_directory(self, num_shards, tmp_path, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        root = tmp_path / "shards"
        samples = write_shard_set(root, num_subjects=3, samples_per_shard=9 // num_shards + 9 % num_shards)
        assert len(list((root / "shards").iterdir())) == num_shards and (root / "failures.parquet").exists()
        card = shards_card(ShardManifest.read(root / "manifest.json"), read_index(root / "index.parquet"))
        (root / "README.md").write_text(card)
        loaded = datasets.load_dataset(str(root), cache_dir=str(tmp_path / "cache"))
        assert loaded.keys() == {"train"} and loaded["train"]["txt"][:] == [sample.text for sample in samples]

    def test_text_of_the_data_is_escaped(self, shards_dir):
        manifest = ShardManifest.read(shards_dir / "manifest.json")
        evil = "a|b](http://x)<script>\n# title"
        row = replace(make_row(make_sample()), expression=evil)
        card = shards_card(manifest.model_copy(update={"expressions": (evil,)}), [row])
        assert "<script>" not in card and "](http" not in card and "\n# title" not in card

    def test_every_layout_and_text_source_has_a_description(self):
        assert SOURCES.keys() == LAYOUTS.keys() - {"folder"}
        assert TEXT_SOURCES.keys() == {"label", "au", "geometry", "knowledge", "pseudo", "none"}


class TestRunCard:
    def test_evaluation_adds_scores_to_the_card(self, run_dir, shards_dir):
        manifest = RunManifest.read(run_dir / "manifest.json")
        assert "Not evaluated yet" in run_card(manifest)
        evaluation = evaluate.run(EvaluateConfig(run=run_dir, shards=str(shards_dir)))
        card = (run_dir / "README.md").read_text()
        assert "facial-expression-recognition" in metadata(card)["tags"]
        assert f"| linear probe | {100 * evaluation.protocols['probe'].accuracy:.1f} |" in card
        assert "28 scans of 4 subjects; `normal` images; split `kfold:5:0`." in card
        assert "On 7 scans of 1 subject," in card
        assert str(run_dir) not in card and str(shards_dir) not in card

    def test_counts_of_one_are_singular(self):
        recipe = {"name": "smile-vlm", "arch": "ViT-B-16"}
        changes = {"recipe": recipe, "num_train_samples": 1, "num_train_sequences": 1, "num_steps": 1}
        card = run_card(run_manifest("0123").model_copy(update=changes))
        for phrase in (
            "encoder of 1 view of a face",
            "1 sequence of 1 subject; `rgb` images",
            "Held-out test data: 1 subject.",
            "; 1 step;\n",
        ):
            assert phrase in card

    def test_card_has_the_file_name_of_weights_without_directory(self):
        recipe = {"name": "smile-vlm", "arch": "ViT-B-16", "without": (), "pretrained": "/home/anna/weights.pt"}
        card = run_card(run_manifest("0123").model_copy(update={"recipe": recipe}))
        assert "weights.pt" in card and "anna" not in card


@pytest.mark.parametrize("sign", ["|", "<", "`", "[", "\n"])
def test_markup_characters_are_escaped(sign):
    assert sign not in escape_markdown(f"a{sign}b") and escape_markdown("anger").isalpha()
