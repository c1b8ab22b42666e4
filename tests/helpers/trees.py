"""Trees of files: data directories of empty files for tests of layouts, and the content of any folder or URL."""

from pathlib import Path

from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.shards.storage import PathLike, StoragePath


def touch(root: Path, *names: str) -> Path:
    """Create empty files in `root` and return it."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(root: Path, text: str) -> Path:
    """Write the labels table of `root` and return it."""
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root


def only(root: Path, layout: str = "auto") -> SampleSource:
    """Find the samples of `root`, of which there must be one, and return it."""
    (sample,) = find_samples(root, layout).samples
    return sample


def contents(root: PathLike) -> dict[str, bytes]:
    """All files below a folder, by name."""
    root = StoragePath(root)
    return {name: (root / name).read_bytes() for name in root.names_below()}


def upload(source: PathLike, url: PathLike) -> StoragePath:
    """Copy a folder to a URL, which is returned."""
    for name, content in contents(source).items():
        (StoragePath(url) / name).write_atomically(content)
    return StoragePath(url)
