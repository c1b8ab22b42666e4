"""Text targets: metadata prompts by recipe, their frequency, and their independence of everything else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch

from helpers.samples import make_row, make_sample, write_shard_set
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.data.dataset import Batch, DecodeSpec, FaceDataset
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.resolve_options import uses_metadata_prompts
from smile_pipe.pipeline.train.text_targets import TextTargets, concept_id
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardSet

PLAIN = "a joyful expression"
DESCRIBED = f"{PLAIN} (a young woman)"
KNOWN = {"sex": "F", "age": "25"}
KEYS = [f"k{n}" for n in range(1000)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> FaceDataset:
    root = tmp_path_factory.mktemp("words")
    write_shard_set(root)
    return FaceDataset(ShardSet.open(str(root)), DecodeSpec(("normal",), 8), 0)


@cache
def model(recipe: str) -> ContrastiveModel:
    return build_model(RecipeConfig(name=recipe))


@pytest.fixture
def words(dataset):
    def make(
        recipe: str = "affect-vlm", seed: int = 0, labels: Mapping[str, str] = KNOWN, keys=KEYS, metadata: bool = True
    ) -> TextTargets:
        return TextTargets("label", model(recipe), dataset, rows(keys, labels), seed, metadata)

    return make


def rows(keys: Sequence[str], labels: Mapping[str, str]) -> list[IndexRow]:
    row = make_row(make_sample(size=4))
    return [replace(row, key=key, labels=labels) for key in keys]


def batch(keys: Sequence[str] = KEYS) -> Batch:
    nothing = torch.empty(0)
    num = len(keys)
    return Batch(nothing, PackedFrames(nothing, nothing), [PLAIN] * num, ["HA"] * num, list(keys), ["F0001"] * num)


def texts(words: TextTargets, keys: Sequence[str] = KEYS, epoch: int = 0) -> list[str]:
    """Prompts of a batch, recovered from its tokens."""
    tokens, _, _ = words.encode(batch(keys), epoch, torch.device("cpu"))
    known = {
        tuple(row.tolist()): text
        for text, row in zip((PLAIN, DESCRIBED), words.tokenizer([PLAIN, DESCRIBED]), strict=True)
    }
    return [known[tuple(row.tolist())] for row in tokens]


def share_alike(one: Sequence[str], other: Sequence[str]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def test_half_of_the_prompts_describe_the_person(words):
    assert 0.45 < texts(words()).count(DESCRIBED) / len(KEYS) < 0.55


def test_described_half_changes_with_epoch_and_seed(words):
    first = texts(words(), epoch=0)
    assert 0.45 < share_alike(first, texts(words(), epoch=1)) < 0.55
    assert 0.45 < share_alike(first, texts(words(seed=1), epoch=0)) < 0.55


def test_description_does_not_depend_on_the_batch(words):
    """As on another rank, or in a resumed run."""
    some = KEYS[700:650:-1]
    everybody = dict(zip(KEYS, texts(words(), epoch=3), strict=True))
    assert texts(words(keys=some), some, epoch=3) == [everybody[key] for key in some]


def test_description_is_the_same_on_every_machine(words):
    prompts = [texts(words(seed=7), KEYS[:16], epoch) for epoch in (0, 1)]
    assert ["".join(".x"[text == DESCRIBED] for text in found) for found in prompts] == [
        "x.xx.x.xx.x..x.x",
        "......xx..x...x.",
    ]


@pytest.mark.parametrize("labels", [{}, {"task": "T1"}, {"sex": "", "age": "unknown"}])
def test_prompt_of_unknown_person_is_unchanged(words, labels):
    assert set(texts(words(labels=labels))) == {PLAIN}


@pytest.mark.parametrize(
    ("recipe", "metadata", "source", "says"),
    [
        ("affect-vlm", "auto", "label", True),
        ("affect-vlm", "off", "label", False),
        ("smile-vlm", "auto", "label", False),
        ("smile-vlm", "on", "geometry", True),
        ("facet-vlm", "on", "label", True),
        ("smile-vlm", "auto", "pseudo", False),
        ("supervised", "auto", "label", False),
    ],
)
def test_metadata_prompts_follow_option_and_recipe(recipe, metadata, source, says):
    assert uses_metadata_prompts(TrainConfig(shards="s", out="o", recipe=recipe, metadata=metadata), source) is says


@pytest.mark.parametrize(
    ("recipe", "source"), [("smile-vlm", "pseudo"), ("smile-vlm", "none"), ("supervised", "label")]
)
def test_metadata_without_shard_prompts_is_refused(recipe, source):
    with pytest.raises(UsageError, match="metadata on"):
        uses_metadata_prompts(TrainConfig(shards="s", out="o", recipe=recipe, metadata="on"), source)


@pytest.mark.parametrize("recipe", ["smile-vlm", "affect-vlm"])
def test_without_metadata_prompts_are_those_of_the_shards(words, recipe):
    for epoch in range(3):
        assert set(texts(words(recipe, metadata=False), epoch=epoch)) == {PLAIN}


CUT = "strongly raised inner brows, strongly raised outer brows, brows strongly lowered and drawn together, " * 2


@pytest.mark.parametrize("source", ["au", "geometry", "label"])
def test_captions_that_the_text_tower_cuts_to_equal_tokens_are_one_concept(dataset, source):
    captions = [f"{CUT}jaw dropped", f"{CUT}a blink", f"a blink, {CUT}", "a blink", "A blink"]
    targets = TextTargets(source, model("smile-vlm"), dataset, rows(KEYS[:5], {}), 0, metadata=False)
    given = replace(batch(KEYS[:5]), texts=captions, concepts=captions)
    tokens, ids, _ = targets.encode(given, 0, torch.device("cpu"))
    assert torch.equal(tokens[0], tokens[1])
    same = (ids[:, None] == ids[None, :]).tolist()
    equal = (tokens[:, None] == tokens[None, :]).all(dim=2)
    assert same == (equal if source != "label" else torch.eye(5, dtype=torch.bool)).tolist()


def test_concept_id_is_of_the_expression_alone(words):
    _, concept_ids, _ = words().encode(batch(), 0, torch.device("cpu"))
    assert concept_ids.tolist() == [concept_id("HA")] * len(KEYS)
