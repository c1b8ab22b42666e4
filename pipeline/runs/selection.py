"""Select the samples, protocols and frames that a trained run is scored on or exported for.

Shared by `evaluate` and `export`, so that both apply the same rules: a subject of the training or validation part is
never scored as an unseen one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from smile_pipe.model.config import has_classifier
from smile_pipe.pipeline.common.filters import SampleFilter
from smile_pipe.pipeline.data.integrity import OnBadShard
from smile_pipe.pipeline.data.temporal import TemporalRead, can_read, default_temporal, stored_temporal
from smile_pipe.pipeline.runs.evaluation_manifest import Protocol
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.training_captions import CAPTION_SOURCES
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.splits import split_subjects


@dataclass(frozen=True)
class SampleSelection:
    """Options that select samples; named as the options of the stages.

    Attributes:
        shards: specification of the scored shards.
        split: split whose test part is scored, "all" for every sample; None for the split of the run.
        where: condition on samples.
        on_bad_shard: what to do with damaged samples.
        fit_on: specification of other shards to fit protocols on.
    """

    shards: str
    split: str | None
    where: str | None
    on_bad_shard: OnBadShard
    fit_on: str | None = None

    @property
    def sample_filter(self) -> SampleFilter:
        """The condition as a filter of rows."""
        return SampleFilter.model_validate({"where": self.where})


def check_channel(
    selection: SampleSelection, run: RunManifest, shards: ShardSet, fit_shards: ShardSet | None = None
) -> None:
    """Raise UsageError if shards lack a channel that the run was trained on."""
    sets = (("shards", selection.shards, shards), ("fit_on", selection.fit_on, fit_shards))
    for field, spec, shard_set in sets:
        missing = () if shard_set is None else sorted(set(run.channels) - set(shard_set.manifest.channels))
        if missing:
            raise UsageError(
                f"lack the channel {missing[0]}, which the run was trained on; render with `channels={run.channel}`",
                field=field,
                value=spec,
            )


def candidate_classes(selection: SampleSelection, shards: ShardSet) -> tuple[str, ...]:
    """Return the possible answers: the expressions of the samples for which the condition holds, of any subject.

    They do not depend on who is scored, since the labels of the scored samples must not help.
    """
    selected = set(selection.sample_filter.apply_to_table(shards.rows).distinct("expression"))
    return tuple(expression for expression in shards.manifest.expressions if expression in selected)


def select_rows(selection: SampleSelection, run: RunManifest, shards: ShardSet) -> tuple[SampleTable, SampleTable]:
    """Select the rows of one shard set.

    Returns:
        Rows to fit protocols on, none for the split "all", and rows to score.

    Raises:
        UsageError: the run cannot be scored on these shards or this split.
    """
    spec, sample_filter = selection.split or run.split, selection.sample_filter
    if spec == "all":
        return shards.rows[:0], sample_filter.apply_to_table(shards.rows)
    if selection.split is None and not shards.fingerprints <= run.training_sets:
        raise UsageError(
            f"not the shards that the run was trained on; select the samples to score with `split` "
            f"({run.split} as in training, or all for another dataset)",
            field="shards",
            value=selection.shards,
        )
    if spec == run.split:
        train, test = run.train_subjects, run.test_subjects
    else:
        split = split_subjects(spec, shards.subjects)
        train, test = split.train, split.test
        if seen := sorted(set(test) & {*run.train_subjects, *run.validation_subjects}):
            raise UsageError(
                f"would test on {pluralize(len(seen), 'subject')} that the run was trained or validated on "
                f"({', '.join(seen[:3])}, ...); leave `split` out, or train on that split",
                field="split",
                value=spec,
            )
    train_rows, test_rows = shards.of_subjects(train), shards.of_subjects(test)
    if not test_rows:
        raise UsageError("hold no test subject of the run; use `split=all`", field="shards", value=selection.shards)
    return sample_filter.apply_to_table(train_rows), sample_filter.apply_to_table(test_rows)


def select_rows_cross_dataset(
    selection: SampleSelection, run: RunManifest, fit_shards: ShardSet, shards: ShardSet
) -> tuple[SampleTable, SampleTable]:
    """Select the rows of a cross-dataset evaluation: protocols are fitted on one dataset, another one is scored.

    Returns:
        Rows of `fit_shards` whose expression is a candidate of `shards` too, and all rows of `shards`. If the run was
        trained on `fit_shards`, only rows of its training subjects are returned.

    Raises:
        UsageError: the datasets are the same or share no expression, or the run was trained on the scored one.
    """
    if selection.split not in (None, "all"):
        raise UsageError("every sample of `shards` is scored; leave `split` out", field="fit_on")
    if shards.fingerprints & (fit_shards.fingerprints | run.training_sets):
        raise UsageError(
            "`shards` contain the same shards, or those of the run; leave `fit_on` out, and select the samples to "
            "score with `split`",
            field="fit_on",
        )
    is_training_set = bool(fit_shards.fingerprints & run.training_sets)
    rows = fit_shards.of_subjects(run.train_subjects) if is_training_set else fit_shards.rows
    classes = candidate_classes(selection, shards)
    shared = selection.sample_filter.apply_to_table(rows).where("expression", classes)
    if not shared:
        raise UsageError(
            "has none of the expressions of `shards`; name another dataset", field="fit_on", value=selection.fit_on
        )
    return shared, selection.sample_filter.apply_to_table(shards.rows)


def resolve_protocols(
    requested: Sequence[Protocol],
    selection: SampleSelection,
    run: RunManifest,
    shards: ShardManifest,
    classes: Sequence[str],
) -> tuple[list[Protocol], tuple[str, ...]]:
    """Select the protocols that are possible; zero-shot needs text in training and prompts of all candidates.

    For a run with a classifier, `classifier` takes the place of `zero-shot`.

    Args:
        requested: the requested protocols.
        selection: the options that select samples.
        run: the run.
        shards: manifest of the scored shards.
        classes: the candidates; see `candidate_classes`.

    Returns:
        Protocols in order, and notes on those that are left out.

    Raises:
        UsageError: none is possible, or a protocol that is not possible was requested by itself.
    """
    if "finetune" in requested and selection.fit_on:
        raise UsageError("is fitted on samples of `shards`; leave `fit_on` out", field="protocol", value="finetune")
    if "finetune" in requested and (selection.split or run.split) == "all":
        raise UsageError(
            "is fitted on subjects that are not scored, and `split=all` scores all of them; "
            "give another split, or leave finetune out",
            field="protocol",
            value="finetune",
        )
    if "caption-vote" in requested and run.text_source not in CAPTION_SOURCES:
        raise UsageError(
            f"the run was trained with text from {run.text_source}, not with captions (`text=geometry`); leave it out",
            field="protocol",
            value="caption-vote",
        )
    if has_classifier(run.recipe["name"]):
        if not set(run.classes) & set(classes):
            raise UsageError(
                f"the samples have none of the classes of the run ({', '.join(run.classes)}); select others"
            )
        return [*dict.fromkeys("classifier" if name == "zero-shot" else name for name in requested)], ()
    if "classifier" in requested:
        raise UsageError(
            "the run has none; train with `recipe=supervised` for one", field="protocol", value="classifier"
        )
    missing = [expression for expression in classes if not shards.prompts.get(expression)]
    if run.text_source == "none":
        reason = "the run was trained without text"
    elif missing:
        reason = f"the shards carry no prompts for {', '.join(missing[:5])}"
    else:
        return [*dict.fromkeys(requested)], ()
    names: list[Protocol] = [name for name in requested if name != "zero-shot"]
    if not names:
        raise UsageError(f"{reason}; use knn or probe", field="protocol", value="zero-shot")
    return names, (f"zero-shot was left out: {reason}",) if "zero-shot" in requested else ()


def resolve_temporal_read(
    selection: SampleSelection, run: RunManifest, shards: ShardSet, rows: Sequence[SampleRow]
) -> TemporalRead:
    """Select what is read of sequences: as in training, or what is stored if the run was trained on scans only.

    Raises:
        UsageError: the shards do not store what the run was trained on.
    """
    stored = stored_temporal(shards, rows, selection.on_bad_shard)
    if run.temporal == "none" or stored == "none":
        return default_temporal(stored)
    if not can_read(stored, run.temporal):
        raise UsageError(
            f"they store {stored} of sequences, and the run was trained on "
            f"{run.temporal}; render them with `temporal={run.temporal}`",
            field="shards",
            value=selection.shards,
        )
    return run.temporal
