"""Format protocol names and numbers, in the same way in the text, tables and plots of a report."""

from smile_pipe.pipeline.runs.crossval_manifest import MeanStd
from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES, Interval


def protocol_title(protocol: str) -> str:
    """Return the name of a protocol within a sentence."""
    return PROTOCOL_TITLES.get(protocol, protocol)


def format_percent(share: float) -> str:
    """0.904 -> "90.4 %", with a non-breaking space."""
    return f"{100 * share:.1f}\u00a0%"


def format_interval(interval: Interval | None) -> str:
    """(0.879, 0.926) -> "(87.9–92.6)", in percent; None -> ""."""
    return f"({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else ""


def format_deviation(score: MeanStd | None) -> str:
    """The deviation 0.012 -> "± 1.2", in percent; None or a single fold -> ""."""
    return "" if score is None or score.deviation is None else f"± {100 * score.deviation:.1f}"
