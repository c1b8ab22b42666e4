"""The evaluation stage: a run and shards in, scores and a report out.

    open run and shards -> choose subjects -> embed -> predict by each protocol -> score -> RUN/evaluation/

The subjects that are scored are, unless `all` is asked for, ones that training never saw.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from smile_pipe.pipeline.classifiers.knn import Probabilities
from smile_pipe.pipeline.classifiers.metrics import score
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.data.integrity import open_shards
from smile_pipe.pipeline.data.temporal import frames_read, is_sequence
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet, embed
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.evaluate.report import evaluation_page
from smile_pipe.pipeline.evaluate.retrieval import retrieval_score
from smile_pipe.pipeline.evaluate.tables import predictions_csv, scores_csv
from smile_pipe.pipeline.evaluate.view_ablation import view_protocol, view_scores
from smile_pipe.pipeline.reports.preview import preview_png
from smile_pipe.pipeline.runs.cards import run_card
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, Protocol
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import PROBE, RunDirectory, open_run
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.selection import (
    check_channel,
    possible_protocols,
    read_of_sequences,
    select_rows,
    select_rows_cross_dataset,
)
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import ShardManifest, fingerprint

# For images that are looked at in every epoch of fine-tuning; as much as training takes by default.
FINETUNE_CACHE_BYTES = 1 << 30

Progress = Callable[[int, int], None]


def run(config: EvaluateConfig, on_progress: Progress = lambda done, total: None) -> EvaluationManifest:
    """Score a run, and write `evaluation/` into its directory.

    `on_progress` is told of samples that are embedded, and then of steps of fine-tuning, where that is asked for.

    Raises:
        UsageError: no finished run, unusable shards or split, or another process writes to the run; nothing has been
            written.
        BadSampleError: a sample is damaged, or where these are skipped, all are; nothing has been written.
    """
    open_run(config.run)
    if not config.run.is_writable():
        raise UsageError(f"{config.run}: cannot be written, so there is nowhere to put the evaluation")
    with directory_lock(config.run):
        return _evaluate(config, on_progress)


def _evaluate(config: EvaluateConfig, on_progress: Progress) -> EvaluationManifest:
    run_manifest, checkpoint = open_run(config.run)
    shards = open_shards(config.shards, config.on_bad_shard)
    fit = open_shards(config.fit_on, config.on_bad_shard) if config.fit_on else None
    check_channel(config, run_manifest, shards, fit)
    if fit:
        train_rows, test_rows = select_rows_cross_dataset(config, run_manifest, fit, shards)
    else:
        train_rows, test_rows = select_rows(config, run_manifest, shards)
    names, notes = possible_protocols(config, run_manifest, shards.manifest)
    temporal = read_of_sequences(config, run_manifest, shards, test_rows if fit else [*test_rows, *train_rows])
    model = TrainedModel.load(run_manifest, checkpoint, "cuda" if config.use_gpu else "cpu")
    reading = DecodeSpec(run_manifest.channel, model.model.towers.image_size, temporal, run_manifest.max_frames)
    # Without fine-tuning each sample is read once, so none is worth remembering.
    reader = FaceDataset(shards, reading, FINETUNE_CACHE_BYTES if "finetune" in names else 0, config.on_bad_shard)
    fit_reader = FaceDataset(fit, reading, 0, config.on_bad_shard) if fit else None
    data = embed(model, reader, train_rows, test_rows, config.batch_size, on_progress, fit_reader)
    texts = shards.manifest.prompts if "zero-shot" in names else {}
    prompts = {name: model.embed_prompts(texts[name]) for name in data.classes if texts}
    predictor = ProtocolPredictor(model, data, prompts, run_manifest.classes, config.seed)
    predicted = {name: _predict(name, config, predictor, reader, on_progress) for name in names}
    figures = _figures(predicted, predictor, shards.manifest.views, config.seed)
    figures["fitted_on"] = fit.manifest.fingerprint if fit else None
    manifest = _manifest(config, run_manifest, shards.manifest, reading, data, figures, notes)
    x, truth = data.x[data.num_train :], data.truth.y
    metrics, sheet = RunDirectory(config.run).metrics(), preview_png(shards, data.scored)
    files = {
        "report.html": evaluation_page(manifest, run_manifest, metrics, x, truth, sheet).encode(),
        "scores.csv": scores_csv(manifest),
        "predictions.csv": predictions_csv(data.scored, data.classes, predicted),
    }
    if "probe" in names and (probe := predictor.probe):
        files[PROBE] = probe.to_bytes(data.classes, run_manifest.fingerprint)
    _write(RunDirectory(config.run), files, manifest)
    RunDirectory(config.run).card_path.write_atomically(run_card(run_manifest, manifest).encode())
    return manifest


def _predict(
    name: Protocol, config: EvaluateConfig, predictor: ProtocolPredictor, reader: FaceDataset, on_progress: Progress
) -> Probabilities:
    """Probabilities of the classes, for the scored samples."""
    data = predictor.data
    if name != "finetune":
        return predictor.probabilities(name, data.x)
    from smile_pipe.pipeline.evaluate.finetune import finetune

    classes, epochs = data.y[: data.num_train], config.finetune_epochs
    given = (predictor.model, reader, data.fitted, data.scored, classes, len(data.classes))
    return np.asarray(finetune(*given, config.seed, epochs, on_progress), np.float64)


def _figures(
    predicted: Mapping[Protocol, Probabilities], predictor: ProtocolPredictor, views: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """All that is measured, by the names of the manifest's fields."""
    data, chosen = predictor.data, view_protocol(predicted)
    scored = data.x[data.num_train :]
    return {
        "protocols": {name: score(data.truth, found, seed) for name, found in predicted.items()},
        "view_protocol": chosen,
        "view_scores": view_scores(predictor, chosen, views, seed) if chosen else (),
        "retrieval": retrieval_score(scored, data.truth.y, predictor.prompts) if predictor.prompts else None,
    }


def _manifest(
    config: EvaluateConfig,
    run: RunManifest,
    shards: ShardManifest,
    reading: DecodeSpec,
    data: EmbeddingSet,
    figures: Mapping[str, Any],
    notes: tuple[str, ...],
) -> EvaluationManifest:
    split, names = "all" if config.fit_on else config.split or run.split, list(figures["protocols"])
    rows, sequences = data.scored, [row for row in data.scored if is_sequence(row)]
    epochs = config.finetune_epochs if "finetune" in names else None
    made_of: list[Any] = [run.fingerprint, shards.fingerprint, split, names, config.seed, config.where]
    made_of += [] if epochs is None else [epochs]
    made_of += [figures["fitted_on"]] if figures["fitted_on"] else []
    if data.num_skipped:
        notes = (*notes, f"{pluralize(data.num_skipped, 'damaged sample')} left out (`smile-pipe verify` names them)")
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
        finetune_epochs=epochs,
        notes=notes,
        **figures,
    )


def _write(run: RunDirectory, files: Mapping[str, bytes], manifest: EvaluationManifest) -> None:
    run.evaluation_path.ensure_folder()
    # Neither the manifest nor the probe of an evaluation before this one must stand beside files of this one.
    for path in (run.evaluation_manifest_path, run.probe_path):
        path.unlink(missing_ok=True)
    for name, content in files.items():
        (run.evaluation_path / name).write_atomically(content)
    manifest.write(run.evaluation_manifest_path)
