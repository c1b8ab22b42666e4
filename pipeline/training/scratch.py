"""The scratch folder of a training job: what Ray Train keeps there, and what workers tell the driver."""

from pathlib import Path
from typing import Any

from shards.places import Place


class JobScratch:
    """What a job needs while it runs, in the directory of the run, which all nodes see."""

    def __init__(self, out: Place) -> None:
        self.root = out / ".ray"

    def note_path(self, rank: int) -> Place:
        """Where a worker says which sample is damaged."""
        return self.root / f"bad-sample-{rank}"

    def bad_sample(self, num_workers: int) -> str | None:
        """The first note of a damaged sample, if there is one."""
        notes = (self.note_path(rank) for rank in range(num_workers))
        return next((note.read_text() for note in notes if note.exists()), None)

    def storage(self) -> dict[str, Any]:
        """Where Ray Train keeps its own."""
        if isinstance(self.root, Path):
            return {"storage_path": str(self.root)}
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return {"storage_path": self.root.path, "storage_filesystem": PyFileSystem(FSSpecHandler(self.root.fs))}
