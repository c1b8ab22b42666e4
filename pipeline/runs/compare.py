"""Cross-validations side by side: which system does better, over the same folds.

Goes in: a folder that holds cross-validations. Comes out: a row for each of them, best first. Promised: only such as
were made of the same samples and folds stand in one table.
"""

from collections.abc import Sequence

from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest, MeanStd, spread
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES
from smile_pipe.pipeline.runs.run_index import find_outputs
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.storage import PathLike, StoragePath


class ComparedRow(Frozen):
    """One cross-validation.

    Attributes:
        path: where it lies, relative to the folder.
        system: its recipe, and what was left out of it.
        accuracy: by protocol of scoring.
        behind: how far its accuracy lies behind that of the first row, fold by fold, by the protocol that the table is
            ordered by; None for the first.
    """

    path: str
    system: str
    text_source: str
    accuracy: dict[str, MeanStd]
    behind: MeanStd | None


class Comparison(Frozen):
    """Cross-validations over the same folds, ordered by their accuracy by the protocol `ordered_by`."""

    protocol: str
    subset: str | None
    num_folds: int
    num_subjects: int
    num_samples: int
    ordered_by: str
    rows: tuple[ComparedRow, ...]


def compare(root: PathLike) -> tuple[Comparison, ...]:
    """The cross-validations in `root`, at most two levels deep, a table for those over the same folds.

    Raises:
        UsageError: there are none that are finished.
    """
    root = StoragePath(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such directory; name one that holds cross-validations")
    found = [(output.path, output.manifest) for output in find_outputs(root) if output.kind == "crossval"]
    finished = [(path.relative_to(root), manifest) for path, manifest in found if manifest]
    if not finished:
        raise UsageError(f"{root}: holds no finished cross-validation; `smile-pipe crossval` makes one")
    tables: dict[tuple, list[tuple[str, CrossvalManifest]]] = {}
    for path, manifest in finished:
        tables.setdefault(_folds_of(manifest), []).append((path, manifest))
    return tuple(_comparison(members) for members in tables.values())


def _folds_of(manifest: CrossvalManifest) -> tuple:
    """What two of them must share to be compared; one scored on other samples may look better by chance."""
    tested = tuple((fold.split, fold.subjects, fold.num_samples) for fold in manifest.folds)
    return manifest.protocol, manifest.subset, manifest.where, manifest.classes, tested


def _comparison(members: Sequence[tuple[str, CrossvalManifest]]) -> Comparison:
    measure = _measure([manifest for _, manifest in members])
    ordered = sorted(members, key=lambda member: (-member[1].scores[measure].accuracy.mean, member[0]))
    best = ordered[0][1]
    rows = [
        ComparedRow(
            path=path,
            system=manifest.system,
            text_source=manifest.text_source,
            accuracy={name: score.accuracy for name, score in manifest.scores.items()},
            behind=None if manifest is best else _behind(manifest, best, measure),
        )
        for path, manifest in ordered
    ]
    return Comparison(
        protocol=best.protocol,
        subset=best.subset,
        num_folds=len(best.folds),
        num_subjects=sum(len(fold.subjects) for fold in best.folds),
        num_samples=sum(fold.num_samples for fold in best.folds),
        ordered_by=measure,
        rows=tuple(rows),
    )


def _measure(manifests: Sequence[CrossvalManifest]) -> str:
    """The protocol that a table is ordered by: one by which all were scored, and the linear probe if that is one.

    Raises:
        UsageError: they share none.
    """
    shared = [name for name in PROTOCOL_TITLES if all(name in manifest.scores for manifest in manifests)]
    if not shared:
        raise UsageError("the cross-validations were each scored in another way; run them again with the same `score`")
    return "probe" if "probe" in shared else shared[0]


def _behind(manifest: CrossvalManifest, best: CrossvalManifest, measure: str) -> MeanStd:
    pairs = zip(best.folds, manifest.folds, strict=True)
    return spread([first.accuracy[measure] - own.accuracy[measure] for first, own in pairs])
