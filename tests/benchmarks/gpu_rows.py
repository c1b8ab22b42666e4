"""Figures of a benchmark in one JSON file, row by row, so that what ends a part costs no row that is complete."""

import gc
import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


def update_figures(file: Path, part: str, rows: Figures) -> None:
    """Add rows to a part of a file of figures; a process that is killed meanwhile leaves the earlier file."""
    figures = json.loads(file.read_text()) if file.exists() else {}
    figures.setdefault(part, {}).update(rows)
    temporary = file.with_name(f"{file.name}.part")
    temporary.write_text(json.dumps(figures, indent=2) + "\n")
    os.replace(temporary, file)


class Rows:
    """The rows of one part, measured one after the other as long as there is time.

    Args:
        file: where all figures are.
        part: name of the part.
        deadline: when its time is over, as by `time.time`.

    Attributes:
        found: rows so far.
    """

    def __init__(self, file: Path, part: str, deadline: float) -> None:
        self.file, self.part, self.deadline = file, part, deadline
        self.found: Figures = {}

    def measure(self, name: str, work: Callable[[], Figures], seconds: float = 4.0) -> None:
        """Measure a row, unless less than the `seconds` that it is expected to take are left; an error is a row too."""
        began = time.time()
        if self.deadline - began < seconds:
            left = f"{self.deadline - began:.0f} s of its part are left"
            self.add(name, {"not measured": f"it takes about {seconds:.0f} s, and {left}"})
            return
        try:
            figures = work()
        except Exception:
            figures = {"error": traceback.format_exc()}
        # What failed may have left memory of the device in reference cycles.
        gc.collect()
        self.add(name, figures | {"seconds": time.time() - began})

    def add(self, name: str, figures: Figures | str) -> None:
        """Add a row to the file, and print it."""
        self.found[name] = figures
        print(json.dumps({f"{self.part}, {name}": figures}), flush=True)
        update_figures(self.file, self.part, {name: figures})
