"""Towers: which architectures there are, whose weights they get, and what they do to an image."""

import json
import pickle
from pathlib import Path

import open_clip
import pytest
import torch

from helpers import tiny_arch
from smile_pipe.model.towers import Towers, build_tokenizer, check_arch, is_hub_model, supports_activation_checkpointing


@pytest.fixture(scope="module")
def arch(tmp_path_factory) -> str:
    return tiny_arch.register(tmp_path_factory.mktemp("arch"))


def test_smile_tiny_is_known_to_open_clip_once_it_is_asked_for():
    assert check_arch("smile-tiny")["embed_dim"] == 128
    assert "smile-tiny" in open_clip.list_models()


def test_smile_tiny_embeds_small_images_and_short_texts_in_one_space():
    torch.manual_seed(0)
    towers = Towers("smile-tiny").eval()
    tokens = build_tokenizer("smile-tiny")(["a happy face", "a sad face"])
    assert (towers.image_size, towers.embed_dim, tuple(tokens.shape)) == (96, 128, (2, 32))
    with torch.inference_mode():
        images, texts = towers.encode_images(torch.rand(2, 3, 96, 96)), towers.encode_text(tokens)
    assert images.shape == texts.shape == (2, 128)


@pytest.mark.parametrize(("wrong", "meant"), [("smile-tyni", "smile-tiny"), ("ViT-B32", "ViT-B-32")])
@pytest.mark.parametrize("ask", [check_arch, Towers])
def test_an_unknown_architecture_gets_a_suggestion(ask, wrong, meant):
    with pytest.raises(ValueError, match=rf"unknown architecture '{wrong}'; did you mean .*{meant}"):
        ask(wrong)


def test_an_architecture_like_no_other_gets_a_way_to_find_one():
    with pytest.raises(ValueError, match="list_models"):
        check_arch("0000")


@pytest.mark.parametrize("ask", [check_arch, Towers])
def test_an_unknown_tag_gets_those_that_there_are(ask, arch):
    with pytest.raises(ValueError, match=r"ViT-B-32 has no pretrained weights 'nobody'; .*laion2b_s34b_b79k"):
        ask("ViT-B-32", "nobody")
    with pytest.raises(ValueError, match=r"weights 'absent\.pt'; give a file or one of: none"):
        ask(arch, "absent.pt")


@pytest.mark.parametrize("ask", [check_arch, Towers])
@pytest.mark.parametrize(("arch", "tag"), [("ViT-B-32", "openai"), ("ViT-L-14", "metaclip_400m"), ("RN50", "cc12m")])
def test_weights_for_another_activation_are_refused_naming_the_architecture_that_has_it(ask, arch, tag):
    with pytest.raises(ValueError, match=f"'{tag}' are for QuickGELU; use the architecture {arch}-quickgelu$"):
        ask(arch, tag)
    assert check_arch(f"{arch}-quickgelu", tag)["quick_gelu"]


def test_weights_for_the_usual_activation_are_let_through():
    assert check_arch("ViT-B-32", "laion2b_s34b_b79k")["embed_dim"] == 512


class TestHub:
    """Models on the hub; no test asks for one."""

    @pytest.fixture
    def asked(self, monkeypatch, tmp_path):
        """What is asked of the hub, which answers with a configuration."""
        asked: list[tuple[str, str | None]] = []

        def download(model_id: str, filename: str | None = None, **_: object) -> str:
            asked.append((model_id, filename))
            if filename is None:
                raise FileNotFoundError("no weights")
            (tmp_path / "config.json").write_text(json.dumps({"model_cfg": tiny_arch.CONFIG}))
            return str(tmp_path / "config.json")

        monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", download)
        return asked

    def test_a_model_is_asked_for_by_its_name_there(self, asked):
        assert check_arch("hf-hub:people/faces") == tiny_arch.CONFIG
        assert asked == [("people/faces", "open_clip_config.json")]

    def test_it_becomes_towers(self, asked):
        towers = Towers("hf-hub:people/faces")
        assert (towers.image_size, towers.embed_dim) == (8, 8) and ("people/faces", None) in asked

    @pytest.mark.parametrize("name", ["hf-hub:people/faces", "hf-hub:"])
    def test_one_that_cannot_be_had_is_said_in_a_line(self, name, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            ValueError, match=f"^{name} cannot be loaded from the Hugging Face hub: .*; check its name and .*"
        ):
            check_arch(name)

    def test_it_brings_its_own_weights(self, asked):
        with pytest.raises(ValueError, match="includes its own weights: it cannot use 'openai'; leave these out"):
            check_arch("hf-hub:people/faces", "openai")
        assert is_hub_model("hf-hub:people/faces") and not is_hub_model("ViT-B-32") and asked == []


def test_compiled_images_are_embedded_alike_whatever_their_number_and_names_stay(arch):
    torch.manual_seed(0)
    towers, images = Towers(arch), torch.rand(5, 3, 8, 8)
    names, expected = list(towers.state_dict()), towers.encode_images(images)
    torch.compiler.reset()
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    towers.compile_image_tower(backend)
    for number in (5, 3, 4):
        torch.testing.assert_close(towers.encode_images(images[:number]), expected[:number])
    # Once for all sizes.
    assert len(compiled) == 1 and list(towers.state_dict()) == names
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "can"), [("ViT-B-32", True), ("smile-tiny", False), ("RN50", False), ("ViT-B-16-SigLIP", True)]
)
def test_resnets_alone_cannot_compute_activations_again(name, can):
    assert supports_activation_checkpointing(check_arch(name)) == can


def test_activations_that_are_computed_again_give_the_same_gradients(arch):
    views, _, tokens, _ = tiny_arch.faces(3)
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        towers = Towers(arch)
        if again:
            towers.checkpoint_activations()
            assert towers.clip.visual.transformer.grad_checkpointing and towers.clip.transformer.grad_checkpointing
        (towers.encode_images(views[:, 0]).square().sum() + towers.encode_text(tokens).square().sum()).backward()
        found.append({name: p.grad for name, p in towers.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][name], found[1][name]) for name in found[0])


def test_a_local_file_lends_its_weights(arch, tmp_path):
    torch.manual_seed(1)
    source = Towers(arch)
    torch.save(source.clip.state_dict(), tmp_path / "weights.pt")
    torch.manual_seed(2)
    random, loaded = Towers(arch), Towers(arch, str(tmp_path / "weights.pt"))
    images, tokens = torch.rand(2, 3, 8, 8), torch.randint(1, tiny_arch.NUM_WORDS, (2, tiny_arch.CONTEXT))
    for name in ("encode_images", "encode_text"):
        inputs = images if name == "encode_images" else tokens
        expected, found, other = (getattr(towers, name)(inputs) for towers in (source, loaded, random))
        assert torch.equal(found, expected)
        assert not torch.allclose(other, expected)


class _Trap:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_of_weights_runs_no_code(arch, tmp_path):
    torch.save({"weight": _Trap(tmp_path / "sprung")}, tmp_path / "weights.pt")
    with pytest.raises(pickle.UnpicklingError):
        Towers(arch, str(tmp_path / "weights.pt"))
    assert not (tmp_path / "sprung").exists()


def test_images_are_normalised_as_the_weights_expect(arch):
    towers = Towers(arch)
    towers.mean.fill_(0.25)
    towers.std.fill_(0.5)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(towers.encode_images(images), towers.clip.encode_image((images - 0.25) / 0.5))


def test_without_weights_the_normalisation_is_clips(arch):
    towers = Towers(arch)
    assert towers.mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert towers.std.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_STD)


def test_the_normalisation_travels_with_the_weights(arch):
    """Another tag's weights may expect other colours; a checkpoint is loaded without that tag."""
    source, target = Towers(arch), Towers(arch)
    source.mean.fill_(0.5)
    source.std.fill_(0.5)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.mean, source.mean) and torch.equal(target.std, source.std)


@pytest.mark.parametrize("changes", [{}, {"init_logit_bias": -10.0}])
def test_every_weight_that_learns_is_reached_by_an_embedding(changes, tmp_path):
    """Data-parallel training waits for the gradient of every weight that asks for one."""
    towers = Towers(tiny_arch.register(tmp_path, f"tiny-test-vit-{len(changes)}", **changes))
    views, _, tokens, _ = tiny_arch.faces(3)
    (towers.encode_images(views[:, 0]).square().sum() + towers.encode_text(tokens).square().sum()).backward()
    assert [name for name, p in towers.named_parameters() if p.requires_grad and p.grad is None] == []
