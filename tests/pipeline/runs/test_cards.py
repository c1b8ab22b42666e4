"""Cards: what they say is what the manifests say, of a machine they say nothing, and data do not write their markup."""

import re
from dataclasses import replace

import pytest
import yaml

from helpers.run_manifests import run_manifest
from helpers.samples import make_row, make_sample
from smile_pipe.pipeline.datasets import LAYOUTS
from smile_pipe.pipeline.evaluate import stage as evaluate
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.runs.cards import SOURCES, TEXT, plain, run_card, shards_card
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.index import read_index
from smile_pipe.shards.manifest import ShardManifest


def metadata(card: str) -> dict:
    """What stands between the first two lines of dashes, which hubs read."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match is not None
    return yaml.safe_load(match[1])


class TestOfShards:
    def test_it_stands_beside_them_and_counts_what_they_hold(self, shards_dir):
        card = (shards_dir / "README.md").read_text()
        assert "webdataset" in metadata(card)["tags"]
        assert "\n35 scans of 5 subjects, each" in card and "| happiness | 5 |" in card
        assert "`label`, of each sample's label: text is supervision here" in card
        assert "those of BU-3DFE do. If they are" in card

    def test_it_is_told_from_the_manifest_and_the_index_alone(self, shards_dir):
        manifest = ShardManifest.read(shards_dir / "manifest.json")
        rows = read_index(shards_dir / "index.parquet")
        assert shards_card(manifest, rows) == (shards_dir / "README.md").read_text()
        assert str(shards_dir) not in shards_card(manifest, rows)

    def test_words_of_the_data_are_no_markup(self, shards_dir):
        manifest = ShardManifest.read(shards_dir / "manifest.json")
        evil = "a|b](http://x)<script>\n# title"
        row = replace(make_row(make_sample()), expression=evil)
        card = shards_card(manifest.model_copy(update={"expressions": (evil,)}), [row])
        assert "<script>" not in card and "](http" not in card and "\n# title" not in card

    def test_every_layout_and_every_text_source_is_known(self):
        assert SOURCES.keys() == LAYOUTS.keys() - {"folder"}
        assert TEXT.keys() == {"label", "au", "geometry", "pseudo", "none"}


class TestOfARun:
    def test_it_stands_beside_it_and_has_its_scores_once_it_is_evaluated(self, run_dir, shards_dir):
        manifest = RunManifest.read(run_dir / "manifest.json")
        assert "Not scored yet" in run_card(manifest)
        found = evaluate.run(EvaluateConfig(run=run_dir, shards=str(shards_dir)))
        card = (run_dir / "README.md").read_text()
        assert "facial-expression-recognition" in metadata(card)["tags"]
        assert f"| linear probe | {100 * found.protocols['probe'].accuracy:.1f} |" in card
        assert "28 scans of 4 subjects; `normal` images; split `kfold:5:0`." in card
        assert "On 7 scans of 1 subject," in card
        assert str(run_dir) not in card and str(shards_dir) not in card

    def test_one_of_a_kind_has_no_plural(self):
        recipe = {"name": "smile-vlm", "arch": "ViT-B-16"}
        changes = {"recipe": recipe, "num_train_samples": 1, "num_train_sequences": 1, "num_steps": 1}
        card = run_card(run_manifest("0123").model_copy(update=changes))
        for said in (
            "encoder of 1 view of a face",
            "1 sequence of 1 subject; `rgb` images",
            "Of 1 other subject nothing was read.",
            "; 1 step;\n",
        ):
            assert said in card

    def test_of_a_file_of_weights_it_has_the_name_alone(self):
        recipe = {"name": "smile-vlm", "arch": "ViT-B-16", "without": (), "pretrained": "/home/anna/weights.pt"}
        card = run_card(run_manifest("0123").model_copy(update={"recipe": recipe}))
        assert "weights.pt" in card and "anna" not in card


@pytest.mark.parametrize("sign", ["|", "<", "`", "[", "\n"])
def test_signs_of_markup_are_written_otherwise(sign):
    assert sign not in plain(f"a{sign}b") and plain("anger").isalpha()
