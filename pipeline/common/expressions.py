"""The expressions of the field: two-letter codes, and the words for them."""

from collections.abc import Iterable

# Neutral last: the six basic expressions in the field's order, then the absence of one.
EXPRESSIONS = {
    "AN": "anger",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happiness",
    "SA": "sadness",
    "SU": "surprise",
    "NE": "neutral",
}

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
    """The field's code for a word ("Happy" -> "HA"); a word that is no basic expression is kept, in lower case.

    Several words are separated by ';'. Their codes come joined by it, each once and in the field's order, so that equal
    labels are equal text: "surprised; happy" -> "HA;SU".
    """
    plain = (word.strip().lower() for word in words.split(";"))
    return ";".join(order_expressions(_CODES.get(word, word) for word in plain if word))


def expressions_of(expression: str) -> tuple[str, ...]:
    """The expressions that a sample's label names: "HA;SU" -> ("HA", "SU"); one for most samples."""
    return tuple(expression.split(";"))


def word_for(expression: str) -> str:
    """The word for an expression: "HA;SU" -> "happiness + surprise"."""
    return " + ".join(EXPRESSIONS.get(part, part) for part in expressions_of(expression))


def order_expressions(found: Iterable[str]) -> tuple[str, ...]:
    """The expressions that occur, each once, basic ones in the field's order, then all others by name."""
    names = set(found)
    return (*(code for code in EXPRESSIONS if code in names), *sorted(names - EXPRESSIONS.keys()))
