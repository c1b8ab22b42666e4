"""Descriptions of subjects for training prompts, from the labels `sex`, `age` and `ancestry` of a dataset.

Only these three labels are used, never an image. Values that are not recognised are omitted.
"""

import re
from collections.abc import Mapping

# Age limits in years (exclusive) of each word; our choice.
AGES = {"child": 18, "young": 35, "middle-aged": 60, "old": 121}
# Adjectives of the codes of BU-3DFE.
ANCESTRIES = {
    "WH": "White",
    "AE": "East Asian",
    "LA": "Hispanic",
    "BL": "Black",
    "AM": "Middle Eastern",
    "IN": "Indian",
}
_SEXES = {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}
# Nouns for an adult and for a child.
_NOUNS = {"female": ("woman", "girl"), "male": ("man", "boy"), "": ("person", "child")}
# A positive number; many tables use 0 for an unknown age.
_YEARS = re.compile(r"0*[1-9][0-9]{0,2}(?:\.[0-9]{1,9})?")
_MAX_WORDS, _MIN_LETTERS, _MAX_LETTERS = 3, 2, 20
_SAYS_NOTHING = frozenset(("missing", "na", "nan", "no", "none", "not", "null", "other", "undisclosed", "unknown"))
_TAKES_AN = re.compile(r"(?!eu)[aeio]", re.IGNORECASE)


def describe_person(labels: Mapping[str, str]) -> str:
    """Describe a person by the labels `sex`, `age` and `ancestry`.

    Args:
        labels: Labels of a sample, as in its record and in the index. Recognised are: for sex F, M, female, male,
            woman, man; for age years or a word of `AGES`; for ancestry a code of `ANCESTRIES` or one to three plain
            words, which should be an adjective.

    Returns:
        A noun phrase with an article, such as "a young Black woman"; "" if nothing is known.
    """
    sex = _SEXES.get(labels.get("sex", "").lower(), "")
    age, ancestry = _age(labels.get("age", "")), _ancestry(labels.get("ancestry", ""))
    if not (sex or age or ancestry):
        return ""
    adult, child = _NOUNS[sex]
    words = (ancestry, child) if age == "child" else (age, ancestry, adult)
    phrase = " ".join(filter(None, words))
    return f"{'an' if _TAKES_AN.match(phrase) else 'a'} {phrase}"


def append_person(prompt: str, person: str) -> str:
    """Append the description of the subject to a prompt: "an angry face (a young woman)".

    Parentheses, because no preposition fits all prompts (of a face, an expression, a person, muscles). At the end,
    because a text that is too long for a text tower is truncated there.
    """
    return f"{prompt} ({person})"


def _age(value: str) -> str:
    if _YEARS.fullmatch(value):
        return next((word for word, limit in AGES.items() if float(value) < limit), "")
    word = re.sub(r"[ _]", "-", value.lower())
    return word if word in AGES else ""


def _ancestry(value: str) -> str:
    if value in ANCESTRIES:
        return ANCESTRIES[value]
    words = re.split("[ -]", value.lower())
    are_plain = all(word.isalpha() and _MIN_LETTERS <= len(word) <= _MAX_LETTERS for word in words)
    # Only capitals: an unknown code.
    is_known = are_plain and len(words) <= _MAX_WORDS and not value.isupper() and _SAYS_NOTHING.isdisjoint(words)
    return value if is_known else ""
