"""Printed words: does the answer follow the face, or a word that is printed into its images?

Each scored face is shown as it is, with the word of its class, with that of another class, and with a word that names
no expression, which conceals as much of the image. Models that were trained on photographs with captions can read, and
follow the word (Goh et al., "Multimodal neurons in artificial neural networks", Distill 2021; as instructions: Li et
al., "Text as images: can multimodal large language models follow printed instructions in pixels?", 2023, arXiv
2311.17647). Nothing is trained on such images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from smile_pipe.pipeline.classifiers.knn import Features
from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.data.dataset import Batch, FaceDataset
from smile_pipe.pipeline.evaluate.answers import Answers, Example, score_part, select_examples
from smile_pipe.pipeline.evaluate.missing_views import fixed_protocols, predict_changed
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.evaluate.word_image import word_masks
from smile_pipe.pipeline.runs.question_scores import QuestionPart, QuestionScore
from smile_pipe.shards.errors import UsageError

OTHER_WORD = "window"
"""A word of usual length that names no expression."""


def printed_word(predictor: ProtocolPredictor, dataset: FaceDataset, batch_size: int, seed: int) -> Answers:
    """Score the probe, and the classifier or zero-shot where the run has it, on images with words.

    Args:
        predictor: the predictor of the evaluation.
        dataset: reader of the scored samples.
        batch_size: number of samples embedded at a time.
        seed: random seed of the wrong words and of the intervals.

    Raises:
        UsageError: there is one class only.
    """
    data, rng = predictor.data, np.random.default_rng(seed)
    num_classes, truth = len(data.classes), data.test_labels.y
    if num_classes < 2:
        raise UsageError("needs at least two expressions", field="protocol", value="printed-word")
    wrong = (truth + rng.integers(1, num_classes, len(truth))) % num_classes
    words = [word_for(name) for name in data.classes]
    faces = {"no word": data.x}
    printed = {
        "right word": [words[c] for c in truth],
        "wrong word": [words[c] for c in wrong],
        "other word": [OTHER_WORD] * len(truth),
    }
    for name, texts in printed.items():
        of_key = {row.key: text for row, text in zip(data.test_rows, texts, strict=True)}
        faces[name] = np.concatenate([data.x[: data.num_train], _embed(predictor, dataset, of_key, batch_size)])
    score = partial(score_part, chance=1 / num_classes, subjects=data.subjects[data.num_train :], seed=seed)
    parts, examples = list[QuestionPart](), tuple[Example, ...]()
    for protocol in (*fixed_protocols(predictor), "probe"):
        named = {name: predict_changed(predictor, protocol, x).argmax(axis=1) for name, x in faces.items()}
        parts += [score(protocol, name, answer == truth) for name, answer in named.items()]
        group = f"{protocol}: the answer is the wrong word"
        parts += [
            score(group, "not printed", named["no word"] == wrong),
            score(group, "other word printed", named["other word"] == wrong),
            score(group, "printed", named["wrong word"] == wrong),
        ]
        examples = examples or _examples(named, truth, printed, words, seed)
    return Answers(QuestionScore(parts=tuple(parts)), examples)


def print_words(batch: Batch, words: Mapping[str, str]) -> Batch:
    """Print the word of each sample, by its key, into all of its images."""
    frames_of = batch.views.split(batch.frames.counts.tolist())
    height, width = batch.views.shape[-2:]
    printed = []
    for key, views in zip(batch.keys, frames_of, strict=True):
        letters, outline = (torch.from_numpy(mask) for mask in word_masks(words[key], height, width))
        printed.append(views.masked_fill(outline, 0).masked_fill(letters, 255))
    return replace(batch, views=torch.cat(printed))


def _embed(predictor: ProtocolPredictor, dataset: FaceDataset, words: Mapping[str, str], batch_size: int) -> Features:
    rows = predictor.data.test_rows
    batches = predictor.model.embed_views(dataset, rows, batch_size, lambda batch: print_words(batch, words))
    return np.concatenate([batch.fused for batch in batches])


def _examples(
    named: Mapping[str, np.ndarray],
    truth: np.ndarray,
    printed: Mapping[str, Sequence[str]],
    words: Sequence[str],
    seed: int,
) -> tuple[Example, ...]:
    """Draw faces that are still named correctly with the wrong word, then others."""
    found = []
    for n in select_examples(named["wrong word"] == truth, seed):
        answers = "; ".join(f"{name}: {words[answer[n]]}" for name, answer in named.items())
        texts = {name: each[n] for name, each in printed.items()}
        found.append(Example(f"{words[truth[n]]}, named with {answers}", dict.fromkeys(named, n), texts))
    return tuple(found)
