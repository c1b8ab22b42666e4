"""Data directories of empty files, for tests of which samples are found in them."""

from pathlib import Path

from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.adapter import SampleSource


def touch(root: Path, *names: str) -> Path:
    """`root` with these empty files in it."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def table(root: Path, text: str) -> Path:
    """`root` with a labels table."""
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root


def only(root: Path, layout: str = "auto") -> SampleSource:
    """The only sample that is found."""
    (sample,) = find_samples(root, layout).samples
    return sample
