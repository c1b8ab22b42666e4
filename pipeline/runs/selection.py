"""What is scored: whom, by which protocols, and what is read of sequences; or why it cannot be.

Goes in: the options, the run's manifest and the shards. Comes out: rows, names and notes. Promised: no subject that the
run has learned from is scored as one that it has not.
"""

from collections.abc import Sequence

from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.pipeline.data.temporal import TemporalRead, can_read, default_temporal, stored_temporal
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.splits import split_subjects


def check_channel(config: EvaluateConfig, run: RunManifest, shards: ShardSet, fit: ShardSet | None) -> None:
    """Raise UsageError where shards lack what the run's image tower sees."""
    for option, given, found in (("shards", config.shards, shards), ("fit_on", config.fit_on, fit)):
        if found is not None and run.channel not in found.manifest.channels:
            raise UsageError(f"lack the channel {run.channel}, which the run learned from", field=option, value=given)


def select_rows(config: EvaluateConfig, run: RunManifest, shards: ShardSet) -> tuple[list[IndexRow], list[IndexRow]]:
    """Rows to fit protocols on, none for `all`, and rows to score.

    Raises:
        UsageError: shards or a split on which the run cannot be scored.
    """
    spec, meant = config.split or run.split, SampleFilter.model_validate({"where": config.where})
    if spec == "all":
        return [], meant.apply(shards.rows)
    if config.split is None and shards.manifest.fingerprint != run.shards_fingerprint:
        raise UsageError(
            f"not the shards that the run was trained on; say whom to score with `split` "
            f"({run.split} as in training, or all for another dataset)",
            field="shards",
            value=config.shards,
        )
    if spec == run.split:
        train, test = run.train_subjects, run.test_subjects
    else:
        split = split_subjects(spec, shards.subjects)
        train, test = split.train, split.test
        if seen := sorted(set(test) & {*run.train_subjects, *run.validation_subjects}):
            raise UsageError(
                f"would test on {pluralize(len(seen), 'subject')} that the run has learned from, "
                f"or was chosen by ({', '.join(seen[:3])}, ...); leave `split` out, or train on that split",
                field="split",
                value=spec,
            )
    train_rows, test_rows = shards.of_subjects(train), shards.of_subjects(test)
    if not test_rows:
        raise UsageError("hold no subject of the run's test side; use `split=all`", field="shards", value=config.shards)
    return meant.apply(train_rows), meant.apply(test_rows)


def select_rows_cross_dataset(
    config: EvaluateConfig, run: RunManifest, fit: ShardSet, shards: ShardSet
) -> tuple[list[IndexRow], list[IndexRow]]:
    """Rows of other shards to fit protocols on, of expressions that `shards` have as well, and all rows of `shards`.

    Of the shards that the run learned from, those are fitted on that it learned from.

    Raises:
        UsageError: the two are the same, or have nothing to be compared by, or the run knows whom it is scored on.
    """
    if config.split not in (None, "all"):
        raise UsageError("every sample of `shards` is scored; leave `split` out", field="fit_on")
    if shards.manifest.fingerprint in (fit.manifest.fingerprint, run.shards_fingerprint):
        raise UsageError(
            "`shards` are not other ones; leave `fit_on` out, and choose whom to score by `split`", field="fit_on"
        )
    meant = SampleFilter.model_validate({"where": config.where})
    knows = fit.manifest.fingerprint == run.shards_fingerprint
    rows = fit.of_subjects(run.train_subjects) if knows else fit.rows
    shared = [row for row in meant.apply(rows) if row.expression in shards.manifest.expressions]
    if not shared:
        raise UsageError("has none of the expressions of `shards`", field="fit_on", value=config.fit_on)
    return shared, meant.apply(shards.rows)


def possible_protocols(
    config: EvaluateConfig, run: RunManifest, shards: ShardManifest
) -> tuple[list[Protocol], tuple[str, ...]]:
    """The protocols asked for that can be had, and notes on what cannot: zero-shot needs texts on both sides.

    A run with a classifier has that in place of zero-shot.

    Raises:
        UsageError: none of them can be had, or one that cannot was asked for by itself.
    """
    if "finetune" in config.protocol and config.fit_on:
        raise UsageError(
            "learns from samples of `shards`, and not from those of `fit_on`", field="protocol", value="finetune"
        )
    if "finetune" in config.protocol and (config.split or run.split) == "all":
        raise UsageError(
            "learns from the subjects that are not scored, and `split=all` scores everyone; "
            "give another split, or leave finetune out",
            field="protocol",
            value="finetune",
        )
    if run.recipe["name"] == "supervised":
        if not set(run.classes) & set(shards.expressions):
            raise UsageError(f"the run tells {', '.join(run.classes)} apart, and the shards have none of them")
        return [*dict.fromkeys("classifier" if name == "zero-shot" else name for name in config.protocol)], ()
    if "classifier" in config.protocol:
        raise UsageError(
            "the run has none; train with `recipe=supervised` for one", field="protocol", value="classifier"
        )
    missing = [expression for expression in shards.expressions if not shards.prompts.get(expression)]
    if run.text_source == "none":
        reason = "the run was trained without text"
    elif missing:
        reason = f"the shards carry no prompts for {', '.join(missing[:5])}"
    else:
        return [*dict.fromkeys(config.protocol)], ()
    names: list[Protocol] = [name for name in config.protocol if name != "zero-shot"]
    if not names:
        raise UsageError(f"{reason}; use knn or probe", field="protocol", value="zero-shot")
    return names, (f"zero-shot was left out: {reason}",) if "zero-shot" in config.protocol else ()


def read_of_sequences(
    config: EvaluateConfig, run: RunManifest, shards: ShardSet, rows: Sequence[IndexRow]
) -> TemporalRead:
    """What of sequences is read: what the run learned from, or what there is where it learned from scans only.

    Raises:
        UsageError: the shards have not what the run learned from.
    """
    stored = stored_temporal(shards, rows, config.on_bad_shard)
    if run.temporal == "none" or stored == "none":
        return default_temporal(stored)
    if not can_read(stored, run.temporal):
        raise UsageError(
            f"of sequences they hold {stored}, and the run learned from "
            f"{run.temporal}; render them with `temporal={run.temporal}`",
            field="shards",
            value=config.shards,
        )
    return run.temporal
