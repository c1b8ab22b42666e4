"""The evaluation stage: a run and shards in, scores and a report out.

    open run and shards -> choose subjects -> embed -> zero-shot, kNN, linear probe -> report.html, manifest.json

The subjects that are scored are, unless `all` is asked for, ones that training never saw.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import plots
from pipeline.evaluation.config import EvaluateConfig
from pipeline.evaluation.manifest import EvaluationManifest, ProtocolScore
from pipeline.evaluation.protocols import cross_predict, knn, linear_probe, score, zero_shot
from pipeline.evaluation.report import render_report
from pipeline.preview import preview_png
from pipeline.training.faces import FaceReader
from pipeline.training.manifest import RunManifest
from pipeline.training.run_directory import RunDirectory, open_run
from pipeline.training.trained import TrainedModel
from shards.errors import UsageError
from shards.index import IndexRow
from shards.manifest import ShardManifest, fingerprint, write_atomically
from shards.reader import ShardSet
from shards.splits import split_subjects

CACHE_BYTES = 0  # Each sample is read once.


@dataclass(frozen=True)
class Embedded:
    """Samples as the protocols take them: embeddings [N, D], class indices [N], and whose they are."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    subjects: NDArray[np.str_]


def run(
    config: EvaluateConfig, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> EvaluationManifest:
    """Score a run, and write `evaluation/` into its directory.

    Raises:
        UsageError: no finished run, unusable shards or split; nothing has been written.
    """
    run_manifest, checkpoint = open_run(config.run)
    shards = ShardSet.open(config.shards)
    train_rows, test_rows = _sides(config, run_manifest, shards)
    if run_manifest.channel not in shards.manifest.channels:
        raise UsageError(
            f"--shards {config.shards}: have no channel {run_manifest.channel}, which the run was trained on"
        )
    model = TrainedModel.load(run_manifest, checkpoint, "cuda" if config.use_gpu else "cpu")
    reader = FaceReader(shards, run_manifest.channel, model.model.towers.image_size, CACHE_BYTES)
    rows = [*train_rows, *test_rows]
    embeddings = []
    for start in range(0, len(rows), config.batch_size):
        on_progress(start, len(rows))
        embeddings.append(model.embed_faces(reader, rows[start : start + config.batch_size], config.batch_size))
    on_progress(len(rows), len(rows))
    everything, classes = _embedded(np.concatenate(embeddings), rows, shards.manifest)
    predictions = _predict(config, model, run_manifest, shards.manifest, everything, len(train_rows))
    levels = [row.level for row in test_rows]
    truth = everything.y[len(train_rows) :]
    scores = {name: score(truth, predicted, classes, levels) for name, predicted in predictions.items()}
    split = config.split or run_manifest.split
    manifest = EvaluationManifest(
        fingerprint=fingerprint(
            run_manifest.fingerprint, shards.manifest.fingerprint, split, list(scores), config.seed
        ),
        run_fingerprint=run_manifest.fingerprint,
        shards_fingerprint=shards.manifest.fingerprint,
        split=split,
        text_source=run_manifest.text_source,
        recipe=str(run_manifest.recipe["name"]),
        classes=classes,
        num_subjects=len({row.subject for row in test_rows}),
        protocols=scores,
    )
    _write(config, manifest, run_manifest, shards, test_rows, everything.x[len(train_rows) :], truth)
    return manifest


def _sides(
    config: EvaluateConfig, run_manifest: RunManifest, shards: ShardSet
) -> tuple[list[IndexRow], list[IndexRow]]:
    """Rows to fit protocols on, none for `all`, and rows to score."""
    spec = config.split or run_manifest.split
    if spec == "all":
        return [], list(shards.rows)
    if config.split is None and shards.manifest.fingerprint != run_manifest.shards_fingerprint:
        raise UsageError(
            f"--shards {config.shards}: not the shards that the run was trained on; say whom to score with --split "
            f"({run_manifest.split} as in training, or all for another dataset)"
        )
    if spec == run_manifest.split:
        train, test = run_manifest.train_subjects, run_manifest.test_subjects
    else:
        split = split_subjects(spec, shards.subjects)
        train, test = split.train, split.test
        if seen := sorted(set(test) & set(run_manifest.train_subjects)):
            raise UsageError(
                f"--split {spec}: would test on {len(seen)} subjects that the run has learned from "
                f"({', '.join(seen[:3])}, ...); leave --split out, or train on that split"
            )
    train_rows, test_rows = shards.of_subjects(train), shards.of_subjects(test)
    if not test_rows:
        raise UsageError(f"--shards {config.shards}: hold no subject of the run's test side; use --split all")
    return train_rows, test_rows


def _embedded(
    x: NDArray[np.float32], rows: Sequence[IndexRow], manifest: ShardManifest
) -> tuple[Embedded, tuple[str, ...]]:
    numbers = {expression: number for number, expression in enumerate(manifest.expressions)}
    y = np.array([numbers[row.expression] for row in rows])
    return Embedded(x, y, np.array([row.subject for row in rows])), manifest.expressions


def _predict(
    config: EvaluateConfig,
    model: TrainedModel,
    run_manifest: RunManifest,
    shards: ShardManifest,
    data: Embedded,
    num_train: int,
) -> Mapping[str, NDArray[np.int64]]:
    """Predicted classes of the scored samples, by protocol; no text, no zero-shot."""

    def fitted(method: Callable[[NDArray, NDArray], NDArray[np.int64]]) -> NDArray[np.int64]:
        if num_train == 0:
            return cross_predict(method, data.subjects.tolist())
        return method(np.arange(num_train), np.arange(num_train, len(data.y)))

    def by_prompts() -> NDArray[np.int64]:
        prompts = {expression: model.embed_prompts(shards.prompts[expression]) for expression in shards.expressions}
        return zero_shot(data.x[num_train:], prompts)

    def by_neighbours(fit: NDArray, predict: NDArray) -> NDArray[np.int64]:
        return knn(data.x[fit], data.y[fit], data.x[predict])

    def by_probe(fit: NDArray, predict: NDArray) -> NDArray[np.int64]:
        return linear_probe(data.x[fit], data.y[fit], data.x[predict], config.seed, data.subjects[fit])

    methods: dict[str, Callable[[], NDArray[np.int64]]] = {
        "zero-shot": by_prompts,
        "knn": lambda: fitted(by_neighbours),
        "probe": lambda: fitted(by_probe),
    }
    possible = [name for name in config.protocol if name != "zero-shot" or run_manifest.text_source != "none"]
    if not possible:
        raise UsageError("--protocol zero-shot: the run was trained without text; use knn or probe")
    return {name: methods[name]() for name in possible}


def _write(
    config: EvaluateConfig,
    manifest: EvaluationManifest,
    run_manifest: RunManifest,
    shards: ShardSet,
    rows: Sequence[IndexRow],
    x: NDArray[np.float32],
    y: NDArray[np.int64],
) -> None:
    folder = config.run / "evaluation"
    if not os.access(config.run, os.W_OK):
        raise UsageError(f"{config.run}: cannot be written, so there is nowhere to put the evaluation")
    folder.mkdir(exist_ok=True)
    figures = _figures(manifest.protocols, manifest.classes, RunDirectory(config.run).metrics(), x, y)
    facts = {
        "recipe": manifest.recipe,
        "image tower": f"{run_manifest.recipe['arch']} on {run_manifest.channel} images",
        "views": ", ".join(run_manifest.views),
        "trained on": f"{run_manifest.num_train_samples} samples of {len(run_manifest.train_subjects)} subjects",
        "steps": f"{run_manifest.num_steps} on {run_manifest.world_size} worker(s)",
        "split": run_manifest.split,
        "prompts": f"from {run_manifest.text_source}",
        "checkpoint": run_manifest.checkpoint,
        "run fingerprint": manifest.run_fingerprint,
        "shards fingerprint": manifest.shards_fingerprint,
    }
    page = render_report(manifest, figures, preview_png(shards, rows), facts)
    write_atomically(folder / "report.html", page.encode())
    manifest.write(folder / "manifest.json")


def _figures(
    scores: Mapping[str, ProtocolScore],
    classes: Sequence[str],
    metrics: Sequence[Mapping],
    x: NDArray[np.float32],
    y: NDArray[np.int64],
) -> dict[str, bytes]:
    drawn: dict[str, bytes | None] = {
        f"Confusion, {name}": plots.confusion_matrix(value, classes) for name, value in scores.items()
    }
    drawn |= {
        "Recall of each expression": plots.class_recall(scores, classes),
        "Accuracy by intensity": plots.level_accuracy(scores),
        "Embeddings of the scored samples": plots.embedding_map(x, y, classes),
        "Training": plots.training_curves(metrics),
    }
    return {title: figure for title, figure in drawn.items() if figure is not None}
