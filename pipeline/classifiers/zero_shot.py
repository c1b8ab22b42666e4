"""The zero-shot classifier: the class whose prompts are nearest to a face in the joint space."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from smile_pipe.pipeline.classifiers.knn import Features, Probabilities, unit_vectors


def zero_shot(embeddings: Features, prompts: Mapping[str, Features], scale: float) -> Probabilities:
    """Classify by softmax(scale * cosine) with the anchors of the classes.

    Radford et al., "Learning transferable visual models from natural language supervision", ICML 2021, figure 3.

    Args:
        embeddings: fused embeddings, [N, D].
        prompts: embeddings [P, D] of each class's prompts, by class.
        scale: inverse of the learned temperature.

    Returns:
        Probabilities of the classes in the order of `prompts`, float64 [N, K].
    """
    return cosine_softmax(unit_vectors(embeddings) @ class_anchors(prompts).T, scale)


def cosine_softmax(cosines: Features, scale: float) -> Probabilities:
    """Return softmax(scale * cosine) over the classes, float64 [N, K]."""
    return softmax(scale * np.asarray(cosines, np.float64), axis=1)


def class_anchors(prompts: Mapping[str, Features]) -> NDArray[np.float64]:
    """Return one unit vector per class, [K, D]: the mean of its normalised prompt embeddings, normalised again.

    Radford et al., section 3.1.4.
    """
    return unit_vectors(np.stack([unit_vectors(texts).mean(axis=0) for texts in prompts.values()]))
