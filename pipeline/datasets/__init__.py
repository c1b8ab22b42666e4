"""Datasets on disk: one adapter per dataset finds its samples and labels."""

from smile_pipe.pipeline.datasets.adapter import DatasetAdapter, FoundSamples, add_neutral_scans, sort_by_key
from smile_pipe.pipeline.datasets.bosphorus import Bosphorus
from smile_pipe.pipeline.datasets.bp4d import Bp4d
from smile_pipe.pipeline.datasets.bu3dfe import Bu3dfe
from smile_pipe.pipeline.datasets.bu4dfe import Bu4dfe
from smile_pipe.pipeline.datasets.coma import Coma
from smile_pipe.pipeline.datasets.facescape import Facescape
from smile_pipe.pipeline.datasets.file_index import FileIndex, printable
from smile_pipe.pipeline.datasets.folder import Folder
from smile_pipe.pipeline.datasets.ict import Ict
from smile_pipe.pipeline.datasets.skipped import summarize_skipped
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

# `folder` is generic: `auto` selects it only if no adapter of a dataset matches.
_DATASET_ADAPTERS: tuple[DatasetAdapter, ...] = (Bu3dfe(), Bu4dfe(), Bosphorus(), Bp4d(), Coma(), Facescape(), Ict())
_FALLBACK: DatasetAdapter = Folder()
LAYOUTS = {adapter.name: adapter for adapter in (*_DATASET_ADAPTERS, _FALLBACK)}


def find_samples(root: StoragePath, layout: str, neutrals: bool = True) -> FoundSamples:
    """Find the samples under `root`.

    Args:
        root: the data directory.
        layout: name of the adapter, or `auto` to detect it.
        neutrals: whether to add the subject's neutral scan to other scans.

    Raises:
        UsageError: the directory or the layout does not exist, no layout matches (or two do), or two samples have the
            same key.
    """
    check_layout(layout)
    return find_samples_in_index(FileIndex.scan(root), layout, neutrals)


def check_layout(layout: str) -> None:
    """Raise UsageError if there is no layout of that name."""
    if layout != "auto" and layout not in LAYOUTS:
        raise UsageError(f"unknown; choose auto, {', '.join(LAYOUTS)}", field="layout", value=layout)


def find_samples_in_index(index: FileIndex, layout: str, neutrals: bool = True) -> FoundSamples:
    """Find the samples of a file index; see `find_samples`."""
    adapter, reason = _require_adapter(index) if layout == "auto" else _match_adapter(index, LAYOUTS[layout])
    samples = sort_by_key(adapter.samples(index), index.root)
    if neutrals:
        samples = add_neutral_scans(samples)
    return FoundSamples(adapter.name, reason, tuple(samples), summarize_skipped(index, samples), index.stats)


def _match_adapter(index: FileIndex, adapter: DatasetAdapter) -> tuple[DatasetAdapter, str]:
    reason = adapter.match_reason(index)
    if not reason:
        raise UsageError(
            f"{index.root}: no samples in the layout {adapter.name}{_describe_skipped(index)}; choose another `layout`"
        )
    return adapter, reason


def detect_adapter(index: FileIndex) -> tuple[DatasetAdapter, str] | None:
    """Find the adapter that matches a file index.

    Returns:
        The adapter and the reason for the match; None if there is none.

    Raises:
        UsageError: the adapters of two datasets match.
    """
    matching = [(adapter, reason) for adapter in _DATASET_ADAPTERS if (reason := adapter.match_reason(index))]
    if len(matching) > 1:
        names = " and ".join(f"{adapter.name} ({reason})" for adapter, reason in matching)
        raise UsageError(f"{index.root}: matches the layouts {names}; choose one with `layout`")
    if matching:
        return matching[0]
    reason = _FALLBACK.match_reason(index)
    return (_FALLBACK, reason) if reason else None


def _require_adapter(index: FileIndex) -> tuple[DatasetAdapter, str]:
    if match := detect_adapter(index):
        return match
    raise UsageError(
        f"{index.root}: no known layout ({', '.join(LAYOUTS)}){_describe_skipped(index)}; "
        "add a labels.csv to use any tree of meshes"
    )


def _describe_skipped(index: FileIndex) -> str:
    skipped = {"names that are not UTF-8": index.non_utf8_names, "links to folders": index.linked_folders}
    return "".join(
        f"; skipped {kind}: {len(paths)}, e.g. {printable(paths[0])}" for kind, paths in skipped.items() if paths
    )
