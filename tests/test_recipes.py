"""A recipe: what it makes of a batch, which losses it names, and what it promises about them."""

import math

import pytest
import tiny_arch
import torch
from torch import Tensor

from model.config import RecipeConfig
from model.losses import cross_modal_redundancy, multiview_decorrelation, vision_language_contrast
from model.moments import Moments
from model.recipes import Embeddings, SmileVLM, build_model, check_recipe


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> RecipeConfig:
    return RecipeConfig(arch=tiny_arch.register(tmp_path_factory.mktemp("arch")), joint_dim=5)


def make_model(config: RecipeConfig, **changes: object) -> SmileVLM:
    torch.manual_seed(0)
    return build_model(config.model_copy(update=changes))


def losses_of(model: SmileVLM, num: int = 6, text: bool = True) -> dict[str, Tensor]:
    views, directions, tokens, concepts = tiny_arch.faces(num)
    return model.losses(model(views, directions, tokens if text else None), concepts)


def test_faces_and_prompts_become_embeddings_in_one_space(config):
    model = make_model(config)
    views, directions, tokens, _ = tiny_arch.faces(4, num_views=3)
    found = model(views, directions, tokens)
    assert (found.views.shape, found.fused.shape, found.attention.shape) == ((4, 3, 5), (4, 5), (4, 3))
    assert found.text.shape == (4, 5)


def test_a_view_is_embedded_by_itself_and_stays_in_its_place(config):
    model = make_model(config)
    views, directions, _, _ = tiny_arch.faces(4, num_views=3)
    together, _, _ = model.embed_faces(views, directions)
    for v in range(3):
        alone, _, _ = model.embed_faces(views[:, v : v + 1], directions[v : v + 1])
        torch.testing.assert_close(alone[:, 0], together[:, v])


def test_a_model_takes_any_rig(config):
    model = make_model(config)
    for num_views in (1, 2, 9):
        views, directions, _, _ = tiny_arch.faces(2, num_views)
        assert model.embed_faces(views, directions)[1].shape == (2, 5)


def test_a_sequence_becomes_one_embedding_a_view_and_does_not_touch_the_scan_beside_it(config):
    model = make_model(config)
    views, directions, _, _ = tiny_arch.faces(5, num_views=3)
    moments = Moments(torch.tensor([1, 3, 1]), torch.tensor([0.0, 0.0, 0.5, 1.0, 0.0]))
    found, fused, attention = model.embed_faces(views, directions, moments)
    assert (found.shape, fused.shape, attention.shape) == ((3, 3, 5), (3, 5), (3, 3))
    scans, _, _ = model.embed_faces(views, directions)
    assert torch.equal(found[0], scans[0]) and torch.equal(found[2], scans[4])
    torch.testing.assert_close(found[1], scans[1:4].mean(dim=0))


def test_what_is_drawn_for_scans_does_not_depend_on_how_sequences_are_pooled(config):
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
    def test_with_text_there_are_three_and_their_sum(self, config):
        assert list(losses_of(make_model(config))) == ["mv", "vl", "cm", "total"]

    def test_without_text_there_is_one(self, config):
        found = losses_of(make_model(config, weight_mv=0.25), text=False)
        assert list(found) == ["mv", "total"]
        torch.testing.assert_close(found["total"], 0.25 * found["mv"])

    def test_terms_are_those_of_the_formulas_and_the_total_their_weighted_sum(self, config):
        model = make_model(config, weight_mv=2.0, weight_vl=3.0, weight_cm=5.0, off_diagonal_weight=0.3)
        views, directions, tokens, concepts = tiny_arch.faces(6)
        e = model(views, directions, tokens)
        mv, cm = multiview_decorrelation(e.views, 0.3), cross_modal_redundancy(e.fused, e.text)
        vl = vision_language_contrast(e.fused, e.views, e.text, concepts, torch.tensor(1 / 0.07))
        found = model.losses(e, concepts)
        for name, expected in {"mv": mv, "vl": vl, "cm": cm, "total": 2 * mv + 3 * vl + 5 * cm}.items():
            torch.testing.assert_close(found[name], expected)

    def test_they_are_computed_in_single_precision_whatever_the_towers_compute_in(self, config):
        half = Embeddings(*(torch.randn(4, *s).bfloat16() for s in ((3, 5), (5,), (3,), (5,))))
        assert all(loss.dtype == torch.float32 for loss in make_model(config).losses(half, torch.arange(4)).values())

    @pytest.mark.parametrize("arch", ["smile-tiny", tiny_arch.NAME])
    def test_a_seed_gives_the_same_total_to_the_last_bit(self, config, arch):
        size = 96 if arch == "smile-tiny" else tiny_arch.IMAGE_SIZE
        views, directions, _, concepts = tiny_arch.faces(4)
        views = torch.nn.functional.interpolate(views.flatten(0, 1), size=size).unflatten(0, (4, 3))
        tokens = torch.ones(4, 32 if arch == "smile-tiny" else tiny_arch.CONTEXT, dtype=torch.int64).cumsum(0)
        totals = []
        for _ in range(2):
            model = make_model(config, arch=arch)
            totals.append(model.losses(model(views, directions, tokens), concepts)["total"])
        assert torch.equal(*totals)

    def test_the_total_reaches_every_weight_that_learns(self, config):
        model = make_model(config)
        losses_of(model)["total"].backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []

    def test_a_few_steps_bring_it_down(self, config):
        model = make_model(config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        totals = []
        for _ in range(30):
            loss = losses_of(model, 8)["total"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            totals.append(loss.item())
        assert totals[-1] < 0.7 * totals[0]


class TestTemperature:
    def test_it_begins_where_the_config_says(self, config):
        assert 1 / make_model(config, temperature=0.2).scale.item() == pytest.approx(0.2)

    def test_it_never_falls_below_its_bound(self, config):
        model = make_model(config, min_temperature=0.05)
        with torch.no_grad():
            model.log_scale.fill_(99.0)
        assert 1 / model.scale.item() == pytest.approx(0.05)
        assert all(loss.isfinite() for loss in losses_of(model).values())

    def test_it_can_leave_its_bound_again(self, config):
        model = make_model(config, min_temperature=0.05)
        with torch.no_grad():
            model.log_scale.fill_(-math.log(0.05) + 1)
        # Texts that contradict their images ask for a higher temperature.
        views = torch.eye(5)[:4, None].expand(4, 3, 5)
        wrong = Embeddings(views, views[:, 0], torch.full((4, 3), 1 / 3), views[:, 0].roll(1, dims=0))
        model.losses(wrong, torch.arange(4))["total"].backward()
        torch.optim.SGD([model.log_scale], lr=1e-2).step()
        assert 1 / model.scale.item() > 0.0505


def test_an_unknown_recipe_gets_a_suggestion(config):
    with pytest.raises(ValueError, match="unknown recipe 'smile-vlmm'; did you mean smile-vlm"):
        build_model(config.model_copy(update={"name": "smile-vlmm"}))
    with pytest.raises(ValueError, match="choose one of: smile-vlm"):
        check_recipe("0000")


def test_a_misspelt_constant_is_refused():
    with pytest.raises(ValueError, match="weight_ml"):
        RecipeConfig(weight_ml=1.0)
