"""The caption vote: the captions of training name a face, each with the expressions that knowledge gives to it.

    p(k | z) = sum over captions c of softmax_c(scale * cos(z, t_c)) q_ck

z is the embedding of a face, t_c that of a distinct caption, and q_ck the share of the training samples with caption c
that are named k (`smile_pipe.pipeline.captions.naming`). No label is read. `scale` is the inverse of the temperature
that training has learned for these very cosines, as in the zero-shot classifier.
"""

import numpy as np

from smile_pipe.pipeline.classifiers.knn import Features, Probabilities, unit_vectors
from smile_pipe.pipeline.classifiers.zero_shot import cosine_softmax

_CHUNK = 1024


def caption_vote(embeddings: Features, captions: Features, shares: Probabilities, scale: float) -> Probabilities:
    """Classify by the votes of captions.

    Args:
        embeddings: fused embeddings z, [N, D].
        captions: embeddings t_c of the captions, [C, D].
        shares: q, [C, K]; rows sum to 1.
        scale: inverse of the learned temperature.

    Returns:
        Probabilities of the classes, float64 [N, K].
    """
    anchors = unit_vectors(captions).T
    # In chunks, because all cosines of a large test set with all captions would not fit into memory.
    starts = range(0, len(embeddings), _CHUNK)
    weights = (cosine_softmax(unit_vectors(embeddings[at : at + _CHUNK]) @ anchors, scale) for at in starts)
    return np.concatenate([np.zeros((0, shares.shape[1])), *(weights_nc @ shares for weights_nc in weights)])
