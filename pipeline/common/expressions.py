"""Facial expressions: two-letter codes as in BU-3DFE, and words for them."""

from collections.abc import Iterable

# The six basic expressions in the usual order of the literature, then neutral.
EXPRESSIONS = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "SA": "sadness",
    "SU": "surprise",
    "NE": "neutral",
}
NEUTRAL = "NE"

_WORDS = {
    "AN": ("angry",),
    "DI": ("disgusted",),
    "FE": ("fearful", "afraid"),
    "HA": ("happy", "joy"),
    "SA": ("sad",),
    "SU": ("surprised",),
    "NE": ("none",),
}
_CODES = {word: code for code, name in EXPRESSIONS.items() for word in (code.lower(), name, *_WORDS[code])}


def expression_code(words: str) -> str:
    """The code for a word: "Happy" -> "HA". A word that is not a basic expression is kept, in lower case.

    Args:
        words: One word, or several separated by ';'.

    Returns:
        The codes joined by ';', each once and in a fixed order, so that equal labels are equal text:
        "surprised; happy" -> "HA;SU".
    """
    plain = (word.strip().lower() for word in words.split(";"))
    return ";".join(order_expressions(_CODES.get(word, word) for word in plain if word))


def expressions_of(expression: str) -> tuple[str, ...]:
    """Split the label of a sample: "HA;SU" -> ("HA", "SU"). Most samples have one expression."""
    return tuple(expression.split(";"))


def word_for(expression: str) -> str:
    """The word for an expression: "HA;SU" -> "happiness + surprise"."""
    return " + ".join(EXPRESSIONS.get(part, part) for part in expressions_of(expression))


def order_expressions(expressions: Iterable[str]) -> tuple[str, ...]:
    """Each expression once: basic ones in the order of `EXPRESSIONS`, then all others by name."""
    names = set(expressions)
    return (*(code for code in EXPRESSIONS if code in names), *sorted(names - EXPRESSIONS.keys()))
