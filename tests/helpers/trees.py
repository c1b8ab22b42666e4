"""Data directories of empty files, for tests of layouts."""

from pathlib import Path

from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource


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
