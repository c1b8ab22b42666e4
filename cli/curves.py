"""Curves of a run in the terminal: a line each, drawn in block characters."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.table import Table

from pipeline.training.curves import Curve, title_of

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 24


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as block characters from the least to the most; of more than `width`, the means of as many stretches."""
    stretches = np.array_split(np.asarray(values, float), min(width, len(values)))
    means = np.array([stretch.mean() for stretch in stretches])
    low, high = means.min(), means.max()
    if low == high:
        return BLOCKS[len(BLOCKS) // 2] * len(means)
    heights = np.round((means - low) / (high - low) * (len(BLOCKS) - 1)).astype(int)
    return "".join(BLOCKS[height] for height in heights)


def curves_table(curves: Mapping[str, Curve]) -> Table:
    """A line for each curve, with its first and last value, the least and the most."""
    table = Table(box=None, pad_edge=False)
    for _ in range(2):
        table.add_column("", no_wrap=True)
    for name in ("first", "last", "least", "most"):
        table.add_column(name, justify="right")
    for name, curve in curves.items():
        values = [value for _, value in curve]
        numbers = (values[0], values[-1], min(values), max(values))
        table.add_row(title_of(name), sparkline(values), *(f"{number:.3g}" for number in numbers))
    return table
