"""Retrieval of faces by text, and of text by faces, in the joint space.

Recall at k counts a query as answered if a correct candidate is among the first k, as text and images are matched since
Karpathy and Fei-Fei, "Deep visual-semantic alignments for generating image descriptions", CVPR 2015, and in CLIP
(Radford et al., ICML 2021). Unlike there, a query has several correct candidates; so precision is reported as well.

Candidates are ranked by cosine. A face and a prompt match if they are of the same class. A k above the number of
candidates is left out.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.classifiers.knn import ClassIndices, Features, unit_vectors
from smile_pipe.pipeline.runs.evaluation_manifest import FaceToTextRetrieval, RetrievalScore, TextToFaceRetrieval

FACES_AT = (1, 5, 10)
PROMPTS_AT = (1, 5)


def retrieval_score(faces: Features, y: ClassIndices, prompts: Mapping[str, Features]) -> RetrievalScore:
    """Score retrieval in both directions.

    Args:
        faces: embeddings of the faces, [N, D].
        y: class indices of the faces in the order of `prompts`, [N].
        prompts: embeddings of each class's prompts, [P, D].
    """
    return RetrievalScore(
        faces_of_text=text_to_face_score(faces, y, prompts), text_of_faces=face_to_text_score(faces, y, prompts)
    )


def text_to_face_score(faces: Features, y: ClassIndices, prompts: Mapping[str, Features]) -> TextToFaceRetrieval:
    """Score retrieval of faces; each prompt of a class that has a face is one query. For the arguments see above.

    Average precision is the mean, over the correct faces, of the precision at each one's rank (Manning et al.,
    "Introduction to information retrieval", 2008, section 8.4).
    """
    bank, class_of = _prompt_bank(prompts)
    is_query = np.isin(class_of, y)
    class_of = class_of[is_query]
    correct = y[_rank(bank[is_query] @ unit_vectors(faces).T)] == class_of[:, None]
    precision = correct.cumsum(axis=1) / np.arange(1, len(y) + 1)
    average = (precision * correct).sum(axis=1) / correct.sum(axis=1)
    by_class = {name: float(average[class_of == c].mean()) for c, name in enumerate(prompts) if c in class_of}
    return TextToFaceRetrieval(
        num_prompts=len(class_of),
        precision_at={str(k): float(precision[:, k - 1].mean()) for k in _at_most(FACES_AT, len(y))},
        recall_at=_recall_at(correct, FACES_AT),
        average_precision=by_class,
        mean_average_precision=float(np.mean(list(by_class.values()))),
    )


def face_to_text_score(faces: Features, y: ClassIndices, prompts: Mapping[str, Features]) -> FaceToTextRetrieval:
    """Score retrieval of prompts; each face is one query, all prompts are candidates. For the arguments see above."""
    bank, class_of = _prompt_bank(prompts)
    correct = class_of[_rank(unit_vectors(faces) @ bank.T)] == y[:, None]
    return FaceToTextRetrieval(num_prompts=len(class_of), recall_at=_recall_at(correct, PROMPTS_AT))


def _prompt_bank(prompts: Mapping[str, Features]) -> tuple[Features, ClassIndices]:
    """Return the unit vectors of all prompts of all classes, [P, D], and the class of each, [P]."""
    class_of = np.repeat(np.arange(len(prompts)), [len(texts) for texts in prompts.values()])
    return unit_vectors(np.concatenate(list(prompts.values()))), class_of


def _rank(cosines: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the candidates of each query, nearest first."""
    return np.argsort(-cosines, axis=1, kind="stable")


def _recall_at(correct: NDArray[np.bool_], ks: Iterable[int]) -> dict[str, float]:
    return {str(k): float(correct[:, :k].any(axis=1).mean()) for k in _at_most(ks, correct.shape[1])}


def _at_most(ks: Iterable[int], limit: int) -> list[int]:
    return [k for k in ks if k <= limit]
