"""The cross-validation stage: train and score a run for each fold, and report the scores of all folds.

    open shards -> plan folds by split protocol -> train and evaluate each -> manifest, scores.csv, report.html

A cross-dataset evaluation has one such fold: all of one shard set is trained on, and all of another one is scored.

Runs are incremental and resumable: unfinished folds continue from their last checkpoints. A fold is an ordinary run:
`smile-pipe train` with the options in its config.json produces the same.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from smile_pipe.pipeline.captions.knowledge import load_knowledge
from smile_pipe.pipeline.captions.naming import NAMING_VERSION
from smile_pipe.pipeline.common.directory_lock import NAME as LOCK_NAME
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.common.ray_session import ray_session
from smile_pipe.pipeline.crossval.config import DEFAULT_SPLIT_PROTOCOL, CrossvalConfig
from smile_pipe.pipeline.crossval.folds import Fold, run_fold, run_folds_on_ray
from smile_pipe.pipeline.crossval.protocols import FoldPlan, plan_folds
from smile_pipe.pipeline.crossval.report import crossval_page
from smile_pipe.pipeline.crossval.scores import aggregate_folds, aggregate_questions, fold_score, scores_csv
from smile_pipe.pipeline.data.integrity import open_shards
from smile_pipe.pipeline.data.selection import select_training_rows, split_validation
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.pipeline.runs.predictions import PredictionTable
from smile_pipe.pipeline.runs.question_scores import check_questions
from smile_pipe.pipeline.runs.rig import rig_differences
from smile_pipe.pipeline.runs.run_config import StageConfigRecord, load_stage_config
from smile_pipe.pipeline.runs.selection import SampleSelection, candidate_classes
from smile_pipe.pipeline.train import stage as train
from smile_pipe.shards.cache import local_folder
from smile_pipe.shards.errors import UsageError, storage_errors
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import canonical_json, fingerprint
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sampler import steps_per_epoch
from smile_pipe.shards.splits import split_subjects
from smile_pipe.shards.storage import StoragePath
from smile_pipe.shards.urls import absolute_sets, schemes_of

Progress = Callable[[int, int, str], None]


class _CrossvalRecord(StageConfigRecord):
    crossval: dict[str, Any]


def run(config: CrossvalConfig, on_progress: Progress = lambda done, total, note: None) -> CrossvalManifest:
    """Cross-validate.

    Args:
        config: the options.
        on_progress: called with the training steps done in all folds, their total, and a note.

    Returns:
        The manifest, which has been written to `config.out`.

    Raises:
        UsageError: see `smile_pipe.pipeline.train.stage.run`, or the samples do not fit the split protocol; nothing
            has been written.
        BadSampleError: the shards are damaged; finished folds are kept.
    """
    train_shards, test_shards = _open_shards(config)
    folds = _folds(config, train_shards, test_shards)
    num_steps = _num_steps(folds, train_shards, test_shards)
    reads_knowledge = "knowledge" in (config.text, config.pseudo_start)
    folds_fingerprint = fingerprint(
        [fold.train.for_fingerprint() for fold in folds],
        train_shards.manifest.fingerprint,
        folds[0].scored_on,
        *([load_knowledge(config.knowledge), NAMING_VERSION] if reads_knowledge else []),
    )
    result_fingerprint = fingerprint(folds_fingerprint, config.protocol)
    config.out.check_output_folder()
    with directory_lock(config.out):
        if _holds_other_files(config.out, folds_fingerprint):
            raise UsageError(
                "holds other files, or folds with other options; name another directory", field="out", value=config.out
            )
        if (path := config.out / "manifest.json").exists():
            manifest = CrossvalManifest.read(path)
            is_current = manifest.schema_version == CrossvalManifest.model_fields["schema_version"].default
            if is_current and manifest.fingerprint == result_fingerprint and all(fold.evaluation() for fold in folds):
                return manifest
        record = {
            "fingerprint": folds_fingerprint,
            "shards": train.relative_shards_path(config.out, train_shards),
            "shards_fingerprint": train_shards.manifest.fingerprint,
            "scored_on": train.relative_shards_path(config.out, test_shards),
            "crossval": config.recorded(),
        }
        (config.out / "config.json").write_atomically(canonical_json(record).encode())
        _run_folds(config, folds, num_steps, on_progress)
        manifest = _manifest(config, result_fingerprint, train_shards, test_shards, folds)
        (config.out / "scores.csv").write_atomically(scores_csv(manifest))
        (config.out / "report.html").write_atomically(crossval_page(manifest).encode())
        manifest.write(config.out / "manifest.json")
    return manifest


def _open_shards(config: CrossvalConfig) -> tuple[ShardSet, ShardSet]:
    """Open the shards to train on and those to score: two sets, or the same one twice."""
    if config.is_cross_dataset:
        first, second = (open_shards(str(spec), config.on_bad_shard) for spec in (config.train_on, config.test_on))
        if first.fingerprints & second.fingerprints:
            raise UsageError("contains shards of `train_on`; name another dataset", field="test_on", value=second.spec)
        return first, second
    shards = open_shards(str(config.shards), config.on_bad_shard)
    return shards, shards


def _plan(config: CrossvalConfig, shards: ShardSet) -> FoldPlan:
    if config.is_cross_dataset:
        return FoldPlan(("all",), config.where)
    return plan_folds(
        config.split_protocol or DEFAULT_SPLIT_PROTOCOL,
        shards.rows,
        subset=config.subset,
        where=config.where,
        num_subjects=config.num_subjects,
        seed=config.seed,
    )


def _folds(config: CrossvalConfig, train_shards: ShardSet, test_shards: ShardSet) -> list[Fold]:
    plan = _plan(config, train_shards)
    if config.cache_dir:
        # Workers of a cluster have another working directory.
        config = config.model_copy(update={"cache_dir": local_folder(config.cache_dir)})
    out = config.out.absolute()
    source, target = (absolute_sets(str(spec or config.shards)) for spec in (config.train_on, config.test_on))
    classes = candidate_classes(SampleSelection(target, None, plan.where, config.on_bad_shard), test_shards)
    cross_dataset = {"split": "all", "fit_on": source} if config.is_cross_dataset else {}
    folds = []
    for number, split in enumerate(plan.splits):
        folder = out / "folds" / f"{number:0{max(2, len(str(len(plan.splits) - 1)))}d}"
        evaluation = {
            "run": folder,
            "shards": target,
            "protocol": config.protocol,
            "where": plan.where,
            "cache_dir": config.cache_dir,
            "cache_gb": config.cache_gb,
            "on_bad_shard": config.on_bad_shard,
            "seed": config.seed,
            "use_gpu": config.use_gpu,
            **cross_dataset,
        }
        training = config.train_config(source, split, plan.where, folder)
        evaluate = EvaluateConfig.model_validate(evaluation)
        folds.append(Fold(training, evaluate, test_shards.manifest.fingerprint, classes))
    return folds


def _num_steps(folds: Sequence[Fold], shards: ShardSet, test_shards: ShardSet) -> int:
    """Return the number of training steps of all folds; checks the options of the first fold with `train.prepare`."""
    config = folds[0].train
    _, _, job = train.prepare(config, in_process=config.num_workers == 1)
    check_questions(folds[0].evaluate.questions, job.text_source, len(test_shards.manifest.views))
    num_samples_of = Counter(select_training_rows(shards, shards.subjects, config.where).values("subject"))
    total = 0
    for fold in folds:
        subjects, _ = split_validation(split_subjects(fold.train.split, num_samples_of).train, config.val_fraction)
        num_samples = sum(num_samples_of[subject] for subject in subjects)
        total += steps_per_epoch(num_samples, config.batch_size * config.num_workers)
    return total * config.epochs


def _holds_other_files(out: StoragePath, folds_fingerprint: str) -> bool:
    """Whether a folder holds anything but this cross-validation; for the errors see `load_stage_config`."""
    if record := load_stage_config(out / "config.json", _CrossvalRecord, "cross-validation"):
        return record["fingerprint"] != folds_fingerprint
    return bool({entry.name for entry in out.iterdir()} - {LOCK_NAME})


def _run_folds(config: CrossvalConfig, folds: Sequence[Fold], num_steps: int, on_progress: Progress) -> None:
    unfinished = [fold for fold in folds if fold.evaluation() is None]
    done = num_finished = 0

    def report_progress(*_: Any) -> None:
        nonlocal done, num_finished
        # After a temporary failure of the storage, the next call reports its state.
        with suppress(OSError), storage_errors(config.out):
            done = sum(fold.directory.progress()[0] for fold in folds)
            num_finished = sum(fold.evaluation_path.exists() for fold in folds)
        on_progress(min(done, num_steps), num_steps, f"{num_finished} of {pluralize(len(folds), 'fold')}")

    if not unfinished:
        return
    inputs = {spec for fold in folds for spec in (fold.train.shards, fold.evaluate.shards)}
    if config.out.is_in_memory or any("memory" in schemes_of(spec) for spec in inputs):
        for fold in unfinished:
            run_fold(fold, on_metrics=report_progress)
        return
    with ray_session(config.address):
        if config.num_workers == 1:
            run_folds_on_ray(unfinished, config.cores_per_fold, report_progress)
        else:
            for fold in unfinished:
                run_fold(fold, on_metrics=report_progress)


def _manifest(
    config: CrossvalConfig,
    result_fingerprint: str,
    train_shards: ShardSet,
    test_shards: ShardSet,
    folds: Sequence[Fold],
) -> CrossvalManifest:
    runs, evaluations = zip(*(fold.results() for fold in folds), strict=True)
    predictions = PredictionTable.join([PredictionTable.read(fold.directory.predictions_path) for fold in folds])
    # A fold that is trained on the split "all" has no test subjects of its own: all of the other dataset's are.
    scored_rows = select_training_rows(test_shards, test_shards.subjects, folds[0].evaluate.where)
    subjects = [run.test_subjects or sorted({row.subject for row in scored_rows}) for run in runs]
    return CrossvalManifest(
        fingerprint=result_fingerprint,
        shards_fingerprint=train_shards.manifest.fingerprint,
        scored_on=test_shards.manifest.fingerprint,
        protocol="across" if config.is_cross_dataset else config.split_protocol or DEFAULT_SPLIT_PROTOCOL,
        subset=config.subset,
        where=folds[0].train.where,
        config=folds[0].train.recorded(),
        recipe=config.recipe,
        without=config.drop_loss,
        views=test_shards.manifest.views,
        rig_differences=rig_differences(runs[0], test_shards.manifest),
        channel=runs[0].channel,
        text_source=runs[0].text_source,
        precision=runs[0].precision,
        classes=folds[0].classes,
        folds=tuple(
            fold_score(fold.train.out.name, run, evaluation, tested)
            for fold, run, evaluation, tested in zip(folds, runs, evaluations, subjects, strict=True)
        ),
        scores=aggregate_folds(evaluations, predictions, config.seed),
        questions=aggregate_questions(evaluations),
    )
