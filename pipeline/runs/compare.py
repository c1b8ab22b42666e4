"""Compare cross-validations over the same folds: which system is better, and by how much."""

from collections.abc import Sequence

from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, MeanStd
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES
from smile_pipe.pipeline.runs.run_index import find_stage_outputs
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import StoragePath


class ComparedRow(Frozen):
    """One cross-validation.

    Attributes:
        path: its directory, relative to the compared folder.
        system: its recipe, with the losses that are left out.
        text_source: source of the training text.
        accuracy: accuracy by evaluation protocol.
        gap_to_best: accuracy of the first row minus its own, fold by fold, by the protocol that orders the table; None
            for the first row.
    """

    path: str
    system: str
    text_source: str
    accuracy: dict[str, MeanStd]
    gap_to_best: MeanStd | None


class Comparison(Frozen):
    """Cross-validations over the same folds, ordered by their accuracy by the evaluation protocol `ordered_by`."""

    protocol: str
    subset: str | None
    num_folds: int
    num_subjects: int
    num_samples: int
    ordered_by: str
    rows: tuple[ComparedRow, ...]


def compare(root: StoragePath) -> tuple[Comparison, ...]:
    """Compare the cross-validations in a folder, at most two levels deep.

    Args:
        root: the folder.

    Returns:
        One table for each set of folds and samples; only cross-validations over the same ones share a table.

    Raises:
        UsageError: no such folder, or no finished cross-validation in it.
    """
    root = StoragePath(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such directory; name one that holds cross-validations")
    entries = [(output.path, output.manifest) for output in find_stage_outputs(root) if output.kind == "crossval"]
    finished = [(str(path.relative_to(root)), manifest) for path, manifest in entries if manifest]
    if not finished:
        raise UsageError(f"{root}: no finished cross-validation; run `smile-pipe crossval` first")
    tables: dict[tuple, list[tuple[str, CrossvalManifest]]] = {}
    for path, manifest in finished:
        tables.setdefault(_comparison_key(manifest), []).append((path, manifest))
    return tuple(_comparison(members) for members in tables.values())


def _comparison_key(manifest: CrossvalManifest) -> tuple:
    """Folds and samples; a system that is scored on other samples may look better by chance."""
    tested = tuple((fold.split, fold.subjects, fold.num_samples) for fold in manifest.folds)
    return manifest.protocol, manifest.subset, manifest.where, manifest.classes, tested


def _comparison(members: Sequence[tuple[str, CrossvalManifest]]) -> Comparison:
    protocol = _ranking_protocol([manifest for _, manifest in members])
    ordered = sorted(members, key=lambda member: (-member[1].scores[protocol].accuracy.mean, member[0]))
    best = ordered[0][1]
    rows = [
        ComparedRow(
            path=path,
            system=manifest.system,
            text_source=manifest.text_source,
            accuracy={name: score.accuracy for name, score in manifest.scores.items()},
            gap_to_best=None if manifest is best else _gap_to_best(manifest, best, protocol),
        )
        for path, manifest in ordered
    ]
    return Comparison(
        protocol=best.protocol,
        subset=best.subset,
        num_folds=len(best.folds),
        num_subjects=sum(len(fold.subjects) for fold in best.folds),
        num_samples=sum(fold.num_samples for fold in best.folds),
        ordered_by=protocol,
        rows=tuple(rows),
    )


def _ranking_protocol(manifests: Sequence[CrossvalManifest]) -> str:
    """Return the linear probe if all have it, else the first protocol that all have; UsageError if there is none."""
    shared = [name for name in PROTOCOL_TITLES if all(name in manifest.scores for manifest in manifests)]
    if not shared:
        raise UsageError("the cross-validations share no evaluation protocol; run them again with the same `protocol`")
    return "probe" if "probe" in shared else shared[0]


def _gap_to_best(manifest: CrossvalManifest, best: CrossvalManifest, protocol: str) -> MeanStd:
    pairs = zip(best.folds, manifest.folds, strict=True)
    return MeanStd.of([first.accuracy[protocol] - own.accuracy[protocol] for first, own in pairs])
