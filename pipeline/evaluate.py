"""The evaluation stage: a run and shards in, scores and a report out.

    open run and shards -> choose subjects -> embed -> zero-shot, kNN, linear probe -> report.html, manifest.json

The subjects that are scored are, unless `all` is asked for, ones that training never saw.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.directory_lock import directory_lock
from pipeline.evaluation.config import EvaluateConfig, Protocol
from pipeline.evaluation.manifest import EvaluationManifest, ProtocolScore
from pipeline.evaluation.page import evaluation_page
from pipeline.evaluation.protocols import cross_predict, knn, linear_probe, score, zero_shot
from pipeline.filters import SampleFilter
from pipeline.preview import preview_png
from pipeline.training.damage import nothing_left, open_shards
from pipeline.training.faces import FaceReader, Reading
from pipeline.training.manifest import RunManifest
from pipeline.training.run_directory import RunDirectory, open_run
from pipeline.training.sequences import (
    TemporalRead,
    can_read,
    default_temporal,
    frames_read,
    is_sequence,
    stored_temporal,
)
from pipeline.training.trained import TrainedModel
from shards.errors import UsageError
from shards.index import IndexRow
from shards.manifest import ShardManifest, fingerprint
from shards.places import write_atomically
from shards.reader import ShardSet
from shards.splits import split_subjects


@dataclass(frozen=True)
class Embedded:
    """Samples as the protocols take them, those to fit on first.

    Attributes:
        x: fused embeddings, [N, D].
        y: classes, numbered as in the shards' manifest, [N].
        subjects: whose samples they are, [N].
        num_train: how many are to fit on; the others are scored.
        scored: the rows of the others.
        num_skipped: samples that are not among them, as they are damaged.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    subjects: NDArray[np.str_]
    num_train: int
    scored: list[IndexRow]
    num_skipped: int


def run(
    config: EvaluateConfig, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> EvaluationManifest:
    """Score a run, and write `evaluation/` into its directory.

    Raises:
        UsageError: no finished run, unusable shards or split, or another process writes to the run; nothing has been
            written.
        BadSampleError: a sample is damaged, or where these are skipped, all are; nothing has been written.
    """
    open_run(config.run)
    if isinstance(config.run, Path) and not os.access(config.run, os.W_OK):
        raise UsageError(f"{config.run}: cannot be written, so there is nowhere to put the evaluation")
    with directory_lock(config.run):
        return _evaluate(config, on_progress)


def _evaluate(config: EvaluateConfig, on_progress: Callable[[int, int], None]) -> EvaluationManifest:
    run_manifest, checkpoint = open_run(config.run)
    shards = open_shards(config.shards, config.on_bad_shard)
    if run_manifest.channel not in shards.manifest.channels:
        raise UsageError(
            f"--shards {config.shards}: lack the channel {run_manifest.channel}, which the run learned from"
        )
    train_rows, test_rows = _sides(config, run_manifest, shards)
    names, notes = _possible(config, run_manifest, shards.manifest)
    temporal = _temporal(config, run_manifest, shards, [*test_rows, *train_rows])
    model = TrainedModel.load(run_manifest, checkpoint, "cuda" if config.use_gpu else "cpu")
    reading = Reading(run_manifest.channel, model.model.towers.image_size, temporal, run_manifest.max_frames)
    # Each sample is read once, so none is worth remembering.
    reader = FaceReader(shards, reading, 0, config.on_bad_shard)
    data = _embed(config, model, reader, train_rows, test_rows, on_progress)
    truth = data.y[data.num_train :]
    predictions = {name: _predict(name, config.seed, model, run_manifest, shards.manifest, data) for name in names}
    levels, classes = [row.level for row in data.scored], shards.manifest.expressions
    scores: dict[str, ProtocolScore] = {
        name: score(truth, predicted, classes, levels) for name, predicted in predictions.items()
    }
    manifest = _manifest(config, run_manifest, shards.manifest, reading, data, scores, notes)
    metrics, sheet = RunDirectory(config.run).metrics(), preview_png(shards, data.scored)
    page = evaluation_page(manifest, run_manifest, metrics, data.x[data.num_train :], truth, sheet)
    folder = config.run / "evaluation"
    if isinstance(folder, Path):
        folder.mkdir(exist_ok=True)
    write_atomically(folder / "report.html", page.encode())
    manifest.write(folder / "manifest.json")
    return manifest


def _manifest(
    config: EvaluateConfig,
    run: RunManifest,
    shards: ShardManifest,
    reading: Reading,
    data: Embedded,
    scores: Mapping[str, ProtocolScore],
    notes: tuple[str, ...],
) -> EvaluationManifest:
    split = config.split or run.split
    rows, sequences = data.scored, [row for row in data.scored if is_sequence(row)]
    made_of: list[Any] = [run.fingerprint, shards.fingerprint, split, list(scores), config.seed, config.where]
    if data.num_skipped:
        notes = (*notes, f"{data.num_skipped} damaged samples were left out (`smile-pipe verify` names them)")
        made_of.append([row.key for row in rows])
    return EvaluationManifest(
        fingerprint=fingerprint(*made_of),
        run_fingerprint=run.fingerprint,
        shards_fingerprint=shards.fingerprint,
        split=split,
        where=config.where,
        text_source=run.text_source,
        temporal=reading.temporal,
        max_frames=reading.max_frames,
        recipe=str(run.recipe["name"]),
        classes=shards.expressions,
        num_subjects=len({row.subject for row in rows}),
        num_scans=len(rows) - len(sequences),
        num_sequences=len(sequences),
        num_frames=sum(frames_read(row, reading.temporal, reading.max_frames) for row in sequences),
        num_skipped=data.num_skipped,
        notes=notes,
        protocols=scores,
    )


def _sides(
    config: EvaluateConfig, run_manifest: RunManifest, shards: ShardSet
) -> tuple[list[IndexRow], list[IndexRow]]:
    """Rows to fit protocols on, none for `all`, and rows to score."""
    spec, meant = config.split or run_manifest.split, SampleFilter.model_validate({"where": config.where})
    if spec == "all":
        return [], meant.apply(shards.rows)
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
    return meant.apply(train_rows), meant.apply(test_rows)


def _possible(
    config: EvaluateConfig, run_manifest: RunManifest, shards: ShardManifest
) -> tuple[list[Protocol], tuple[str, ...]]:
    """The protocols asked for that can be had, and notes on what cannot: zero-shot needs texts on both sides.

    A run with a classifier has that in place of zero-shot.
    """
    if run_manifest.recipe["name"] == "supervised":
        if not set(run_manifest.classes) & set(shards.expressions):
            raise UsageError(f"the run tells {', '.join(run_manifest.classes)} apart, and the shards have none of them")
        return [*dict.fromkeys("classifier" if name == "zero-shot" else name for name in config.protocol)], ()
    if "classifier" in config.protocol:
        raise UsageError("--protocol classifier: the run has none; train with --recipe supervised for one")
    missing = [expression for expression in shards.expressions if not shards.prompts.get(expression)]
    if run_manifest.text_source == "none":
        reason = "the run was trained without text"
    elif missing:
        reason = f"the shards carry no prompts for {', '.join(missing[:5])}"
    else:
        return list(config.protocol), ()
    names: list[Protocol] = [name for name in config.protocol if name != "zero-shot"]
    if not names:
        raise UsageError(f"--protocol zero-shot: {reason}; use knn or probe")
    return names, (f"zero-shot was left out: {reason}",) if "zero-shot" in config.protocol else ()


def _temporal(
    config: EvaluateConfig, run_manifest: RunManifest, shards: ShardSet, rows: Sequence[IndexRow]
) -> TemporalRead:
    """What of sequences is read: what the run learned from, or what there is where it learned from scans only."""
    stored = stored_temporal(shards, rows, config.on_bad_shard)
    if run_manifest.temporal == "none" or stored == "none":
        return default_temporal(stored)
    if not can_read(stored, run_manifest.temporal):
        raise UsageError(
            f"--shards {config.shards}: of sequences they hold {stored}, and the run learned from "
            f"{run_manifest.temporal}; render them with --temporal {run_manifest.temporal}"
        )
    return run_manifest.temporal


def _embed(
    config: EvaluateConfig,
    model: TrainedModel,
    reader: FaceReader,
    train_rows: Sequence[IndexRow],
    test_rows: Sequence[IndexRow],
    on_progress: Callable[[int, int], None],
) -> Embedded:
    rows = [*train_rows, *test_rows]
    parts: list[NDArray[np.float32]] = []
    for part in model.embed_faces(reader, rows, config.batch_size):
        parts.append(part)
        on_progress(sum(map(len, parts)), len(rows))
    good, scored = ([row for row in side if row.key not in reader.skipped] for side in (rows, test_rows))
    if not scored:
        raise nothing_left(reader.shards, len(test_rows))
    numbers = {expression: number for number, expression in enumerate(reader.shards.manifest.expressions)}
    y, subjects = np.array([numbers[row.expression] for row in good]), np.array([row.subject for row in good])
    num_train, num_skipped = len(good) - len(scored), len(rows) - len(good)
    return Embedded(np.concatenate(parts), y, subjects, num_train, scored, num_skipped)


def _predict(
    protocol: Protocol, seed: int, model: TrainedModel, run: RunManifest, shards: ShardManifest, data: Embedded
) -> NDArray[np.int64]:
    """Predicted classes of the scored samples."""
    if protocol == "zero-shot":
        prompts = {expression: model.embed_prompts(shards.prompts[expression]) for expression in shards.expressions}
        return zero_shot(data.x[data.num_train :], prompts)
    if protocol == "classifier":
        # Only among the classes that can be right.
        known = [number for number, name in enumerate(run.classes) if name in shards.expressions]
        numbers = np.array([shards.expressions.index(run.classes[number]) for number in known])
        return numbers[model.classify(data.x[data.num_train :])[:, known].argmax(axis=1)]

    def fit_predict(fit: NDArray[np.int64], predict: NDArray[np.int64]) -> NDArray[np.int64]:
        if protocol == "knn":
            return knn(data.x[fit], data.y[fit], data.x[predict])
        return linear_probe(data.x[fit], data.y[fit], data.x[predict], seed, data.subjects[fit])

    if data.num_train == 0:
        return cross_predict(fit_predict, data.subjects.tolist())
    return fit_predict(np.arange(data.num_train), np.arange(data.num_train, len(data.y)))
