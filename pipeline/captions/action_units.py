"""How a caption is put together: phrases with an intensity, and what is said of a face that shows nothing.

Captions from action units that people coded: the Facial Action Coding System in everyday words.

Goes in: action units with intensities. Comes out: a caption. Promised: the same units give the same caption, whatever
their order.
"""

import re
from collections.abc import Iterable, Mapping

from smile_pipe.shards.errors import UsageError

RELAXED = "a relaxed face"
# On the scale of FACS' codes A to E at 0.2, 0.4, ... 1: A and B are slight, E is strong.
PLAIN, STRONG = 0.5, 0.9


def graded(phrase: str, intensity: float) -> str:
    """`phrase` with the adverb of an intensity from 0 to 1 at its `{}`: 0.2 -> "lip corners slightly pulled up"."""
    return phrase.format("slightly " if intensity < PLAIN else "" if intensity < STRONG else "strongly ")


def caption(phrases: Iterable[str]) -> str:
    """The phrases in their order, or the words for a face without any."""
    return ", ".join(phrases) or RELAXED


# What each unit does, after Ekman and Friesen's Facial Action Coding System (1978, revised 2002), in words of our own;
# `{}` is the place of the adverb.
PHRASES = {
    1: "{}raised inner brows",
    2: "{}raised outer brows",
    4: "brows {}lowered and drawn together",
    5: "{}widened eyes",
    6: "{}raised cheeks",
    7: "{}narrowed eyes",
    9: "{}wrinkled nose",
    10: "{}raised upper lip",
    11: "{}deepened folds beside the nose",
    12: "lip corners {}pulled up",
    13: "lip corners {}pulled sharply up",
    14: "{}dimpled lip corners",
    15: "lip corners {}pulled down",
    16: "lower lip {}pulled down",
    17: "chin {}pushed up",
    18: "{}puckered lips",
    19: "tongue {}put out",
    20: "lips {}stretched sideways",
    21: "{}tensed neck",
    22: "{}funnelled lips",
    23: "{}tightened lips",
    24: "lips {}pressed together",
    25: "lips {}parted",
    26: "jaw {}dropped",
    27: "mouth {}stretched open",
    28: "lips {}sucked in",
    29: "jaw {}thrust forward",
    30: "jaw {}moved sideways",
    31: "{}clenched jaw",
    32: "lip {}bitten",
    33: "cheeks {}blown out",
    34: "{}puffed cheeks",
    35: "cheeks {}sucked in",
    36: "cheek {}bulged by the tongue",
    37: "lips {}wiped by the tongue",
    38: "{}flared nostrils",
    39: "{}compressed nostrils",
    41: "{}lowered upper eyelids",
    42: "eyes {}closed to slits",
    43: "eyes {}closed",
    44: "{}squinted eyes",
    45: "a blink",
    46: "a wink",
    51: "head {}turned left",
    52: "head {}turned right",
    53: "head {}raised",
    54: "head {}lowered",
    55: "head {}tilted left",
    56: "head {}tilted right",
    57: "head {}pushed forward",
    58: "head {}drawn back",
    61: "eyes {}turned left",
    62: "eyes {}turned right",
    63: "eyes {}turned up",
    64: "eyes {}turned down",
    65: "eyes {}turned apart",
    66: "eyes {}turned together",
}
_NAME = re.compile(r"(?:AU)?\s*0*([1-9]\d*)", re.IGNORECASE)


def describe_units(units: Mapping[str, float], graded_intensity: bool = True) -> str:
    """The caption of a face by its action units, in the order of their numbers.

    Args:
        units: intensity, from 0 (not there) to 1, by name ("AU12", "12"); units that were not coded are left out.
        graded_intensity: False where the coding says only that a unit is there: then no adverbs.

    Raises:
        UsageError: an intensity is not from 0 to 1.
    """
    for name, intensity in units.items():
        if not 0 <= intensity <= 1:
            raise UsageError(
                f"action unit {name}: the intensity {intensity} is not from 0 to 1; "
                "scale it, and leave out what was not coded"
            )
    shown = sorted((_order(name), name) for name, intensity in units.items() if intensity > 0)
    return caption(graded(_phrase(name), units[name] if graded_intensity else PLAIN) for _, name in shown)


def _number(name: str) -> int | None:
    match = _NAME.fullmatch(name.strip())
    return int(match[1]) if match else None


def _order(name: str) -> tuple[int, int]:
    number = _number(name)
    return (1, 0) if number is None else (0, number)


def _phrase(name: str) -> str:
    number = _number(name)
    if number in PHRASES:
        return PHRASES[number]
    plain = name.strip() if number is None else str(number)
    # Braces in a foreign name would be taken for the adverb's place.
    return f"action unit {plain}".replace("{", "").replace("}", "")
