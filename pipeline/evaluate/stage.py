"""The evaluation stage: score a run on shards, and write a report.

    open run and shards -> select subjects -> embed -> predict by each protocol -> score -> RUN/evaluation/

The scored subjects are unseen ones, those that training left out, except with the split `all`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from smile_pipe.pipeline.captions.equal_tokens import warn_on_equal_tokens
from smile_pipe.pipeline.captions.knowledge import load_knowledge
from smile_pipe.pipeline.captions.naming import NAMING_VERSION
from smile_pipe.pipeline.classifiers.knn import ClassIndices, Features, Probabilities
from smile_pipe.pipeline.classifiers.metrics import score
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.data.dataset import DecodeSpec, DiskCache, FaceDataset
from smile_pipe.pipeline.data.integrity import open_shards
from smile_pipe.pipeline.data.temporal import frames_read, sequences_of
from smile_pipe.pipeline.evaluate.answers import examples_png
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.embeddings import EmbeddingSet, embed
from smile_pipe.pipeline.evaluate.protocols import ProtocolPredictor
from smile_pipe.pipeline.evaluate.questions import QuestionData, ask, has_text, question_pictures
from smile_pipe.pipeline.evaluate.report import evaluation_figures, evaluation_page
from smile_pipe.pipeline.evaluate.retrieval import retrieval_score
from smile_pipe.pipeline.evaluate.tables import predictions_csv, scores_csv
from smile_pipe.pipeline.evaluate.view_ablation import view_protocol, view_scores
from smile_pipe.pipeline.evaluate.vote_examples import vote_examples
from smile_pipe.pipeline.reports.contact_sheet import preview_png
from smile_pipe.pipeline.runs.cards import run_card
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest, Protocol
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.question_scores import check_questions
from smile_pipe.pipeline.runs.rig import rig_differences, warn_on_other_rig
from smile_pipe.pipeline.runs.run_directory import PREDICTIONS, PROBE, RunDirectory, open_run
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.selection import (
    candidate_classes,
    check_channel,
    resolve_protocols,
    resolve_temporal_read,
    select_rows,
    select_rows_cross_dataset,
)
from smile_pipe.pipeline.runs.training_captions import TrainingCaptions, embed_captions
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import ShardManifest, fingerprint
from smile_pipe.shards.reader import ShardSet

# For decoded images, which every epoch of fine-tuning needs; as much as the default of training.
FINETUNE_CACHE_BYTES = 1 << 30

VOTE_NOTE = (
    "caption-vote names faces by published prototypes of action units; on faces that were generated from such mixes of "
    "action units, its scores are partly circular"
)

Progress = Callable[[int, int], None]


def run(config: EvaluateConfig, on_progress: Progress = lambda done, total: None) -> EvaluationManifest:
    """Score a run, and write `evaluation/` into its directory.

    Args:
        config: the options.
        on_progress: called with embedded samples and their total, and then, if fine-tuning is requested, with its
            steps and their total.

    Raises:
        UsageError: no finished run, unusable shards or split, or another process writes to the run; nothing has been
            written.
        BadSampleError: a sample is damaged, or, if these are skipped, all samples are; nothing has been written.
    """
    open_run(config.run)
    if not config.run.is_writable():
        raise UsageError(f"{config.run}: cannot be written, and the evaluation is stored in it; check its permissions")
    with directory_lock(config.run):
        return _evaluate(config, on_progress)


def _evaluate(config: EvaluateConfig, on_progress: Progress) -> EvaluationManifest:
    run_manifest, checkpoint = open_run(config.run)
    selection = config.selection
    shards = open_shards(config.shards, config.on_bad_shard)
    fit_shards = open_shards(config.fit_on, config.on_bad_shard) if config.fit_on else None
    check_channel(selection, run_manifest, shards, fit_shards)
    disk_cache = DiskCache.of(config.cache_dir, config.cache_gb)
    differences = _rig_differences(run_manifest, shards, fit_shards)
    warn_on_other_rig(differences)
    if fit_shards:
        train_rows, test_rows = select_rows_cross_dataset(selection, run_manifest, fit_shards, shards)
    else:
        train_rows, test_rows = select_rows(selection, run_manifest, shards)
    classes = candidate_classes(selection, shards)
    names, notes = list[Protocol](), tuple[str, ...]()
    if config.class_protocols:
        names, notes = resolve_protocols(config.class_protocols, selection, run_manifest, shards.manifest, classes)
    check_questions(config.questions, run_manifest.text_source, len(shards.manifest.views))
    stored_rows = test_rows if fit_shards else [*test_rows, *train_rows]
    temporal = resolve_temporal_read(selection, run_manifest, shards, stored_rows)
    model = TrainedModel.load(run_manifest, checkpoint, "cuda" if config.use_gpu else "cpu")
    # Before the samples are read, which takes most of the time.
    if config.knowledge and "caption-vote" not in names:
        raise UsageError("needs `protocol=caption-vote`", field="knowledge", value=config.knowledge)
    voters, votes = _caption_votes(config, model, classes) if "caption-vote" in names else ((), None)
    notes = (*notes, VOTE_NOTE) if votes else notes
    decode_spec = model.decode_spec(run_manifest, temporal)
    # Without fine-tuning each sample is read once, so a cache would be useless.
    tunes = "finetune" in names
    cache_bytes = FINETUNE_CACHE_BYTES if tunes else 0
    open_dataset = partial(FaceDataset, on_bad_shard=config.on_bad_shard, disk_cache=disk_cache)
    dataset = open_dataset(shards, decode_spec, cache_bytes)
    fit_dataset = open_dataset(fit_shards, decode_spec, 0) if fit_shards else None
    data = embed(model, dataset, train_rows, test_rows, classes, config.batch_size, on_progress, fit_dataset)
    reads_text = "zero-shot" in names or (config.questions and has_text(run_manifest, shards.manifest, classes))
    texts = {name: shards.manifest.prompts[name] for name in classes if reads_text}
    warn_on_equal_tokens(model.tokenizer, texts)
    prompts = {name: model.embed_prompts(prompts) for name, prompts in texts.items()}
    predictor = ProtocolPredictor(model, data, prompts, run_manifest.classes, config.seed, votes, voters)
    predicted = {name: _predict(name, config, predictor, dataset, on_progress) for name in names}
    scores = _scores(predicted, predictor, shards.manifest.views, config.seed)
    finetuner = _finetuner(config, predictor, dataset) if tunes else None
    question_data = QuestionData(predictor, dataset, config.batch_size, finetuner)
    answers = ask(config.questions, question_data)
    scores["questions"] = {name: given.score for name, given in answers.items()}
    scores["rig_differences"] = differences
    scores["joined_fingerprints"] = shards.joined_fingerprints
    scores["fitted_on"] = fit_shards.manifest.fingerprint if fit_shards else None
    manifest = _manifest(config, run_manifest, shards.manifest, decode_spec, data, scores, notes)
    x, y = data.x[data.num_train :], data.test_labels.y
    figures = evaluation_figures(manifest, RunDirectory(config.run).metrics(), x, y)
    pictures = question_pictures(answers, question_data)
    if votes:
        shown = vote_examples(x, y, predicted["caption-vote"], data.classes, (voters, votes[0]), config.seed)
        pictures["caption-vote"] = examples_png(
            "caption vote: right names, then wrong ones", shards, data.test_rows, shown
        )
    page = evaluation_page(manifest, run_manifest, figures, preview_png(shards, data.test_rows), pictures)
    files = {
        "report.html": page.encode(),
        "scores.csv": scores_csv(manifest),
        PREDICTIONS: predictions_csv(data.test_rows, data.classes, predicted),
    }
    if "probe" in names and (probe := predictor.probe):
        files[PROBE] = probe.to_bytes(data.classes, run_manifest.fingerprint)
    _write(RunDirectory(config.run), files, manifest)
    RunDirectory(config.run).card_path.write_atomically(run_card(run_manifest, manifest).encode())
    return manifest


def _caption_votes(
    config: EvaluateConfig, model: TrainedModel, classes: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[Features, Probabilities]]:
    """Return the captions of the run, their embeddings, and their votes for the candidates."""
    captions = TrainingCaptions.read(config.run)
    knowledge = load_knowledge(config.knowledge) if config.knowledge else None
    return tuple(captions.captions), (embed_captions(model, captions), captions.votes(classes, knowledge))


def _rig_differences(run: RunManifest, shards: ShardSet, fit_shards: ShardSet | None) -> tuple[str, ...]:
    """Describe how the rig of each shard set differs from that of training."""
    others = rig_differences(run, fit_shards.manifest) if fit_shards else ()
    return (*rig_differences(run, shards.manifest), *(f"{each} in the shards to fit on" for each in others))


def _predict(
    name: Protocol, config: EvaluateConfig, predictor: ProtocolPredictor, dataset: FaceDataset, on_progress: Progress
) -> Probabilities:
    if name != "finetune":
        return predictor.probabilities(name, predictor.data.x)
    return _finetuner(config, predictor, dataset, on_progress)(np.arange(predictor.data.num_train))


def _finetuner(
    config: EvaluateConfig,
    predictor: ProtocolPredictor,
    dataset: FaceDataset,
    on_progress: Progress = lambda done, total: None,
) -> Callable[[ClassIndices], Probabilities]:
    """Return a function that fine-tunes on some of the samples to fit on, and predicts the scored ones."""
    from smile_pipe.pipeline.evaluate.finetune import finetune

    data = predictor.data

    def predict(numbers: ClassIndices) -> Probabilities:
        probabilities = finetune(
            predictor.model,
            dataset,
            [data.train_rows[number] for number in numbers],
            data.test_rows,
            y_train=data.y[numbers],
            num_classes=len(data.classes),
            seed=config.seed,
            epochs=config.finetune_epochs,
            on_progress=on_progress,
        )
        return np.asarray(probabilities, np.float64)

    return predict


def _scores(
    predicted: Mapping[Protocol, Probabilities], predictor: ProtocolPredictor, views: tuple[str, ...], seed: int
) -> dict[str, Any]:
    """Return all scores, by the names of the manifest's fields."""
    data, ablated = predictor.data, view_protocol(predicted)
    x = data.x[data.num_train :]
    return {
        "protocols": {name: score(data.test_labels, values, seed) for name, values in predicted.items()},
        "view_protocol": ablated,
        "view_scores": view_scores(predictor, ablated, views, seed) if ablated else (),
        "retrieval": retrieval_score(x, data.test_labels.y, predictor.prompts) if "zero-shot" in predicted else None,
    }


def _manifest(
    config: EvaluateConfig,
    run: RunManifest,
    shards: ShardManifest,
    decode_spec: DecodeSpec,
    data: EmbeddingSet,
    scores: Mapping[str, Any],
    notes: tuple[str, ...],
) -> EvaluationManifest:
    split, names = "all" if config.fit_on else config.split or run.split, list(scores["protocols"])
    rows, sequences = data.test_rows, sequences_of(data.test_rows)
    epochs = config.finetune_epochs if "finetune" in names else None
    fingerprinted: list[Any] = [run.fingerprint, shards.fingerprint, split, names, config.seed, config.where]
    fingerprinted += [] if epochs is None else [epochs]
    if "caption-vote" in names:
        knowledge = load_knowledge(config.knowledge) if config.knowledge else None
        fingerprinted += [TrainingCaptions.read(config.run), knowledge, NAMING_VERSION]
    fingerprinted += [list(scores["questions"])] if scores["questions"] else []
    fingerprinted += [scores["fitted_on"]] if scores["fitted_on"] else []
    fingerprinted += [] if data.classes == shards.expressions else [data.classes]
    if run.num_skipped_steps:
        notes = (*notes, f"{run.num_skipped_steps} of {run.num_steps} training steps skipped: not finite")
    if data.num_skipped:
        notes = (*notes, f"{pluralize(data.num_skipped, 'damaged sample')} left out (`smile-pipe verify` names them)")
        fingerprinted.append([row.key for row in rows])
    return EvaluationManifest(
        fingerprint=fingerprint(*fingerprinted),
        run_fingerprint=run.fingerprint,
        shards_fingerprint=shards.fingerprint,
        split=split,
        where=config.where,
        text_source=run.text_source,
        temporal=decode_spec.temporal,
        max_frames=decode_spec.max_frames,
        recipe=str(run.recipe["name"]),
        views=shards.views,
        classes=data.classes,
        num_subjects=len({row.subject for row in rows}),
        num_scans=len(rows) - len(sequences),
        num_sequences=len(sequences),
        num_frames=sum(frames_read(row, decode_spec.temporal, decode_spec.max_frames) for row in sequences),
        num_skipped=data.num_skipped,
        finetune_epochs=epochs,
        notes=notes,
        **scores,
    )


def _write(run: RunDirectory, files: Mapping[str, bytes], manifest: EvaluationManifest) -> None:
    run.evaluation_path.ensure_folder()
    # After a crash, the manifest or the probe of an earlier evaluation must not be next to files of this one.
    for path in (run.evaluation_manifest_path, run.probe_path):
        path.unlink(missing_ok=True)
    for name, content in files.items():
        (run.evaluation_path / name).write_atomically(content)
    manifest.write(run.evaluation_manifest_path)
