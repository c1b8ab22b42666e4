"""Zero-shot: a face is called by the words that lie nearest to it.

Goes in: embeddings float [N, D], and of each class the embeddings of its prompts. Comes out: probabilities of the
classes, float64 [N, K].
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from smile_pipe.pipeline.classifiers.knn import Features, Probabilities, unit


def zero_shot(embeddings: Features, prompts: Mapping[str, Features], scale: float) -> Probabilities:
    """softmax(`scale` * cosine) of embeddings [N, D] with the anchors of the classes, in the order of `prompts`.

    `scale` is the inverse of the temperature that the contrast was trained with (Radford et al., "Learning transferable
    visual models from natural language supervision", ICML 2021, figure 3).
    """
    return cosine_softmax(unit(embeddings) @ class_anchors(prompts).T, scale)


def cosine_softmax(cosines: Features, scale: float) -> Probabilities:
    """softmax(`scale` * cosine) over the classes, [N, K]."""
    return softmax(scale * np.asarray(cosines, np.float64), axis=1)


def class_anchors(prompts: Mapping[str, Features]) -> NDArray[np.float64]:
    """One direction a class, [K, D]: the mean of its normalised prompt embeddings [P, D], normalised again.

    Radford et al., section 3.1.4.
    """
    return unit(np.stack([unit(texts).mean(axis=0) for texts in prompts.values()]))
