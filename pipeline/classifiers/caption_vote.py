"""The caption vote: the captions of training name a face, each with the expressions that knowledge gives to it.

    p(k | z) = sum over captions c of n_ck exp(scale * cos(z, t_c)), divided by its sum over k

z is the embedding of a face, t_c that of a distinct caption, and n_ck the number of training samples with caption c
that are named k (`smile_pipe.pipeline.captions.naming`). So each training sample has one vote: the captions of strong
expressions are many and rare, and those of neutral faces few and common. No label is read. `scale` is the inverse of
the temperature that training has learned for these very cosines, as in the zero-shot classifier.
"""

import numpy as np

from smile_pipe.pipeline.classifiers.knn import Features, Probabilities, unit_vectors
from smile_pipe.pipeline.classifiers.zero_shot import cosine_softmax

_CHUNK = 1024


def caption_vote(embeddings: Features, captions: Features, votes: Probabilities, scale: float) -> Probabilities:
    """Classify by the votes of captions.

    Args:
        embeddings: fused embeddings z, [N, D].
        captions: embeddings t_c of the captions, [C, D].
        votes: n, [C, K]; each caption has at least one.
        scale: inverse of the learned temperature.

    Returns:
        Probabilities of the classes, float64 [N, K].
    """
    anchors = unit_vectors(captions).T
    # In chunks, because all cosines of a large test set with all captions would not fit into memory.
    starts = range(0, len(embeddings), _CHUNK)
    weights = (cosine_softmax(unit_vectors(embeddings[at : at + _CHUNK]) @ anchors, scale) for at in starts)
    sums = np.concatenate([np.zeros((0, votes.shape[1])), *(weights_nc @ votes for weights_nc in weights)])
    return sums / sums.sum(axis=1, keepdims=True)
