"""Faces found by text, and text by faces: pure functions on arrays.

A query counts as answered when a right answer is among the first k: recall at k, as text and images are matched since
Karpathy and Fei-Fei, "Deep visual-semantic alignments for generating image descriptions", CVPR 2015, and by CLIP
(Radford et al., ICML 2021). Unlike there, more than one answer is right; so precision is told as well.

Goes in: embeddings of faces float [N, D] and of each class's prompts [P, D]. Comes out: `RetrievalScore`. Nearness is
the cosine; a face and a prompt fit where the face's class is the prompt's. A k beyond the number of candidates is left
out.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.knn import Classes, Features, unit
from smile_pipe.pipeline.runs.evaluation_manifest import FacesOfText, RetrievalScore, TextOfFaces

FACES_AT = (1, 5, 10)
PROMPTS_AT = (1, 5)


def retrieval_score(faces: Features, y: Classes, prompts: Mapping[str, Features]) -> RetrievalScore:
    """Score both ways; `y` [N] are classes as indices in the order of `prompts`."""
    return RetrievalScore(
        faces_of_text=faces_of_text(faces, y, prompts), text_of_faces=text_of_faces(faces, y, prompts)
    )


def faces_of_text(faces: Features, y: Classes, prompts: Mapping[str, Features]) -> FacesOfText:
    """Each prompt ranks all faces, one by one; those of a class without a face ask for none.

    Average precision is the mean, over the right faces, of the precision at each one's rank (Manning et al.,
    "Introduction to information retrieval", 2008, section 8.4).
    """
    bank, whose = _bank(prompts)
    asking = np.isin(whose, y)
    whose = whose[asking]
    right = y[_ranked(bank[asking] @ unit(faces).T)] == whose[:, None]
    precision = right.cumsum(axis=1) / np.arange(1, len(y) + 1)
    average = (precision * right).sum(axis=1) / right.sum(axis=1)
    of_class = {name: float(average[whose == c].mean()) for c, name in enumerate(prompts) if c in whose}
    return FacesOfText(
        num_prompts=len(whose),
        precision_at={str(k): float(precision[:, k - 1].mean()) for k in _within(FACES_AT, len(y))},
        recall_at=_recall_at(right, FACES_AT),
        average_precision=of_class,
        mean_average_precision=float(np.mean(list(of_class.values()))),
    )


def text_of_faces(faces: Features, y: Classes, prompts: Mapping[str, Features]) -> TextOfFaces:
    """Each face ranks all prompts of all classes, one by one."""
    bank, whose = _bank(prompts)
    right = whose[_ranked(unit(faces) @ bank.T)] == y[:, None]
    return TextOfFaces(num_prompts=len(whose), recall_at=_recall_at(right, PROMPTS_AT))


def _bank(prompts: Mapping[str, Features]) -> tuple[Features, Classes]:
    """All prompts of all classes, of length one, [P, D], and the class of each, [P]."""
    whose = np.repeat(np.arange(len(prompts)), [len(texts) for texts in prompts.values()])
    return unit(np.concatenate(list(prompts.values()))), whose


def _ranked(cosines: NDArray[np.float64]) -> NDArray[np.int64]:
    """Candidates of each query, the nearest first."""
    return np.argsort(-cosines, axis=1, kind="stable")


def _recall_at(right: NDArray[np.bool_], at: Iterable[int]) -> dict[str, float]:
    return {str(k): float(right[:, :k].any(axis=1).mean()) for k in _within(at, right.shape[1])}


def _within(at: Iterable[int], num: int) -> list[int]:
    return [k for k in at if k <= num]
