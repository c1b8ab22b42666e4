"""Words and figures of a report, the same in its text, tables and plots."""

from smile_pipe.pipeline.runs.evaluation_manifest import PROTOCOL_TITLES, Interval


def title_of(protocol: str) -> str:
    """A protocol within a sentence."""
    return PROTOCOL_TITLES.get(protocol, protocol)


def heading_of(protocol: str) -> str:
    """A protocol at the head of something."""
    title = title_of(protocol)
    return title[:1].upper() + title[1:]


def percent(share: float) -> str:
    """0.904 -> "90.4 %", which no line break divides."""
    return f"{100 * share:.1f}\u00a0%"


def span(interval: Interval | None) -> str:
    """(0.879, 0.926) -> "(87.9–92.6)", the ends in percent; "" where there is none."""
    return f"({100 * interval[0]:.1f}–{100 * interval[1]:.1f})" if interval else ""
