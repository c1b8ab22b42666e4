"""Compare cross-validations over the same folds: the accuracy of each system, and its difference to a chosen one.

The reference is chosen by the user. The best row would be a biased one: it was selected by the same scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from smile_pipe.pipeline.common.statistics import bootstrap_difference, corrected_t_test
from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, FoldScore, MeanStd
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES, Interval, Protocol
from smile_pipe.pipeline.runs.predictions import PredictionTable
from smile_pipe.pipeline.runs.question_scores import HEADLINES, Headline
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_index import find_stage_outputs, folders_in
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen, fingerprint
from smile_pipe.shards.storage import StoragePath


class Difference(Frozen):
    """Accuracy of a row minus that of the reference, on the same samples.

    Attributes:
        value: the difference, over the samples of all folds.
        interval: its 95 % interval over subjects, and over seeds if there are several.
        p_subjects: two-sided p-value of the same bootstrap.
        p_folds: two-sided p-value of a t-test of the folds, corrected for their common training samples; None for a
            single fold, or folds with equal differences.
    """

    value: float
    interval: Interval
    p_subjects: float
    p_folds: float | None


class ComparedRow(Frozen):
    """One system: a cross-validation, or several that differ in their seeds only.

    Attributes:
        paths: their directories, relative to the compared folder.
        seeds: their random seeds, in the same order.
        system: the recipe, with the losses that are left out.
        text_source: source of the training text.
        views: the views that were fused.
        accuracy: accuracy by evaluation protocol, over folds; of several seeds, each fold has their mean.
        questions: the same of the main questions (`HEADLINES`) that all of its cross-validations answer, by title.
        differences: difference to the reference by evaluation protocol; empty for the reference itself, and where none
            was chosen.
    """

    paths: tuple[str, ...]
    seeds: tuple[int, ...]
    system: str
    text_source: str
    views: tuple[str, ...]
    accuracy: dict[str, MeanStd]
    questions: dict[str, MeanStd]
    differences: dict[str, Difference]


class Comparison(Frozen):
    """Systems over the same folds, ordered by their accuracy by the evaluation protocol `ordered_by`.

    Attributes:
        reference: first directory of the row that the others are compared with; None where none was chosen.
    """

    protocol: str
    subset: str | None
    num_folds: int
    num_subjects: int
    num_samples: int
    ordered_by: str
    reference: str | None
    rows: tuple[ComparedRow, ...]


@dataclass(frozen=True)
class _Crossval:
    """A finished cross-validation and its directory."""

    root: StoragePath
    path: str
    manifest: CrossvalManifest

    @cached_property
    def predictions(self) -> PredictionTable:
        """The predictions of all folds, in the order of their keys.

        Raises:
            UsageError: the predictions of a fold cannot be read, or are not those that were scored.
        """
        folders = {f"folds/{folder.name}": folder for folder in folders_in(self.root / "folds")}
        tables = [self._fold_predictions(folders.get(fold.folder), fold) for fold in self.manifest.folds]
        return PredictionTable.join(tables).sorted_by_key()

    def _fold_predictions(self, folder: StoragePath | None, fold: FoldScore) -> PredictionTable:
        table = PredictionTable.read(RunDirectory(folder or self.root / "folds").predictions_path)
        is_scored = len(table.keys) == fold.num_samples and all(
            name in table.predicted and np.isclose(table.accuracy(name), accuracy)
            for name, accuracy in fold.accuracy.items()
        )
        if not is_scored:
            raise UsageError(
                f"{self.root}: {fold.folder} was evaluated again with other options; delete its "
                "evaluation/manifest.json and run the cross-validation again"
            )
        return table


def compare(
    root: StoragePath, reference: str | None = None, protocol: Protocol | None = None
) -> tuple[Comparison, ...]:
    """Compare the cross-validations in a folder, at most two levels deep.

    Args:
        root: the folder.
        reference: directory, relative to the folder, of the cross-validation that others are compared with.
        protocol: evaluation protocol that orders the rows; None for the linear probe if all rows have it, else the
            first protocol that all have.

    Returns:
        One table for each set of folds and samples; only cross-validations over the same ones share a table.

    Raises:
        UsageError: no such folder or reference, no finished cross-validation in the folder, no common evaluation
            protocol, or predictions cannot be read.
    """
    root = StoragePath(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such directory; name one that holds cross-validations")
    outputs = [output for output in find_stage_outputs(root) if output.kind == "crossval" and output.manifest]
    finished = [_Crossval(each.path, str(each.path.relative_to(root)), each.manifest) for each in outputs]
    if not finished:
        raise UsageError(f"{root}: no finished cross-validation; run `smile-pipe crossval` first")
    reference = reference and reference.rstrip("/")
    if reference and reference not in {each.path for each in finished}:
        known = ", ".join(each.path for each in finished)
        raise UsageError(f"no such cross-validation; choose one of {known}", field="reference", value=reference)
    tables: dict[tuple, list[_Crossval]] = {}
    for each in finished:
        tables.setdefault(_comparison_key(each.manifest), []).append(each)
    return tuple(_comparison(members, reference, protocol) for members in tables.values())


def _comparison_key(manifest: CrossvalManifest) -> tuple:
    """Folds and samples; a system that is scored on other samples may look better by chance."""
    tested = tuple((fold.split, fold.subjects, fold.num_samples) for fold in manifest.folds)
    return manifest.protocol, manifest.subset, manifest.where, manifest.classes, tested


def _comparison(members: Sequence[_Crossval], reference: str | None, protocol: Protocol | None) -> Comparison:
    ordered_by = _ranking_protocol([member.manifest for member in members], protocol)
    systems = sorted(_group_seeds(members), key=lambda seeds: (-_accuracy(seeds)[ordered_by].mean, seeds[0].path))
    compared = next((seeds for seeds in systems if reference in {each.path for each in seeds}), None)
    rows = [
        ComparedRow(
            paths=tuple(each.path for each in seeds),
            seeds=tuple(int(each.manifest.config["seed"]) for each in seeds),
            system=seeds[0].manifest.system,
            text_source=seeds[0].manifest.text_source,
            views=seeds[0].manifest.views,
            accuracy=_accuracy(seeds),
            questions=_questions(seeds),
            differences={} if compared in (None, seeds) else _differences(seeds, compared),
        )
        for seeds in systems
    ]
    first = members[0].manifest
    return Comparison(
        protocol=first.protocol,
        subset=first.subset,
        num_folds=len(first.folds),
        num_subjects=sum(len(fold.subjects) for fold in first.folds),
        num_samples=sum(fold.num_samples for fold in first.folds),
        ordered_by=ordered_by,
        reference=compared[0].path if compared else None,
        rows=tuple(rows),
    )


def _ranking_protocol(manifests: Sequence[CrossvalManifest], requested: Protocol | None) -> str:
    """Return the requested protocol, else the linear probe, else the first one that all have; UsageError for none."""
    shared = [name for name in PROTOCOL_TITLES if all(name in manifest.scores for manifest in manifests)]
    if not shared or (requested and requested not in shared):
        raise UsageError(
            f"the cross-validations do not share {requested or 'an evaluation protocol'}; "
            "run them again with the same `protocol`"
        )
    return requested or ("probe" if "probe" in shared else shared[0])


def _group_seeds(members: Sequence[_Crossval]) -> list[list[_Crossval]]:
    """Group cross-validations that differ in their seeds only; two with one seed are copies, and stay separate."""
    groups: dict[str, list[_Crossval]] = {}
    for member in members:
        groups.setdefault(_system_key(member.manifest), []).append(member)
    systems: list[list[_Crossval]] = []
    for group in groups.values():
        seeds = {each.manifest.config["seed"] for each in group}
        systems += [group] if len(seeds) == len(group) else [[each] for each in group]
    return systems


def _system_key(manifest: CrossvalManifest) -> str:
    # Earlier releases recorded no `shard_weights`.
    left_out = {"seed", "wandb"} | ({"shard_weights"} if not manifest.config.get("shard_weights") else set())
    options = {name: value for name, value in manifest.config.items() if name not in left_out}
    shards = (manifest.shards_fingerprint, manifest.scored_on)
    return fingerprint(options, manifest.system, manifest.text_source, manifest.channel, manifest.precision, shards)


def _fold_accuracies(seeds: Sequence[_Crossval], protocol: str) -> list[float]:
    """Accuracy of each fold, the mean over seeds."""
    return np.mean([[fold.accuracy[protocol] for fold in each.manifest.folds] for each in seeds], axis=0).tolist()


def _accuracy(seeds: Sequence[_Crossval]) -> dict[str, MeanStd]:
    names = [name for name in seeds[0].manifest.scores if all(name in each.manifest.scores for each in seeds)]
    return {name: MeanStd.of(_fold_accuracies(seeds, name)) for name in names}


def _questions(seeds: Sequence[_Crossval]) -> dict[str, MeanStd]:
    found = {}
    for title, headline in HEADLINES.items():
        answers = [_answers(each.manifest, headline) for each in seeds]
        if all(answers):
            found[title] = MeanStd.of(np.mean(answers, axis=0).tolist())
    return found


def _answers(manifest: CrossvalManifest, headline: Headline) -> tuple[float, ...]:
    """Return the share of correct answers of each fold; empty if the questions were not asked."""
    for part in manifest.questions.get(headline.question, ()):
        if part.group == headline.group and part.name.startswith(headline.name_start):
            return part.folds
    return ()


def _differences(seeds: Sequence[_Crossval], reference: Sequence[_Crossval]) -> dict[str, Difference]:
    first = reference[0].predictions
    for each in (*seeds, *reference):
        if not (
            np.array_equal(each.predictions.keys, first.keys) and np.array_equal(each.predictions.truth, first.truth)
        ):
            raise UsageError(f"{each.root}: scored other samples than {reference[0].root}, in the same number")
    known = _accuracy(reference)
    return {name: _difference(seeds, reference, name) for name in _accuracy(seeds) if name in known}


def _difference(seeds: Sequence[_Crossval], reference: Sequence[_Crossval], protocol: str) -> Difference:
    tested, folds = reference[0].predictions.subjects, reference[0].manifest.folds
    subjects, num_samples = np.unique(tested, return_counts=True)
    one, other = (
        np.array([each.predictions.num_correct(protocol, subjects.tolist()) for each in system])
        for system in (seeds, reference)
    )
    found = bootstrap_difference(one, other, num_samples)
    by_fold = np.subtract(_fold_accuracies(seeds, protocol), _fold_accuracies(reference, protocol))
    sizes = np.array([fold.num_samples for fold in folds])
    test_to_train = float(np.mean(sizes / (len(tested) - sizes))) if len(folds) > 1 else 0.0
    return Difference(
        value=found.value,
        interval=found.interval,
        p_subjects=found.p,
        p_folds=corrected_t_test(by_fold, test_to_train),
    )
