"""Data directories of empty files, for tests of dataset adapters."""

from pathlib import Path

from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource


def touch(root: Path, *names: str) -> Path:
    """Create empty files under `root`; return `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(root: Path, text: str) -> Path:
    """Write a labels table to `root`; return `root`."""
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root


def only(root: Path, layout: str = "auto") -> SampleSource:
    """Return the sample of a directory with exactly one."""
    (sample,) = find_samples(root, layout).samples
    return sample
