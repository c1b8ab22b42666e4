"""Towers: architectures, pretrained weights, and normalisation of images."""

import json
import pickle
from pathlib import Path

import open_clip
import pytest
import torch

from helpers import tiny_arch
from smile_pipe.model.config import is_hub_model
from smile_pipe.model.towers import (
    OWN_ARCHS,
    Towers,
    build_tokenizer,
    check_arch,
    supports_activation_checkpointing,
)


@pytest.fixture(scope="module")
def arch(tmp_path_factory) -> str:
    return tiny_arch.register(tmp_path_factory.mktemp("arch"))


@pytest.mark.parametrize("name", OWN_ARCHS)
def test_own_architectures_are_registered_on_first_use(name):
    assert check_arch(name)["embed_dim"] == 128
    assert name in open_clip.list_models()


@pytest.mark.parametrize("name", OWN_ARCHS)
def test_own_architectures_embed_images_and_texts(name):
    torch.manual_seed(0)
    towers = Towers(name).eval()
    tokens = build_tokenizer(name)(["a happy face", "a sad face"])
    assert (towers.image_size, towers.embed_dim, tuple(tokens.shape)) == (96, 128, (2, 32))
    with torch.inference_mode():
        images, texts = towers.encode_images(torch.rand(2, 3, 96, 96)), towers.encode_text(tokens)
    assert images.shape == texts.shape == (2, 128)


@pytest.mark.parametrize(("wrong", "meant"), [("smile-tyni", "smile-tiny"), ("ViT-B32", "ViT-B-32")])
@pytest.mark.parametrize("ask", [check_arch, Towers])
def test_unknown_architecture_gets_a_suggestion(ask, wrong, meant):
    with pytest.raises(ValueError, match=rf"unknown architecture '{wrong}'; did you mean .*{meant}"):
        ask(wrong)


def test_unknown_architecture_without_similar_name_gets_a_hint():
    with pytest.raises(ValueError, match="list_models"):
        check_arch("0000")


@pytest.mark.parametrize("ask", [check_arch, Towers])
def test_unknown_tag_lists_the_available_ones(ask, arch):
    with pytest.raises(ValueError, match=r"ViT-B-32 has no pretrained weights 'nobody'; .*laion2b_s34b_b79k"):
        ask("ViT-B-32", "nobody")
    with pytest.raises(ValueError, match=r"weights 'absent\.pt'; give a file or one of: none"):
        ask(arch, "absent.pt")


@pytest.mark.parametrize("ask", [check_arch, Towers])
@pytest.mark.parametrize(("arch", "tag"), [("ViT-B-32", "openai"), ("ViT-L-14", "metaclip_400m"), ("RN50", "cc12m")])
def test_weights_for_another_activation_are_refused_naming_the_right_architecture(ask, arch, tag):
    with pytest.raises(ValueError, match=f"'{tag}' are for QuickGELU; use the architecture {arch}-quickgelu$"):
        ask(arch, tag)
    assert check_arch(f"{arch}-quickgelu", tag)["quick_gelu"]


def test_weights_for_gelu_are_accepted():
    assert check_arch("ViT-B-32", "laion2b_s34b_b79k")["embed_dim"] == 512


class TestHub:
    """Models on the hub; no test accesses the network."""

    @pytest.fixture
    def asked(self, monkeypatch, tmp_path):
        """Requests to a fake hub, which answers with a configuration."""
        asked: list[tuple[str, str | None]] = []

        def download(model_id: str, filename: str | None = None, **_: object) -> str:
            asked.append((model_id, filename))
            if filename is None:
                raise FileNotFoundError("no weights")
            (tmp_path / "config.json").write_text(json.dumps({"model_cfg": tiny_arch.CONFIG}))
            return str(tmp_path / "config.json")

        monkeypatch.setattr("open_clip.factory.download_pretrained_from_hf", download)
        return asked

    def test_hub_model_is_requested_by_name(self, asked):
        assert check_arch("hf-hub:people/faces") == tiny_arch.CONFIG
        assert asked == [("people/faces", "open_clip_config.json")]

    def test_hub_model_becomes_towers(self, asked):
        towers = Towers("hf-hub:people/faces")
        assert (towers.image_size, towers.embed_dim) == (8, 8) and ("people/faces", None) in asked

    @pytest.mark.parametrize("name", ["hf-hub:people/faces", "hf-hub:"])
    def test_unavailable_hub_model_is_a_one_line_error(self, name, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(
            ValueError, match=f"^{name} cannot be loaded from the Hugging Face hub: .*; check its name and .*"
        ):
            check_arch(name)

    def test_hub_model_refuses_other_weights(self, asked):
        with pytest.raises(ValueError, match="includes its own weights: it cannot use 'openai'; leave these out"):
            check_arch("hf-hub:people/faces", "openai")
        assert is_hub_model("hf-hub:people/faces") and not is_hub_model("ViT-B-32") and asked == []


def test_compiled_tower_gives_equal_embeddings_and_weight_names(arch):
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
    ("name", "can"),
    [("ViT-B-32", True), ("smile-nano", False), ("smile-tiny", False), ("RN50", False), ("ViT-B-16-SigLIP", True)],
)
def test_towers_with_batch_norm_do_not_support_activation_checkpointing(name, can):
    assert supports_activation_checkpointing(check_arch(name)) == can


class TestShortTexts:
    @pytest.mark.parametrize("name", ["smile-nano", "tiny"])
    def test_positions_after_the_longest_text_are_dropped_and_change_nothing(self, name, arch):
        torch.manual_seed(0)
        towers = Towers(arch if name == "tiny" else name).eval()
        tokens = torch.randint(1, 15, (3, towers.clip.context_length))
        for row, length in zip(tokens, (2, 3, 1), strict=True):
            row[length:], row[length] = 0, towers.clip.vocab_size - 1
        assert towers.shorten(tokens).shape == (3, 4)
        with torch.inference_mode():
            torch.testing.assert_close(towers.encode_text(towers.shorten(tokens)), towers.clip.encode_text(tokens))

    def test_texts_of_full_length_are_kept(self, arch):
        towers = Towers(arch)
        tokens = torch.arange(2 * tiny_arch.CONTEXT).view(2, -1) % tiny_arch.NUM_WORDS
        tokens[0, -1] = tiny_arch.NUM_WORDS - 1
        assert towers.shorten(tokens).shape == tokens.shape

    def test_text_tower_that_attends_to_all_positions_gets_them_all(self, tmp_path):
        text = tiny_arch.CONFIG["text_cfg"] | {"no_causal_mask": True, "pool_type": "last"}
        name = tiny_arch.register(tmp_path, "attends-to-all", text_cfg=text, custom_text=True)
        tokens = torch.ones(2, tiny_arch.CONTEXT, dtype=torch.int64)
        assert torch.equal(Towers(name).shorten(tokens), tokens)


def test_weights_are_loaded_from_a_local_file(arch, tmp_path):
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
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_weights_file_runs_no_code(arch, tmp_path):
    torch.save({"weight": _Trap(tmp_path / "sprung")}, tmp_path / "weights.pt")
    with pytest.raises(pickle.UnpicklingError):
        Towers(arch, str(tmp_path / "weights.pt"))
    assert not (tmp_path / "sprung").exists()


def test_images_are_normalised_as_the_weights_require(arch):
    towers = Towers(arch)
    towers.mean.fill_(0.25)
    towers.std.fill_(0.5)
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(towers.encode_images(images), towers.clip.encode_image((images - 0.25) / 0.5))


def test_default_normalisation_is_that_of_clip(arch):
    towers = Towers(arch)
    assert towers.mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert towers.std.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_STD)


def test_normalisation_is_part_of_the_state(arch):
    """Weights of another tag may need another normalisation; a checkpoint is loaded without that tag."""
    source, target = Towers(arch), Towers(arch)
    source.mean.fill_(0.5)
    source.std.fill_(0.5)
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.mean, source.mean) and torch.equal(target.std, source.std)


@pytest.mark.parametrize("changes", [{}, {"init_logit_bias": -10.0}])
def test_every_trainable_weight_has_a_gradient(changes, tmp_path):
    """Data-parallel training needs a gradient for every trainable weight."""
    towers = Towers(tiny_arch.register(tmp_path, f"tiny-test-vit-{len(changes)}", **changes))
    views, _, tokens, _ = tiny_arch.faces(3)
    (towers.encode_images(views[:, 0]).square().sum() + towers.encode_text(tokens).square().sum()).backward()
    assert [name for name, p in towers.named_parameters() if p.requires_grad and p.grad is None] == []
