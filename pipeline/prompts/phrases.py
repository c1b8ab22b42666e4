"""How a caption is put together: phrases with an intensity, and what is said of a face that shows nothing."""

from collections.abc import Iterable

RELAXED = "a relaxed face"
# On the scale of FACS' codes A to E at 0.2, 0.4, ... 1: A and B are slight, E is strong.
PLAIN, STRONG = 0.5, 0.9


def graded(phrase: str, intensity: float) -> str:
    """`phrase` with the adverb of an intensity from 0 to 1 at its `{}`: 0.2 -> "lip corners slightly pulled up"."""
    return phrase.format("slightly " if intensity < PLAIN else "" if intensity < STRONG else "strongly ")


def caption(phrases: Iterable[str]) -> str:
    """The phrases in their order, or the words for a face without any."""
    return ", ".join(phrases) or RELAXED
