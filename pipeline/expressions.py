"""The expressions of the field: two-letter codes, and the words for them."""

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


def expression_code(word: str) -> str:
    """The field's code for a word ("Happy" -> "HA"); a word that is no basic expression is kept, in lower case."""
    plain = word.strip().lower()
    return _CODES.get(plain, plain)


def order_expressions(found: set[str]) -> tuple[str, ...]:
    """The expressions that occur, basic ones in the field's order, then all others by name."""
    return (*(code for code in EXPRESSIONS if code in found), *sorted(found - EXPRESSIONS.keys()))
