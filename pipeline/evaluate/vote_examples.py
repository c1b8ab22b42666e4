"""Examples of the caption vote: faces, the captions that are nearest to them, and what these name."""

from collections.abc import Sequence

import numpy as np

from smile_pipe.pipeline.classifiers.knn import ClassIndices, Features, Probabilities, unit_vectors
from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.evaluate.answers import Example, select_examples


def vote_examples(
    faces: Features,
    truth: ClassIndices,
    predicted: Probabilities,
    classes: Sequence[str],
    captions: tuple[Sequence[str], Features],
    seed: int,
) -> tuple[Example, ...]:
    """Draw faces that the vote named correctly, then others that it did not.

    Args:
        faces: embeddings of the scored samples, [N, D].
        truth: their classes, [N].
        predicted: probabilities of the vote, [N, K].
        classes: codes of the K classes.
        captions: texts of the C captions that voted, and their embeddings [C, D].
        seed: random seed of the draw.
    """
    names, anchors = predicted.argmax(axis=1), unit_vectors(captions[1])
    examples = []
    for n in select_examples(names == truth, seed):
        word, share = word_for(classes[names[n]]), predicted[n, names[n]]
        verdict = "right" if names[n] == truth[n] else f"wrong, it is {word_for(classes[truth[n]])}"
        nearest = captions[0][int(np.argmax(anchors @ unit_vectors(faces[n])))]
        examples.append(Example(f"{word} ({100 * share:.0f} %), {verdict}; nearest caption: {nearest}", {"face": n}))
    return tuple(examples)
