"""Retrieval of faces by text and of text by faces, with known answers."""

import numpy as np
import pytest
from sklearn import metrics

from smile_pipe.pipeline.evaluate.retrieval import face_to_text_score, retrieval_score, text_to_face_score

# One prompt for each of two classes, on the axes.
PROMPTS = {"AN": np.array([[1.0, 0.0]]), "HA": np.array([[0.0, 1.0]])}


def faces_at(*degrees):
    """Faces at angles (degrees) from anger towards happiness, of different lengths."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]


def normalised(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def random_faces(num_faces=60, num_classes=4, num_prompts=3):
    rng = np.random.default_rng(0)
    prompts = {f"c{n}": rng.normal(size=(num_prompts + n, 8)) for n in range(num_classes)}
    y = rng.integers(0, num_classes, num_faces)
    centres = np.stack([texts.mean(axis=0) for texts in prompts.values()])
    return centres[y] + 2 * rng.normal(size=(num_faces, 8)), y, prompts


class TestTextToFace:
    def test_precision_and_recall_where_the_order_is_known(self):
        # Anger's order: HA AN AN HA AN HA; happiness's is the reverse.
        faces, y = faces_at(5, 10, 20, 50, 60, 80), np.array([1, 0, 0, 1, 0, 1])
        found = text_to_face_score(faces, y, PROMPTS)
        assert found.precision_at == {"1": (0 + 1) / 2, "5": (3 / 5 + 2 / 5) / 2}
        assert found.recall_at == {"1": 0.5, "5": 1.0}
        anger, happiness = (1 / 2 + 2 / 3 + 3 / 5) / 3, (1 / 1 + 2 / 3 + 3 / 6) / 3
        assert found.average_precision == pytest.approx({"AN": anger, "HA": happiness})
        assert found.mean_average_precision == pytest.approx((anger + happiness) / 2)

    def test_average_precision_agrees_with_scikit_learn(self):
        faces, y, prompts = random_faces()
        found = text_to_face_score(faces, y, prompts)
        for n, (name, texts) in enumerate(prompts.items()):
            cosines = normalised(faces) @ normalised(texts).T
            each = [metrics.average_precision_score(y == n, of_prompt) for of_prompt in cosines.T]
            assert found.average_precision[name] == pytest.approx(np.mean(each))
        assert found.mean_average_precision == pytest.approx(np.mean(list(found.average_precision.values())))
        assert found.num_prompts == 3 + 4 + 5 + 6

    def test_each_prompt_is_one_query(self):
        # Both happy faces are nearer to the second prompt of anger than the angry face.
        prompts = {"AN": faces_at(0, 80), "HA": faces_at(90)}
        found = text_to_face_score(faces_at(10, 70, 89), np.array([0, 1, 1]), prompts)
        assert found.recall_at == {"1": 2 / 3} and found.precision_at == {"1": 2 / 3}
        assert found.average_precision == pytest.approx({"AN": (1 + 1 / 3) / 2, "HA": 1.0})
        assert found.mean_average_precision == pytest.approx((2 / 3 + 1) / 2)

    def test_prompts_of_a_class_without_a_face_are_no_queries(self):
        found = text_to_face_score(faces_at(10, 20), np.array([0, 0]), PROMPTS)
        assert found.average_precision == {"AN": 1.0} and found.precision_at == {"1": 1.0}
        assert found.num_prompts == 1

    def test_k_above_the_number_of_faces_is_left_out(self):
        found = text_to_face_score(faces_at(*range(9)), np.array([0, 1] * 4 + [0]), PROMPTS)
        assert found.precision_at.keys() == found.recall_at.keys() == {"1", "5"}
        assert text_to_face_score(faces_at(*range(10)), np.array([0, 1] * 5), PROMPTS).recall_at.keys() == {
            "1",
            "5",
            "10",
        }


class TestFaceToText:
    def test_recall_counts_faces_with_a_prompt_of_their_class(self):
        # Nearest prompts, in degrees: 40, 30, 60, 70, 0, 90 / 90, 70, 60, 40, 30, 0 / 0, 30, 40, 60, 70, 90
        faces, prompts = faces_at(39, 89, 1), {"AN": faces_at(0, 30, 60), "HA": faces_at(90, 70, 40)}
        assert face_to_text_score(faces, np.array([0, 1, 0]), prompts).recall_at == {"1": 2 / 3, "5": 1.0}
        assert face_to_text_score(faces, np.array([1, 0, 1]), prompts).recall_at == {"1": 1 / 3, "5": 1.0}

    def test_all_prompts_of_all_classes_are_candidates(self):
        faces, y, prompts = random_faces()
        found = face_to_text_score(faces, y, prompts)
        assert found.num_prompts == 3 + 4 + 5 + 6
        bank = np.concatenate(list(prompts.values()))
        class_of = [n for n, texts in enumerate(prompts.values()) for _ in texts]
        for k in (1, 5):
            nearest = np.argsort(-faces @ normalised(bank).T, axis=1)[:, :k]
            answered = [y[i] in [class_of[j] for j in row] for i, row in enumerate(nearest)]
            assert found.recall_at[str(k)] == pytest.approx(np.mean(answered)) and 0 < np.mean(answered) < 1

    def test_k_above_the_number_of_prompts_is_left_out(self):
        assert face_to_text_score(faces_at(10), np.array([0]), PROMPTS).recall_at == {"1": 1.0}


def test_retrieval_score_has_both_directions():
    faces, y, prompts = random_faces()
    found = retrieval_score(faces, y, prompts)
    assert found.faces_of_text == text_to_face_score(faces, y, prompts)
    assert found.text_of_faces == face_to_text_score(faces, y, prompts)
