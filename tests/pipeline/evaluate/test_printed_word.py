"""Printed words: where they are, a model that reads them, one that looks at faces only, and one that knows nothing."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smile_pipe.model.packing import PackedFrames
from smile_pipe.pipeline.data.dataset import Batch
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet
from smile_pipe.pipeline.evaluate.printed_word import OTHER_WORD, print_words, printed_word
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.evaluate.word_image import print_word, word_masks
from smile_pipe.shards.errors import UsageError

CLASSES, WORDS = ("HA", "SA", "AN", "FE"), ("happiness", "sadness", "anger", "fear")
NUM_TRAIN, NUM_TEST, SIZE = 40, 200, 32
GREY = 100


def batch_of(keys, counts):
    views = torch.full((sum(counts), 2, 3, SIZE, SIZE), GREY, dtype=torch.uint8)
    texts = [""] * len(keys)
    return Batch(views, PackedFrames(torch.tensor(counts), torch.zeros(sum(counts))), texts, texts, keys, texts)


def test_words_are_at_the_bottom_of_all_views_and_frames_of_their_sample():
    batch = batch_of(["a", "b"], [2, 1])
    found = print_words(batch, {"a": "fear", "b": "anger"}).views
    for frame, word in zip(found, ("fear", "fear", "anger"), strict=True):
        letters, outline = word_masks(word, SIZE, SIZE)
        for image in frame.flatten(0, 1).numpy():
            assert (image[letters] == 255).all() and (image[outline & ~letters] == 0).all()
            assert (image[~outline] == GREY).all()
    assert (batch.views == GREY).all()


@pytest.mark.parametrize("size", [24, 96, 224])
@pytest.mark.parametrize("word", ["fear", "a word that is far too long for one image"])
def test_letters_are_inside_of_the_image_with_an_outline(size, word):
    letters, outline = word_masks(word, size, size)
    assert letters.any() and outline[letters].all() and outline.sum() > letters.sum()
    assert not outline[: size // 2].any() and not outline[-1].any()
    if word == "fear":
        assert not outline[:, :1].any() and not outline[:, -1:].any()
    image = np.full((size, size, 3), GREY, np.uint8)
    printed = print_word(image, word)
    assert (printed[letters] == 255).all() and (printed[outline & ~letters] == 0).all()
    assert (printed[~outline] == GREY).all() and (image == GREY).all()


def read(image):
    """The number of the class whose word is in an image; None for another word."""
    return next((c for c, w in enumerate(WORDS) if torch.equal(image, printed_grey(w))), None)


def printed_grey(word):
    return print_words(batch_of(["x"], [1]), {"x": word}).views[0, 0]


def predictor_of(see):
    """A predictor whose model embeds a face as `see(class of the face, class of its word or None)`."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(CLASSES), NUM_TRAIN + NUM_TEST)
    rows = [SimpleNamespace(key=f"k{n}", level=None, expression=CLASSES[c]) for n, c in enumerate(y)]
    subjects = np.array([f"F{n % 10}" for n in range(NUM_TRAIN)] + [f"M{n % 10}" for n in range(NUM_TEST)])
    for row, subject in zip(rows, subjects, strict=True):
        row.subject = subject

    def embed_views(dataset, rows, batch_size, change):
        for row in rows:
            image = change(batch_of([row.key], [1])).views[0, 0]
            yield SimpleNamespace(fused=np.eye(len(CLASSES))[[see(CLASSES.index(row.expression), read(image))]])

    x = np.eye(len(CLASSES))[[see(c, None) for c in y]]
    data = EmbeddingSet(x[:, None], np.ones((1, 3)), x, y, subjects, CLASSES, rows[:NUM_TRAIN], rows[NUM_TRAIN:], 0)
    model = SimpleNamespace(embed_views=embed_views, model=None, scale=10.0)
    prompts = {name: np.eye(len(CLASSES))[[n]] for n, name in enumerate(CLASSES)}
    return ProtocolPredictor(model, data, prompts, (), 0)


def answers(see):
    found = printed_word(predictor_of(see), None, 8, 0)
    return {(part.group, part.name): part.accuracy for part in found.score.parts}, found.examples


@pytest.mark.parametrize("protocol", ["zero-shot", "probe"])
class TestAnswers:
    def test_a_model_that_reads_follows_every_word(self, protocol):
        found, _ = answers(lambda face, word: face if word is None else word)
        for name, expected in (("no word", 1), ("right word", 1), ("wrong word", 0), ("other word", 1)):
            assert found[protocol, name] == expected
        group = f"{protocol}: the answer is the wrong word"
        assert [found[group, name] for name in ("not printed", "other word printed", "printed")] == [0, 0, 1]

    def test_a_model_that_looks_at_faces_is_always_right(self, protocol):
        found, _ = answers(lambda face, word: face)
        for name in ("no word", "right word", "wrong word", "other word"):
            assert found[protocol, name] == 1
        assert found[f"{protocol}: the answer is the wrong word", "printed"] == 0


def test_a_model_that_knows_nothing_is_at_chance():
    rng = np.random.default_rng(1)
    found, _ = answers(lambda face, word: int(rng.integers(len(CLASSES))))
    # Four standard deviations of independent guesses.
    for (group, _), accuracy in found.items():
        assert group.startswith("probe") or abs(accuracy - 0.25) < 4 * (0.25 * 0.75 / NUM_TEST) ** 0.5


def test_examples_show_the_printed_words():
    _, examples = answers(lambda face, word: face)
    assert len(examples) == 5
    for each in examples:
        truth = each.printed["right word"]
        assert each.label.startswith(f"{truth}, named with no word: {truth}; right word: {truth}")
        assert each.printed["wrong word"] in set(WORDS) - {truth} and each.printed["other word"] == OTHER_WORD
        assert list(each.faces) == ["no word", "right word", "wrong word", "other word"]


def test_one_class_is_an_error():
    predictor = predictor_of(lambda face, word: face)
    data = SimpleNamespace(classes=("HA",), test_labels=predictor.data.test_labels)
    with pytest.raises(UsageError, match="at least two expressions"):
        printed_word(SimpleNamespace(data=data), None, 8, 0)
