"""Classes that are defined by example faces, by words, or by both, without any training.

The anchor of class k is a_k = unit(lambda unit(mean of its prompts) + (1 - lambda) unit(mean of its examples)). Adding
examples to the words of a question follows "Fine-tuning multimodal LLMs to follow zero-shot demonstrative
instructions" (Li et al., ICLR 2024); the formula is ours.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.knn import Features, unit_vectors

WORD_WEIGHT = 0.5
"""Weight lambda of the words of a class that has examples too."""


def example_anchors(
    prompts: Sequence[Features | None], examples: Sequence[Features | None], word_weight: float = WORD_WEIGHT
) -> NDArray[np.float64]:
    """Return one unit vector per class, [K, D].

    Args:
        prompts: embeddings [P, D] of each class's prompts; None for a class without.
        examples: embeddings [E, D] of each class's example faces; None for a class without.
        word_weight: weight of the prompts of a class that has both, from 0 to 1.

    Raises:
        ValueError: a class has neither.
    """
    return np.stack([_anchor(words, faces, word_weight) for words, faces in zip(prompts, examples, strict=True)])


def _anchor(words: Features | None, faces: Features | None, word_weight: float) -> NDArray[np.float64]:
    means = [None if x is None or not len(x) else unit_vectors(unit_vectors(x).mean(axis=0)) for x in (words, faces)]
    if means[0] is not None and means[1] is not None:
        return unit_vectors(word_weight * means[0] + (1 - word_weight) * means[1])
    found = means[0] if means[0] is not None else means[1]
    if found is None:
        raise ValueError("a class has neither prompts nor examples")
    return found


def subtract_neutral(x: Features, neutral: Features) -> NDArray[np.float64]:
    """Return the direction from a subject's neutral face to other faces: unit(unit(x) - unit(mean of unit(neutral))).

    Args:
        x: embeddings, [N, D].
        neutral: embeddings of the subject's neutral faces, [E, D].
    """
    return unit_vectors(unit_vectors(x) - unit_vectors(unit_vectors(neutral).mean(axis=0)))
