"""Training with expression knowledge: texts and concepts, options, and fingerprints."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from helpers import small_runs
from helpers.samples import write_shard_set
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.captions.knowledge import load_knowledge
from smile_pipe.pipeline.data.dataset import Batch
from smile_pipe.pipeline.train.knowledge_prompts import KnowledgePrompts
from smile_pipe.pipeline.train.text_targets import TextTargets, concept_id
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import Caption

PROMPTS = dict(load_bank().templates)
SMILE = Caption(source="geometry", reference="neutral", numbers={"lip_corner_height": 9.0, "mouth_width": 2.0})
FROWN = Caption(source="geometry", reference="neutral", numbers={"inner_brow_gap": -3.5, "lip_thickness": -7.0})
STILL = Caption(source="geometry", reference="neutral", numbers={"inner_brow_gap": 0.0})


def batch_of(captions, num=400):
    nothing = torch.empty(0)
    captions = [captions[n % len(captions)] for n in range(num)]
    texts = [f"caption {n}" for n in range(num)]
    keys = [f"k{n}" for n in range(num)]
    # Labels are wrong on purpose.
    return Batch(nothing, PackedFrames(nothing, nothing), texts, ["SU"] * num, keys, ["F1"] * num, captions)


def prompts_of(prompts=PROMPTS, seed=0):
    return KnowledgePrompts(prompts, load_knowledge(), "geometry", seed)


class TestTexts:
    def test_half_of_the_texts_are_captions_and_the_name_is_the_concept_of_both(self):
        batch = batch_of([SMILE, FROWN, STILL])
        texts, concepts = prompts_of().draw(batch, epoch=3)
        assert concepts == [("HA", "AN", "NE")[n % 3] for n in range(400)]
        is_caption = [text == caption for text, caption in zip(texts, batch.texts, strict=True)]
        # Three standard deviations of a fair coin.
        assert abs(sum(is_caption) - 200) < 30
        for text, name, own in zip(texts, concepts, is_caption, strict=True):
            assert own or text in PROMPTS[name]
        assert len({text for text, own in zip(texts, is_caption, strict=True) if not own}) > 30

    def test_texts_change_with_epoch_and_seed_and_nothing_else(self):
        batch = batch_of([SMILE])
        first = prompts_of().draw(batch, 0)
        assert prompts_of().draw(batch, 0) == first
        assert prompts_of().draw(batch, 1)[0] != first[0] and prompts_of(seed=1).draw(batch, 0)[0] != first[0]
        alone = replace(batch, texts=batch.texts[7:8], keys=batch.keys[7:8], captions=batch.captions[7:8])
        assert prompts_of().draw(alone, 0)[0] == first[0][7:8]

    def test_only_expressions_with_prompts_are_names(self):
        _, concepts = prompts_of({"HA": (), "AN": ("a",), "NE": ("b",)}).draw(batch_of([SMILE, FROWN]), 0)
        assert "HA" not in concepts and concepts[1] == "AN"

    def test_a_face_without_a_name_has_its_caption_as_concept(self):
        batch = batch_of([STILL])
        texts, concepts = prompts_of({"HA": ("a",), "AN": ("b",)}).draw(batch, 0)
        assert texts == concepts == batch.texts


def test_both_kinds_of_text_have_the_name_as_concept():
    manifest = SimpleNamespace(prompts=PROMPTS, expressions=tuple(PROMPTS), text_source="geometry")
    dataset = SimpleNamespace(shards=SimpleNamespace(manifest=manifest))
    model = build_model(RecipeConfig())
    targets = TextTargets("knowledge", model, dataset, [], 0, knowledge=load_knowledge())
    batch = batch_of([SMILE, FROWN], 40)
    tokens, concepts, _ = targets.encode(batch, 0, torch.device("cpu"))
    assert concepts.tolist() == [concept_id("HA"), concept_id("AN")] * 20
    assert torch.equal(tokens, targets.tokenizer(prompts_of().draw(batch, 0)[0]))


class TestOptions:
    @pytest.fixture
    def shards(self, tmp_path):
        return small_runs.write_shards(tmp_path)

    def test_knowledge_needs_captions(self, shards, tmp_path):
        with pytest.raises(UsageError, match="needs measured captions"):
            small_runs.learn(shards, tmp_path / "run", text="knowledge")

    def test_coded_action_units_are_labels_and_refused(self, tmp_path):
        shards = tmp_path / "shards"
        write_shard_set(shards, num_subjects=4, channels=("rgb",), text_source="au")
        for options in ({"text": "knowledge"}, {"text": "pseudo", "pseudo_start": "knowledge"}):
            with pytest.raises(UsageError, match="needs measured captions"):
                small_runs.learn(shards, tmp_path / "run", **options)

    def test_a_file_of_knowledge_needs_the_text_source(self, shards, tmp_path):
        with pytest.raises(UsageError, match="needs `text=knowledge`"):
            small_runs.learn(shards, tmp_path / "run", knowledge=tmp_path / "mine.yaml")

    def test_the_option_is_not_in_fingerprints_of_other_runs(self, shards, tmp_path):
        options = small_runs.config(shards, tmp_path / "run").for_fingerprint()
        assert not {"knowledge", "pseudo_start"} & options.keys()

    def test_the_start_of_clusters_needs_pseudo_labels(self, shards, tmp_path):
        with pytest.raises(UsageError, match="needs `text=pseudo`"):
            small_runs.learn(shards, tmp_path / "run", pseudo_start="knowledge")
        with pytest.raises(UsageError, match="needs measured captions"):
            small_runs.learn(shards, tmp_path / "run", text="pseudo", pseudo_start="knowledge")
