"""The loss `crit`: its value, its false captions, where it is refused, and runs with and without it."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from helpers import small_runs, tiny_arch
from helpers.tiny_models import WITH_CRIT, make_model, texts_for
from smile_pipe.model.config import RecipeConfig
from smile_pipe.model.encoder import Embeddings
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.captions.geometry import POPULATION, describe
from smile_pipe.pipeline.data.dataset import Batch
from smile_pipe.pipeline.train.text_targets import TextTargets
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import Caption

NUM, VIEWS, DIM = 5, 3, 4


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path, WITH_CRIT)


def embeddings(false_equals_true=False):
    generator = torch.Generator().manual_seed(3)
    views, fused, attention, text = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((NUM, VIEWS, DIM), (NUM, DIM), (NUM, VIEWS), (NUM, 2, DIM))
    )
    if false_equals_true:
        text[:, 1] = text[:, 0]
    return Embeddings(views, fused.requires_grad_(), attention.softmax(dim=1), text.requires_grad_())


def losses(model, given):
    return model.losses(given, torch.arange(NUM), torch.arange(NUM))


def test_loss_equals_a_plain_loop(model):
    given = embeddings()
    scale, total = model.scale.item(), 0.0
    for face, (true, false) in zip(given.fused, given.text, strict=True):
        margin = scale * (F.cosine_similarity(face, true, 0) - F.cosine_similarity(face, false, 0)).item()
        total += math.log(1 + math.exp(-margin)) / NUM
    found = losses(model, given)
    assert found["crit"].item() == pytest.approx(total, rel=1e-9)
    weights = model.config.weights
    assert weights["crit"] == 0.7
    assert found["total"].item() == pytest.approx(sum(weights[name] * found[name].item() for name in weights))


def test_a_text_without_a_false_one_has_no_gradient(model):
    given = embeddings(false_equals_true=True)
    found = losses(model, given)["crit"]
    assert found.item() == pytest.approx(math.log(2))
    by_face, by_text = torch.autograd.grad(found, [given.fused, given.text])
    assert by_face.abs().max() == 0
    # Of the same text twice: the two gradients cancel in the tower.
    torch.testing.assert_close(by_text[:, 0], -by_text[:, 1])


def test_other_losses_read_the_true_texts_only(model):
    given = embeddings()
    alone = Embeddings(given.views, given.fused, given.attention, given.text[:, 0])
    without = make_model_without(model)
    found, expected = losses(model, given), losses(without, alone)
    assert set(found) == {*expected, "crit"}
    for name in without.config.weights:
        torch.testing.assert_close(found[name], expected[name])


def make_model_without(model):
    config = model.config.model_copy(update={"crit": 0.0})
    other = type(model)(config).double()
    other.load_state_dict(model.state_dict())
    return other


def test_texts_are_embedded_in_the_shape_of_their_tokens(model):
    _, _, tokens, _ = tiny_arch.faces(NUM)
    pairs = texts_for(model, tokens)
    with torch.no_grad():
        torch.testing.assert_close(model.embed_text(pairs)[:, 0], model.embed_text(tokens))
        torch.testing.assert_close(model.embed_text(pairs)[:, 1], model.embed_text(tokens.flip(-1)))


REST = dict.fromkeys(POPULATION, 0.0)
SMILE = REST | {"lip_corner_height": 9.0, "mouth_width": 2.0, "lower_lid_height": 1.0}


MANIFEST = SimpleNamespace(expressions=("HA",), prompts={"HA": ("a",)}, text_source="geometry")
DATASET = SimpleNamespace(shards=SimpleNamespace(manifest=MANIFEST))


def test_tokens_hold_true_and_false_captions_that_change_with_the_epoch():
    nothing, captions = torch.empty(0), [Caption(source="geometry", reference="neutral", numbers=SMILE)] * 20
    texts, keys = [describe(dict(SMILE), REST).text] * 19 + ["a happy face"], [f"k{n}" for n in range(20)]
    batch = Batch(nothing, PackedFrames(nothing, nothing), texts, texts, keys, ["F1"] * 20, captions)
    targets = TextTargets("geometry", build_model(RecipeConfig(crit=0.5)), DATASET, [], 0)
    tokens, _, _ = targets.encode(batch, 0, torch.device("cpu"))
    assert tokens.shape[:2] == (20, 2)
    assert torch.equal(tokens[:, 0], targets.tokenizer(batch.texts))
    is_changed = (tokens[:, 0] != tokens[:, 1]).any(dim=1)
    assert is_changed.tolist() == [True] * 19 + [False]
    assert len({str(row.tolist()) for row in tokens[:, 1]}) > 5
    assert torch.equal(targets.encode(batch, 0, torch.device("cpu"))[0], tokens)
    assert not torch.equal(targets.encode(batch, 1, torch.device("cpu"))[0], tokens)


def test_it_needs_measured_captions(tmp_path):
    shards = small_runs.write_shards(tmp_path)
    for options in ({}, {"text": "pseudo"}, {"text": "none"}):
        with pytest.raises(UsageError, match="needs measured captions as text") as caught:
            small_runs.learn(shards, tmp_path / "run", crit=0.5, **options)
        assert caught.value.field == "crit"


def test_it_is_in_fingerprints_only_if_it_is_used(tmp_path):
    config = small_runs.config(tmp_path, tmp_path / "run")
    assert "crit" not in config.for_fingerprint()
    assert config.model_copy(update={"crit": 0.5}).for_fingerprint()["crit"] == 0.5
