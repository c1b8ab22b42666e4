"""Manifests of evaluations with invented predictions."""

import numpy as np

from smile_pipe.pipeline.classifiers.metrics import Labels, score
from smile_pipe.pipeline.evaluate.retrieval import retrieval_score
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest

CLASSES = ("AN", "HA", "smirk")


def evaluation_manifest(classes=CLASSES, split="kfold:10:0", text_source="label", **changes):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, len(classes), 120)
    levels = [int(i % 4 + 1) if truth[i] else None for i in range(120)]
    several = any(";" in name for name in classes)
    labels = Labels(truth, classes, levels, [f"F{i % 7:04d}" for i in range(120)], several)
    guesses = {
        name: np.where(rng.random(120) < share, truth, rng.integers(0, len(classes), 120))
        for name, share in (("zero-shot", 0.5), ("knn", 0.6), ("probe", 0.8))
    }
    prompts = {name: rng.normal(size=(3, 4)) for name in classes}
    facts = {
        "fingerprint": "e" * 32,
        "run_fingerprint": "a" * 32,
        "shards_fingerprint": "5" * 32,
        "recipe": "smile-vlm",
        "where": None,
        "temporal": "none",
        "max_frames": 16,
        "num_scans": 120,
        "num_sequences": 0,
        "num_frames": 0,
        "num_subjects": 7,
        "protocols": {name: score(labels, uncertain(guess, len(classes))) for name, guess in guesses.items()},
        "retrieval": retrieval_score(rng.normal(size=(120, 4)), truth, prompts),
        **changes,
    }
    return EvaluationManifest(split=split, text_source=text_source, classes=classes, **facts)


def uncertain(guesses, num_classes):
    """Probabilities of guesses with confidences from 0.6 to 1."""
    confidence = np.linspace(0.6, 1, len(guesses))[:, None]
    return confidence * np.eye(num_classes)[guesses] + (1 - confidence) / num_classes


def multilabel_manifest():
    return evaluation_manifest(("HA", "SU", "HA;SU"))
