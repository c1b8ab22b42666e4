"""The cross-validation stage: shards in, a run and its scores for each fold out, and what they tell together.

    open shards -> fold by protocol -> train and evaluate each -> manifest, scores.csv, report.html

Safe to stop: asked again, it goes on with the folds that are not finished, from their last checkpoints. A fold is a
run like any other: `smile-pipe train` with the options in its config.json makes the same.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline import train
from pipeline.crossvalidation.config import CrossvalConfig
from pipeline.crossvalidation.folds import Fold, run_fold, run_on_ray
from pipeline.crossvalidation.manifest import CrossvalManifest
from pipeline.crossvalidation.page import crossval_page
from pipeline.crossvalidation.protocols import plan_folds
from pipeline.crossvalidation.scores import fold_score, gather_scores, scores_csv
from pipeline.directory_lock import NAME as LOCK_NAME
from pipeline.directory_lock import directory_lock
from pipeline.evaluation.config import EvaluateConfig
from pipeline.ray_session import ray_session
from pipeline.training.damage import open_shards
from pipeline.training.loop import rows_of
from shards.errors import UsageError
from shards.manifest import canonical_json, fingerprint
from shards.places import Place, is_of_this_process, scheme_of, write_atomically
from shards.reader import ShardSet
from shards.sampler import Sampler
from shards.splits import split_subjects

Progress = Callable[[int, int, str], None]


def run(config: CrossvalConfig, on_progress: Progress = lambda done, total, note: None) -> CrossvalManifest:
    """Cross-validate; `on_progress` is told the steps done of all folds, how many there are, and a note.

    Raises:
        UsageError: see `pipeline.train.run`, also for the protocol; nothing has been written.
        BadSampleError: the shards are damaged; what is finished is kept.
    """
    shards = open_shards(config.shards, config.on_bad_shard)
    folds = _folds(config, shards)
    num_steps = _num_steps(folds, shards)
    begun = fingerprint([fold.train.for_fingerprint() for fold in folds], shards.manifest.fingerprint)
    mark = fingerprint(begun, config.score)
    _make_folder(config.out)
    with directory_lock(config.out):
        if _has_other(config.out, begun):
            raise UsageError(f"--out {config.out}: holds something else, or folds with other options; name another")
        if (path := config.out / "manifest.json").exists():
            manifest = CrossvalManifest.read(path)
            if manifest.fingerprint == mark and all(fold.evaluation() for fold in folds):
                return manifest
        asked = {
            "fingerprint": begun,
            "shards": train.shards_from(config.out, shards),
            "shards_fingerprint": shards.manifest.fingerprint,
            "crossval": config.model_dump(mode="json", exclude={"out", "shards", "address"}),
        }
        write_atomically(config.out / "config.json", canonical_json(asked).encode())
        _run_folds(config, folds, num_steps, on_progress)
        manifest = _manifest(config, mark, shards, folds)
        write_atomically(config.out / "scores.csv", scores_csv(manifest).encode())
        write_atomically(config.out / "report.html", crossval_page(manifest).encode())
        manifest.write(config.out / "manifest.json")
    return manifest


def _folds(config: CrossvalConfig, shards: ShardSet) -> list[Fold]:
    plan = plan_folds(
        config.protocol,
        shards.rows,
        subset=config.subset,
        where=config.where,
        num_subjects=config.num_subjects,
        seed=config.seed,
    )
    out = config.out.absolute() if isinstance(config.out, Path) else config.out
    spec = config.shards if "://" in config.shards else str(Path(config.shards).expanduser().absolute())
    folds = []
    for number, split in enumerate(plan.splits):
        folder = out / "folds" / f"{number:0{max(2, len(str(len(plan.splits) - 1)))}d}"
        training = config.of_fold(split, plan.where, folder).model_copy(update={"shards": spec})
        scoring = {
            "run": folder,
            "shards": spec,
            "protocol": config.score,
            "where": plan.where,
            "on_bad_shard": config.on_bad_shard,
            "seed": config.seed,
            "use_gpu": config.use_gpu,
        }
        folds.append(Fold(training, EvaluateConfig.model_validate(scoring)))
    return folds


def _num_steps(folds: Sequence[Fold], shards: ShardSet) -> int:
    """Steps of all folds, the first of which is looked at closely: see `pipeline.train.check` for the errors."""
    config = folds[0].train
    train.check(config, here=config.num_workers == 1)
    samples = Counter(row.subject for row in rows_of(shards, shards.subjects, config.where))
    total = 0
    for fold in folds:
        num_samples = sum(samples[subject] for subject in split_subjects(fold.train.split, samples).train)
        total += Sampler([""] * num_samples, config.batch_size, config.seed, config.num_workers).num_steps
    return total * config.epochs


def _make_folder(out: Place) -> None:
    if isinstance(out, Path):
        existing = next(path for path in (out, *out.absolute().parents) if path.exists())
        if not existing.is_dir():
            raise UsageError(f"--out {out}: {existing} is a file; name a directory")
        if not os.access(existing, os.W_OK):
            raise UsageError(f"--out {out}: {existing} cannot be written")


def _has_other(out: Place, begun: str) -> bool:
    """Whether a folder holds what is not of this cross-validation."""
    path = out / "config.json"
    if path.exists():
        return json.loads(path.read_text())["fingerprint"] != begun
    return bool({entry.name for entry in out.iterdir()} - {LOCK_NAME})


def _run_folds(config: CrossvalConfig, folds: Sequence[Fold], num_steps: int, on_progress: Progress) -> None:
    left = [fold for fold in folds if fold.evaluation() is None]

    def tell(*_: Any) -> None:
        done = sum(fold.directory.progress()[0] for fold in folds)
        finished = sum(fold.evaluation_path.exists() for fold in folds)
        on_progress(min(done, num_steps), num_steps, f"{finished} of {len(folds)} folds")

    if not left:
        return
    if is_of_this_process(config.out) or scheme_of(config.shards) == "memory":
        for fold in left:
            run_fold(fold, on_metrics=tell)
        return
    with ray_session(config.address):
        if config.num_workers == 1:
            run_on_ray(left, config.cores_per_fold, tell)
        else:
            for fold in left:
                run_fold(fold, on_metrics=tell)


def _manifest(config: CrossvalConfig, mark: str, shards: ShardSet, folds: Sequence[Fold]) -> CrossvalManifest:
    runs = [fold.directory.manifest() for fold in folds]
    evaluations = [fold.evaluation() for fold in folds]
    first = next(run for run in runs if run)
    scored = [found for found in evaluations if found]
    return CrossvalManifest(
        fingerprint=mark,
        shards_fingerprint=shards.manifest.fingerprint,
        protocol=config.protocol,
        subset=config.subset,
        where=folds[0].train.where,
        config=folds[0].train.recorded(),
        recipe=config.recipe,
        without=config.without,
        channel=first.channel,
        text_source=first.text_source,
        precision=first.precision,
        classes=shards.manifest.expressions,
        folds=tuple(
            fold_score(fold.train.out.name, run, found)
            for fold, run, found in zip(folds, runs, evaluations, strict=True)
            if run and found
        ),
        scores=gather_scores(scored),
    )
