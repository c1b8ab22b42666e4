"""The cross-validation stage: shards in, a run and its scores for each fold out, and what they tell together.

    open shards -> fold by protocol -> train and evaluate each -> manifest, scores.csv, report.html

Across datasets there is one such fold: all of one set of shards is learned from, and all of another one scored.

Safe to stop: asked again, it goes on with the folds that are not finished, from their last checkpoints. A fold is a
run like any other: `smile-pipe train` with the options in its config.json makes the same.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from smile_pipe.pipeline.common.directory_lock import NAME as LOCK_NAME
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.common.ray_session import ray_session
from smile_pipe.pipeline.crossval.config import DEFAULT_PROTOCOL, CrossvalConfig
from smile_pipe.pipeline.crossval.folds import Fold, run_fold, run_on_ray
from smile_pipe.pipeline.crossval.protocols import Folds, plan_folds
from smile_pipe.pipeline.crossval.report import crossval_page
from smile_pipe.pipeline.crossval.scores import fold_score, gather_scores, scores_csv
from smile_pipe.pipeline.data.integrity import open_shards
from smile_pipe.pipeline.data.selection import select_training_rows, split_validation
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.pipeline.runs.run_config import StageConfigRecord, load_stage_config
from smile_pipe.pipeline.train import stage as train
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import canonical_json, fingerprint
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sampler import Sampler
from smile_pipe.shards.splits import split_subjects
from smile_pipe.shards.storage import StoragePath, absolute, scheme_of, storage_errors

Progress = Callable[[int, int, str], None]


class _BegunFolds(StageConfigRecord):
    crossval: dict[str, Any]


def run(config: CrossvalConfig, on_progress: Progress = lambda done, total, note: None) -> CrossvalManifest:
    """Cross-validate; `on_progress` is told the steps done of all folds, how many there are, and a note.

    Raises:
        UsageError: see `smile_pipe.pipeline.train.stage.run`, also for the protocol; nothing has been written.
        BadSampleError: the shards are damaged; what is finished is kept.
    """
    learned, scored = _open(config)
    folds = _folds(config, learned, scored)
    num_steps = _num_steps(folds, learned)
    load_run_config = fingerprint(
        [fold.train.for_fingerprint() for fold in folds], learned.manifest.fingerprint, folds[0].scored_on
    )
    mark = fingerprint(load_run_config, config.score)
    config.out.check_output_folder()
    with directory_lock(config.out):
        if _has_other(config.out, load_run_config):
            raise UsageError(
                "holds something else, or folds with other options; name another", field="out", value=config.out
            )
        if (path := config.out / "manifest.json").exists():
            manifest = CrossvalManifest.read(path)
            if manifest.fingerprint == mark and all(fold.evaluation() for fold in folds):
                return manifest
        asked = {
            "fingerprint": load_run_config,
            "shards": train.shards_from(config.out, learned),
            "shards_fingerprint": learned.manifest.fingerprint,
            "scored_on": train.shards_from(config.out, scored),
            "crossval": config.model_dump(mode="json", exclude={"out", "shards", "train_on", "test_on", "address"}),
        }
        (config.out / "config.json").write_atomically(canonical_json(asked).encode())
        _run_folds(config, folds, num_steps, on_progress)
        manifest = _manifest(config, mark, learned, scored, folds)
        (config.out / "scores.csv").write_atomically(scores_csv(manifest))
        (config.out / "report.html").write_atomically(crossval_page(manifest).encode())
        manifest.write(config.out / "manifest.json")
    return manifest


def _open(config: CrossvalConfig) -> tuple[ShardSet, ShardSet]:
    """The shards to learn from and those to score: two sets, or the same."""
    if config.is_across:
        first, second = (open_shards(str(spec), config.on_bad_shard) for spec in (config.train_on, config.test_on))
        return first, second
    shards = open_shards(str(config.shards), config.on_bad_shard)
    return shards, shards


def _plan(config: CrossvalConfig, shards: ShardSet) -> Folds:
    if config.is_across:
        return Folds(("all",), config.where)
    return plan_folds(
        config.protocol or DEFAULT_PROTOCOL,
        shards.rows,
        subset=config.subset,
        where=config.where,
        num_subjects=config.num_subjects,
        seed=config.seed,
    )


def _folds(config: CrossvalConfig, learned: ShardSet, scored: ShardSet) -> list[Fold]:
    plan = _plan(config, learned)
    out = config.out.absolute()
    source, target = (absolute(str(spec or config.shards)) for spec in (config.train_on, config.test_on))
    across = {"split": "all", "fit_on": source} if config.is_across else {}
    folds = []
    for number, split in enumerate(plan.splits):
        folder = out / "folds" / f"{number:0{max(2, len(str(len(plan.splits) - 1)))}d}"
        scoring = {
            "run": folder,
            "shards": target,
            "protocol": config.score,
            "where": plan.where,
            "on_bad_shard": config.on_bad_shard,
            "seed": config.seed,
            "use_gpu": config.use_gpu,
            **across,
        }
        training = config.of_fold(source, split, plan.where, folder)
        folds.append(Fold(training, EvaluateConfig.model_validate(scoring), scored.manifest.fingerprint))
    return folds


def _num_steps(folds: Sequence[Fold], shards: ShardSet) -> int:
    """The number of training steps of all folds; checks the first one as `train.check` does."""
    config = folds[0].train
    train.check(config, here=config.num_workers == 1)
    samples = Counter(row.subject for row in select_training_rows(shards, shards.subjects, config.where))
    total = 0
    for fold in folds:
        subjects, _ = split_validation(split_subjects(fold.train.split, samples).train, config.validation)
        num_samples = sum(samples[subject] for subject in subjects)
        total += Sampler([""] * num_samples, config.batch_size, config.seed, config.num_workers).num_steps
    return total * config.epochs


def _has_other(out: StoragePath, load_run_config: str) -> bool:
    """Whether a folder holds what is not of this cross-validation; see `load_stage_config` for the errors."""
    if found := load_stage_config(out / "config.json", _BegunFolds, "cross-validation"):
        return found["fingerprint"] != load_run_config
    return bool({entry.name for entry in out.iterdir()} - {LOCK_NAME})


def _run_folds(config: CrossvalConfig, folds: Sequence[Fold], num_steps: int, on_progress: Progress) -> None:
    left = [fold for fold in folds if fold.evaluation() is None]
    done = finished = 0

    def tell(*_: Any) -> None:
        nonlocal done, finished
        # Where a storage fails for a moment, what it holds is told the next time.
        with suppress(OSError), storage_errors(config.out):
            done = sum(fold.directory.progress()[0] for fold in folds)
            finished = sum(fold.evaluation_path.exists() for fold in folds)
        on_progress(min(done, num_steps), num_steps, f"{finished} of {pluralize(len(folds), 'fold')}")

    if not left:
        return
    inputs = {spec for fold in folds for spec in (fold.train.shards, fold.evaluate.shards)}
    if config.out.is_in_memory or any(scheme_of(spec) == "memory" for spec in inputs):
        for fold in left:
            run_fold(fold, on_metrics=tell)
        return
    with ray_session(config.address):
        if config.num_workers == 1:
            run_on_ray(left, config.cores_per_fold, tell)
        else:
            for fold in left:
                run_fold(fold, on_metrics=tell)


def _manifest(
    config: CrossvalConfig, mark: str, learned: ShardSet, scored: ShardSet, folds: Sequence[Fold]
) -> CrossvalManifest:
    runs, evaluations = zip(*(fold.made() for fold in folds), strict=True)
    everyone = select_training_rows(scored, scored.subjects, folds[0].evaluate.where)
    subjects = [run.test_subjects or sorted({row.subject for row in everyone}) for run in runs]
    told = zip(folds, runs, evaluations, subjects, strict=True)
    return CrossvalManifest(
        fingerprint=mark,
        shards_fingerprint=learned.manifest.fingerprint,
        scored_on=scored.manifest.fingerprint,
        protocol="across" if config.is_across else config.protocol or DEFAULT_PROTOCOL,
        subset=config.subset,
        where=folds[0].train.where,
        config=folds[0].train.recorded(),
        recipe=config.recipe,
        without=config.without,
        channel=runs[0].channel,
        text_source=runs[0].text_source,
        precision=runs[0].precision,
        classes=scored.manifest.expressions,
        folds=tuple(fold_score(fold.train.out.name, run, found, who) for fold, run, found, who in told),
        scores=gather_scores(evaluations),
    )
