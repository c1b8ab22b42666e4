"""The caption vote: the captions of training name a face, each with the expressions that knowledge gives to it.

    p(k | z) = sum over captions c of softmax_c(cos(z, t_c) / tau) q_ck

z is the embedding of a face, t_c that of a distinct caption, and q_ck the share of the training samples with caption c
that are named k (`smile_pipe.pipeline.captions.naming`). No label is read.
"""

import numpy as np
from scipy.special import softmax

from smile_pipe.pipeline.classifiers.knn import Features, Probabilities, unit_vectors

VOTE_TEMPERATURE = 0.05
"""tau; see model/README.md for its choice on the validation subjects of a run."""
_CHUNK = 1024


def caption_vote(
    embeddings: Features, captions: Features, shares: Probabilities, temperature: float = VOTE_TEMPERATURE
) -> Probabilities:
    """Classify by the votes of captions.

    Args:
        embeddings: fused embeddings z, [N, D].
        captions: embeddings t_c of the captions, [C, D].
        shares: q, [C, K]; rows sum to 1.
        temperature: tau.

    Returns:
        Probabilities of the classes, float64 [N, K].
    """
    anchors = unit_vectors(captions).T
    # In chunks, because all cosines of a large test set with all captions would not fit into memory.
    parts = [
        softmax(
            np.asarray(unit_vectors(embeddings[start : start + _CHUNK]) @ anchors, np.float64) / temperature, axis=1
        )
        @ shares
        for start in range(0, len(embeddings), _CHUNK)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, shares.shape[1]))
