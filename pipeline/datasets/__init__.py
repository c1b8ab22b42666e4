"""How datasets lie on disk: one file a layout; each finds samples and their labels."""

from smile_pipe.pipeline.datasets.adapter import Found, Layout, checked, with_neutrals
from smile_pipe.pipeline.datasets.bosphorus import Bosphorus
from smile_pipe.pipeline.datasets.bp4d import Bp4d
from smile_pipe.pipeline.datasets.bu3dfe import Bu3dfe
from smile_pipe.pipeline.datasets.bu4dfe import Bu4dfe
from smile_pipe.pipeline.datasets.coma import Coma
from smile_pipe.pipeline.datasets.facescape import Facescape
from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.pipeline.datasets.folder import Folder
from smile_pipe.pipeline.datasets.ict import Ict
from smile_pipe.pipeline.datasets.skipped import summarise
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

# `folder` is not a dataset's own layout: `auto` takes it only where none of these fits.
_DATASETS: tuple[Layout, ...] = (Bu3dfe(), Bu4dfe(), Bosphorus(), Bp4d(), Coma(), Facescape(), Ict())
_FALLBACK: Layout = Folder()
LAYOUTS = {layout.name: layout for layout in (*_DATASETS, _FALLBACK)}


def find_samples(root: StoragePath, layout: str, neutrals: bool = True) -> Found:
    """What lies under `root`, by the layout of that name, or by the one that fits (`auto`).

    With `neutrals`, scans know their subject's neutral one.

    Raises:
        UsageError: no such directory or layout, no layout fits (or two do), or two samples have the same key.
    """
    check_layout(layout)
    return samples_in(FileIndex.scan(root), layout, neutrals)


def check_layout(layout: str) -> None:
    """Raise UsageError where there is no layout of that name."""
    if layout != "auto" and layout not in LAYOUTS:
        raise UsageError(f"unknown; choose auto, {', '.join(LAYOUTS)}", field="layout", value=layout)


def samples_in(listing: FileIndex, layout: str, neutrals: bool = True) -> Found:
    """What a listing holds; see `find_samples`."""
    chosen, evidence = _detect(listing) if layout == "auto" else _asked(listing, LAYOUTS[layout])
    samples = checked(chosen.samples(listing), listing.root)
    if neutrals:
        samples = with_neutrals(samples)
    return Found(chosen.name, evidence, tuple(samples), summarise(listing, samples), listing.stats)


def _asked(listing: FileIndex, layout: Layout) -> tuple[Layout, str]:
    evidence = layout.evidence(listing)
    if not evidence:
        raise UsageError(f"{listing.root}: holds nothing in the layout {layout.name}{_left_out(listing)}")
    return layout, evidence


def recognised(listing: FileIndex) -> tuple[Layout, str] | None:
    """The layout that fits a listing, and why it does; None where none fits.

    Raises:
        UsageError: two layouts of datasets fit.
    """
    fitting = [(layout, evidence) for layout in _DATASETS if (evidence := layout.evidence(listing))]
    if len(fitting) > 1:
        names = " and ".join(f"{layout.name} ({evidence})" for layout, evidence in fitting)
        raise UsageError(f"{listing.root}: looks like {names}; say which with `layout`")
    if fitting:
        return fitting[0]
    evidence = _FALLBACK.evidence(listing)
    return (_FALLBACK, evidence) if evidence else None


def _detect(listing: FileIndex) -> tuple[Layout, str]:
    if found := recognised(listing):
        return found
    raise UsageError(
        f"{listing.root}: no known layout ({', '.join(LAYOUTS)}){_left_out(listing)}; "
        "a labels.csv makes any tree of meshes one"
    )


def _left_out(listing: FileIndex) -> str:
    names = listing.undecoded
    return f"; names that are not UTF-8 count for nothing ({len(names)}, e.g. {names[0]})" if names else ""
