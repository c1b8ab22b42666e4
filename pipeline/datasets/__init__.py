"""How datasets lie on disk: one file a layout; each finds samples and their labels."""

from smile_pipe.pipeline.datasets.adapter import DatasetAdapter, FoundSamples, add_neutral_scans, sort_by_key
from smile_pipe.pipeline.datasets.bosphorus import Bosphorus
from smile_pipe.pipeline.datasets.bp4d import Bp4d
from smile_pipe.pipeline.datasets.bu3dfe import Bu3dfe
from smile_pipe.pipeline.datasets.bu4dfe import Bu4dfe
from smile_pipe.pipeline.datasets.coma import Coma
from smile_pipe.pipeline.datasets.facescape import Facescape
from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.pipeline.datasets.folder import Folder
from smile_pipe.pipeline.datasets.ict import Ict
from smile_pipe.pipeline.datasets.skipped import summarize_skipped
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

# `folder` is not a dataset's own layout: `auto` takes it only where none of these fits.
_DATASETS: tuple[DatasetAdapter, ...] = (Bu3dfe(), Bu4dfe(), Bosphorus(), Bp4d(), Coma(), Facescape(), Ict())
_FALLBACK: DatasetAdapter = Folder()
LAYOUTS = {layout.name: layout for layout in (*_DATASETS, _FALLBACK)}


def find_samples(root: StoragePath, layout: str, neutrals: bool = True) -> FoundSamples:
    """What lies under `root`, by the layout of that name, or by the one that fits (`auto`).

    With `neutrals`, scans know their subject's neutral one.

    Raises:
        UsageError: no such directory or layout, no layout fits (or two do), or two samples have the same key.
    """
    check_layout(layout)
    return find_samples_in_index(FileIndex.scan(root), layout, neutrals)


def check_layout(layout: str) -> None:
    """Raise UsageError where there is no layout of that name."""
    if layout != "auto" and layout not in LAYOUTS:
        raise UsageError(f"unknown; choose auto, {', '.join(LAYOUTS)}", field="layout", value=layout)


def find_samples_in_index(index: FileIndex, layout: str, neutrals: bool = True) -> FoundSamples:
    """What a listing holds; see `find_samples`."""
    chosen, match_reason = _require_adapter(index) if layout == "auto" else _match_adapter(index, LAYOUTS[layout])
    samples = sort_by_key(chosen.samples(index), index.root)
    if neutrals:
        samples = add_neutral_scans(samples)
    return FoundSamples(chosen.name, match_reason, tuple(samples), summarize_skipped(index, samples), index.stats)


def _match_adapter(index: FileIndex, layout: DatasetAdapter) -> tuple[DatasetAdapter, str]:
    match_reason = layout.match_reason(index)
    if not match_reason:
        raise UsageError(f"{index.root}: holds nothing in the layout {layout.name}{_left_out(index)}")
    return layout, match_reason


def detect_adapter(index: FileIndex) -> tuple[DatasetAdapter, str] | None:
    """The layout that fits a listing, and why it does; None where none fits.

    Raises:
        UsageError: two layouts of datasets fit.
    """
    fitting = [(layout, match_reason) for layout in _DATASETS if (match_reason := layout.match_reason(index))]
    if len(fitting) > 1:
        names = " and ".join(f"{layout.name} ({match_reason})" for layout, match_reason in fitting)
        raise UsageError(f"{index.root}: looks like {names}; say which with `layout`")
    if fitting:
        return fitting[0]
    match_reason = _FALLBACK.match_reason(index)
    return (_FALLBACK, match_reason) if match_reason else None


def _require_adapter(index: FileIndex) -> tuple[DatasetAdapter, str]:
    if found := detect_adapter(index):
        return found
    raise UsageError(
        f"{index.root}: no known layout ({', '.join(LAYOUTS)}){_left_out(index)}; "
        "a labels.csv makes any tree of meshes one"
    )


def _left_out(index: FileIndex) -> str:
    names = index.non_utf8_names
    return f"; names that are not UTF-8 count for nothing ({len(names)}, e.g. {names[0]})" if names else ""
