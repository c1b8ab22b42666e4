"""How datasets lie on disk: one file a layout; each finds samples and their labels."""

from pathlib import Path

from pipeline.layouts.bu3dfe import Bu3dfe
from pipeline.layouts.folder import Folder
from pipeline.layouts.layout import Layout, Listing, ScanSource, checked
from shards.errors import UsageError

# `folder` is not a dataset's own layout: `auto` takes it only where none of these fits.
_DATASETS: tuple[Layout, ...] = (Bu3dfe(),)
_FALLBACK: Layout = Folder()
LAYOUTS = {layout.name: layout for layout in (*_DATASETS, _FALLBACK)}


def find_samples(root: Path, layout: str) -> tuple[str, list[ScanSource]]:
    """The name of the layout that was used, and all samples under `root` by key.

    Raises:
        UsageError: no such directory or layout, no layout fits (or two do), no sample was found, or keys collide.
    """
    if layout != "auto" and layout not in LAYOUTS:
        raise UsageError(f"--layout {layout}: unknown; choose auto, {', '.join(LAYOUTS)}")
    listing = Listing.scan(root)
    chosen = _detect(listing) if layout == "auto" else LAYOUTS[layout]
    if not chosen.fits(listing):
        raise UsageError(f"{root}: holds nothing in the layout {chosen.name}")
    return chosen.name, checked(chosen.samples(listing), root)


def _detect(listing: Listing) -> Layout:
    fitting = [layout for layout in _DATASETS if layout.fits(listing)]
    if len(fitting) > 1:
        names = " and ".join(layout.name for layout in fitting)
        raise UsageError(f"{listing.root}: looks like {names}; say which with --layout")
    if fitting:
        return fitting[0]
    if _FALLBACK.fits(listing):
        return _FALLBACK
    raise UsageError(
        f"{listing.root}: no known layout ({', '.join(LAYOUTS)}); a labels.csv makes any tree of meshes one"
    )
