"""Towers: which architectures there are, whose weights they get, and what they do to an image."""

import pickle
from pathlib import Path

import open_clip
import pytest
import tiny_arch
import torch

from model.towers import Towers, build_tokenizer, check_arch


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
