"""Captions from coded action units: the Facial Action Coding System (FACS) in everyday words.

The order of the units does not change the caption. The phrases and their intensities are shared with the captions from
geometry (`geometry.py`).
"""

import re
from collections.abc import Iterable, Mapping

from smile_pipe.shards.errors import UsageError

RELAXED = "a relaxed face"
# Lower limits of intensities without an adverb and with "strongly". The FACS codes A to E are 0.2, 0.4, ... 1: A and B
# are slight, E is strong.
MODERATE, STRONG = 0.5, 0.9
# Largest number of phrases in a caption. Longer captions are nearly all different, and training matches equal ones; and
# the text tower of the default architecture cuts a text after 32 tokens, as many as six phrases have on average.
MAX_PHRASES = 5


def with_intensity(phrase: str, intensity: float) -> str:
    """Replace `{}` in a phrase by the adverb of an intensity, 0.2 -> "lip corners slightly pulled up"."""
    return phrase.format("slightly " if intensity < MODERATE else "" if intensity < STRONG else "strongly ")


def join_phrases(phrases: Iterable[str]) -> str:
    """Join the phrases in their order; without phrases the caption is `RELAXED`."""
    return ", ".join(phrases) or RELAXED


# Phrase of each unit in our own words, after Ekman and Friesen's Facial Action Coding System (1978, revised 2002); `{}`
# is replaced by an adverb.
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
    """Describe a face by its `MAX_PHRASES` strongest action units, in the order of their numbers.

    Of units with equal intensities, those with lower numbers are named.

    Args:
        units: Intensities from 0 (absent) to 1 by name ("AU12" or "12"), without units that were not coded.
        graded_intensity: Whether intensities were coded; if only presence was coded, False omits all adverbs.

    Returns:
        The caption.

    Raises:
        UsageError: An intensity is not from 0 to 1.
    """
    for name, intensity in units.items():
        if not 0 <= intensity <= 1:
            raise UsageError(
                f"action unit {name}: the intensity {intensity} is not from 0 to 1; "
                "scale it, and omit units that were not coded"
            )
    active = sorted((_order(name), name) for name, intensity in units.items() if intensity > 0)
    strongest = sorted(active, key=lambda unit: -units[unit[1]])[:MAX_PHRASES]
    return join_phrases(
        with_intensity(_phrase(name), units[name] if graded_intensity else MODERATE) for _, name in sorted(strongest)
    )


def has_unnamed_units(units: Mapping[str, float]) -> bool:
    """Whether a face has more active units than a caption names."""
    return sum(intensity > 0 for intensity in units.values()) > MAX_PHRASES


def unit_number(name: str) -> int | None:
    """The number of an action unit: "AU06" -> 6; None for another name."""
    match = _NAME.fullmatch(name.strip())
    return int(match[1]) if match else None


def _order(name: str) -> tuple[int, int]:
    number = unit_number(name)
    return (1, 0) if number is None else (0, number)


def _phrase(name: str) -> str:
    number = unit_number(name)
    if number in PHRASES:
        return PHRASES[number]
    plain = name.strip() if number is None else str(number)
    # Braces in an unknown name would be read as the placeholder of the adverb.
    return f"action unit {plain}".replace("{", "").replace("}", "")
