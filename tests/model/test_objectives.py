"""Recipes: embeddings of a batch, and the properties of their loss terms."""

import math

import pytest
import torch
from torch import Tensor

from helpers import tiny_arch
from helpers.one_rank import on_one_rank
from smile_pipe.model import losses as L
from smile_pipe.model.config import RECIPES, RecipeConfig
from smile_pipe.model.encoder import Embeddings
from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.model.packing import PackedFrames
from smile_pipe.model.recipes import build_model, check_recipe


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RecipeConfig:
    return RecipeConfig(arch=tiny_arch.register(tmp_path_factory.mktemp("arch")), joint_dim=5)


def make_model(config: RecipeConfig, **changes: object) -> ContrastiveModel:
    torch.manual_seed(0)
    return build_model(config.model_copy(update=changes))


def losses_of(model: ContrastiveModel, num: int = 6, text: bool = True) -> dict[str, Tensor]:
    views, directions, tokens, concepts = tiny_arch.faces(num)
    embeddings = model(views, directions, tokens if text else None)
    return model.losses(embeddings, concepts if text else None, subjects(num))


def subjects(num: int) -> Tensor:
    """Ids of subjects with two samples each."""
    return torch.arange(num) // 2


def test_shapes_of_embeddings(config):
    model = make_model(config)
    views, directions, tokens, _ = tiny_arch.faces(4, num_views=3)
    found = model(views, directions, tokens)
    assert (found.views.shape, found.fused.shape, found.attention.shape) == ((4, 3, 5), (4, 5), (4, 3))
    assert found.text.shape == (4, 5)


def test_views_are_embedded_independently_and_in_order(config):
    model = make_model(config)
    views, directions, _, _ = tiny_arch.faces(4, num_views=3)
    together, _, _ = model.embed_faces(views, directions)
    for v in range(3):
        alone, _, _ = model.embed_faces(views[:, v : v + 1], directions[v : v + 1])
        torch.testing.assert_close(alone[:, 0], together[:, v])


def test_model_accepts_any_rig(config):
    model = make_model(config)
    for num_views in (1, 2, 9):
        views, directions, _, _ = tiny_arch.faces(2, num_views)
        assert model.embed_faces(views, directions)[1].shape == (2, 5)


def test_sequence_is_pooled_without_changing_scans_of_the_batch(config):
    model = make_model(config)
    views, directions, _, _ = tiny_arch.faces(5, num_views=3)
    frames = PackedFrames(torch.tensor([1, 3, 1]), torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0]))
    found, fused, attention = model.embed_faces(views, directions, frames)
    assert (found.shape, fused.shape, attention.shape) == ((3, 3, 5), (3, 5), (3, 3))
    scans, _, _ = model.embed_faces(views, directions)
    assert torch.equal(found[0], scans[0]) and torch.equal(found[2], scans[4])
    torch.testing.assert_close(found[1], scans[1:4].mean(dim=0))


def test_initial_weights_do_not_depend_on_temporal_pooling(config):
    drawn = []
    for kind in ("attention", "mean"):
        model = make_model(config, temporal_pooling=kind)
        weights = {name: p for name, p in model.named_parameters() if not name.startswith("temporal.")}
        drawn.append((weights, torch.rand(4)))
    (weights, after), (others, after_others) = drawn
    assert weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    assert torch.equal(after, after_others)
    # Parameters are listed in this order, and sums over all of them are taken in it.
    names = [name for name, _ in make_model(config).named_parameters()]
    assert {name.startswith("temporal.") for name in names[-len(names) + len(weights) :]} == {True}


def test_padding_of_prompts_is_not_encoded(config, monkeypatch):
    model, seen = make_model(config), []
    encode = model.towers.encode_text
    monkeypatch.setattr(model.towers, "encode_text", lambda given: seen.append(given) or encode(given))
    end = tiny_arch.NUM_WORDS - 1
    model.embed_text(torch.tensor([[1, 2, end, 0, 0, 0], [1, end, 0, 0, 0, 0]]))
    assert seen[0].tolist() == [[1, 2, end], [1, end, 0]]


def test_equal_prompts_are_encoded_once(config, monkeypatch):
    model = make_model(config)
    encode, seen = model.towers.encode_text, []
    monkeypatch.setattr(model.towers, "encode_text", lambda tokens: seen.append(len(tokens)) or encode(tokens))
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1]])[[1, 0, 1, 1, 0]]
    found = model.embed_text(tokens)
    assert seen == [2]
    for row, token in zip(found, tokens, strict=True):
        torch.testing.assert_close(row, model.project_text(encode(token[None]))[0])


class TestLosses:
    def test_terms_with_text(self, config):
        assert list(losses_of(make_model(config))) == ["mv", "vl", "cm", "total"]

    def test_terms_without_text(self, config):
        found = losses_of(make_model(config), text=False)
        assert list(found) == ["mv", "total"]
        torch.testing.assert_close(found["total"], 0.1 * found["mv"])

    def test_terms_equal_the_formulas_and_total_is_their_weighted_sum(self, config):
        model = make_model(config, off_diagonal_weight=0.3)
        views, directions, tokens, concepts = tiny_arch.faces(6)
        e = model(views, directions, tokens)
        mv = on_one_rank(L.multiview_decorrelation)(e.views, 0.3)
        cm = on_one_rank(L.cross_modal_redundancy)(e.fused, e.text)
        vl = on_one_rank(L.vision_language_contrast)(e.fused, e.views, e.text, concepts, torch.tensor(1 / 0.07))
        found = model.losses(e, concepts, subjects(6))
        for name, expected in {"mv": mv, "vl": vl, "cm": cm, "total": 0.1 * mv + vl + 0.01 * cm}.items():
            torch.testing.assert_close(found[name], expected)

    def test_losses_are_in_single_precision(self, config):
        half = Embeddings(*(torch.randn(4, *s).bfloat16() for s in ((3, 5), (5,), (3,), (5,))))
        assert all(
            loss.dtype == torch.float32
            for loss in make_model(config).losses(half, torch.arange(4), subjects(4)).values()
        )

    @pytest.mark.parametrize("arch", ["smile-tiny", tiny_arch.NAME])
    def test_total_is_bit_identical_for_a_seed(self, config, arch):
        size = 96 if arch == "smile-tiny" else tiny_arch.IMAGE_SIZE
        views, directions, _, concepts = tiny_arch.faces(4)
        views = torch.nn.functional.interpolate(views.flatten(0, 1), size=size).unflatten(0, (4, 3))
        tokens = torch.ones(4, 32 if arch == "smile-tiny" else tiny_arch.CONTEXT, dtype=torch.int64).cumsum(0)
        totals = []
        for _ in range(2):
            model = make_model(config, arch=arch)
            totals.append(model.losses(model(views, directions, tokens), concepts, subjects(4))["total"])
        assert torch.equal(*totals)

    def test_total_reaches_every_trainable_weight(self, config):
        model = make_model(config)
        losses_of(model)["total"].backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


class TestTemperature:
    def test_initial_value(self, config):
        assert 1 / make_model(config, temperature=0.2).scale.item() == pytest.approx(0.2)

    def test_lower_bound(self, config):
        model = make_model(config, min_temperature=0.05)
        with torch.no_grad():
            model.log_scale.fill_(99.0)
        assert 1 / model.scale.item() == pytest.approx(0.05)
        assert all(loss.isfinite() for loss in losses_of(model).values())

    def test_temperature_can_leave_its_bound(self, config):
        model = make_model(config, min_temperature=0.05)
        with torch.no_grad():
            model.log_scale.fill_(-math.log(0.05) + 1)
        # Texts that contradict their images ask for a higher temperature.
        views = torch.eye(5)[:4, None].expand(4, 3, 5)
        wrong = Embeddings(views, views[:, 0], torch.full((4, 3), 1 / 3), views[:, 0].roll(1, dims=0))
        model.losses(wrong, torch.arange(4), subjects(4))["total"].backward()
        torch.optim.SGD([model.log_scale], lr=1e-2).step()
        assert 1 / model.scale.item() > 0.0505


class TestFamily:
    """Properties of every recipe."""

    @pytest.fixture(params=[name for name in RECIPES])
    def named(self, request, config) -> RecipeConfig:
        return config.model_copy(update={"name": request.param, "num_classes": 4})

    def test_terms_have_weights_and_total_is_their_weighted_sum(self, named):
        found = losses_of(make_model(named))
        weights = RECIPES[named.name].weights
        assert list(found) == [*weights, "total"]
        assert all(weight > 0 for weight in weights.values())
        torch.testing.assert_close(found["total"], sum(weights[name] * found[name] for name in weights))

    def test_dropped_term_is_absent(self, named):
        weights = RECIPES[named.name].weights
        for name in weights if len(weights) > 1 else ():
            found = losses_of(make_model(named, without=(name,)))
            rest = weights.keys() - {name}
            assert found.keys() == {*rest, "total"}
            torch.testing.assert_close(found["total"], sum(weights[other] * found[other] for other in rest))

    def test_total_reaches_exactly_the_weights_that_are_not_frozen(self, named):
        model = make_model(named)
        losses_of(model)["total"].backward()
        reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        model = make_model(named)
        model.freeze_unreached(with_text=True, with_sequences=True)
        learns = {name for name, p in model.named_parameters() if p.requires_grad}
        # These start at zero, or feed only into weights that start at zero.
        behind_zero = {
            "temporal.from_embedding",
            "temporal.from_time",
            "aggregation.attention.in_proj",
            "aggregation.norm",
        }
        behind_zero |= {"aggregation.from_direction", "temporal.gain", "temporal.score"}
        assert reached <= learns
        assert [name for name in learns - reached if not name.startswith(tuple(behind_zero))] == []

    def test_spec_matches_the_model(self, named):
        model, about = make_model(named), RECIPES[named.name]
        assert tuple(model.used_terms(with_text=False)) == about.text_free
        reads_text = {name for name, term in model.used_terms(with_text=True).items() if "text" in term.needs}
        assert bool(reads_text) == (about.text != "none" and model.reads_text)

    def test_temporal_pooling_is_frozen_without_sequences(self, named):
        model = make_model(named)
        model.freeze_unreached(with_text=True, with_sequences=False)
        assert not any(p.requires_grad for p in model.temporal.parameters())

    def test_a_few_steps_reduce_the_total(self, named):
        model = make_model(named)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        totals = []
        for _ in range(40):
            loss = losses_of(model, 8)["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            totals.append(loss.item())
        assert totals[-1] < 0.9 * totals[0]

    def test_learned_scalars_are_finite(self, named):
        assert all(math.isfinite(value) for value in make_model(named).learned_scalars().values())


def test_aggregation_starts_as_identity_and_mixes_views_later(config):
    model = make_model(config, name="facet-vlm")
    views, directions, _, _ = tiny_arch.faces(4, num_views=3)
    alone = make_model(config).embed_faces(views, directions)[0]
    torch.testing.assert_close(model.embed_faces(views, directions)[0], alone)
    torch.nn.init.normal_(model.aggregation.attention.out_proj.weight)
    changed = views.clone()
    changed[:, 2] = 0
    before, after = (model.embed_faces(v, directions)[0][:, 0] for v in (views, changed))
    assert not torch.allclose(before, after)


class TestMargin:
    def test_margin_starts_at_its_value_and_stays_within_bounds(self, config):
        model = make_model(config, name="affect-vlm", margin=0.2, margin_bounds=(0.1, 0.5))
        assert model.margin.item() == pytest.approx(0.2)
        for value, bound in ((-50.0, 0.1), (50.0, 0.5)):
            with torch.no_grad():
                model.raw_margin.fill_(value)
            assert model.margin.item() == pytest.approx(bound)

    def test_terms_move_the_margin_in_opposite_directions(self, config):
        model = make_model(config, name="affect-vlm")
        signs = []
        for name in ("mc", "mt"):
            model.zero_grad()
            losses_of(model, 8)[name].backward()
            signs.append(model.raw_margin.grad.sign().item())
        assert signs == [-1, 1]


def test_supervised_needs_classes(config):
    with pytest.raises(ValueError, match="at least two classes, and the samples have 1"):
        make_model(config, name="supervised", num_classes=1)


def test_invalid_dropped_losses_are_refused():
    with pytest.raises(ValueError, match="smile-vlm has no loss 'ce'; its losses: mv, vl, cm"):
        check_recipe("smile-vlm", ("ce",))
    with pytest.raises(ValueError, match="barlow without mv has no loss left"):
        check_recipe("barlow", ("mv",))


def test_unknown_recipe_gets_a_suggestion(config):
    with pytest.raises(ValueError, match="unknown recipe 'smile-vlmm'; did you mean smile-vlm"):
        build_model(config.model_copy(update={"name": "smile-vlmm"}))
    with pytest.raises(ValueError, match="choose one of: smile-vlm"):
        check_recipe("0000")


def test_misspelt_constant_is_refused():
    with pytest.raises(ValueError, match="weight_ml"):
        RecipeConfig(weight_ml=1.0)
