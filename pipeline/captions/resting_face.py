"""Estimate which scan of a subject is at rest, from measures alone.

Each movement occurs in a minority of a subject's scans, so the median of each measure is near its value at rest. The
scan with the least activity relative to this median face is the nearest to a resting one.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from smile_pipe.pipeline.captions.geometry import feature_strengths

MIN_SCANS = 5
"""Smallest number of measured scans of a subject for an estimate; our choice."""


def least_active(scans: Sequence[Mapping[str, float] | None]) -> int | None:
    """Return the scan with the least activity.

    Args:
        scans: measures of each scan of one subject (`geometry.measure`), None for a scan that cannot be measured.

    Returns:
        The index of the scan with the smallest mean of |strength| over all features, relative to the median of each
        measure; the first one of several. None if fewer than `MIN_SCANS` scans are measured.
    """
    measured = [(number, measures) for number, measures in enumerate(scans) if measures]
    if len(measured) < MIN_SCANS:
        return None
    names = sorted({name for _, measures in measured for name in measures})
    median = {name: float(np.median([m[name] for _, m in measured if name in m])) for name in names}
    activities = {}
    for number, measures in measured:
        deviations = {name: value - median[name] for name, value in measures.items()}
        strengths = [abs(strength) for _, strength, _ in feature_strengths(deviations, has_reference=True)]
        if strengths:
            # Rounded, so that processors which round differently choose the same scan.
            activities[number] = round(sum(strengths) / len(strengths), 6)
    return min(activities, key=lambda number: activities[number]) if activities else None
