"""Who is shown, in words: the sex, age and ancestry that a dataset tells of its subjects, for prompts of a training.

Goes in: the labels of a sample, as records and the index have them. Comes out: "a young Black woman", or "" where
nothing is known. Promised: only these three labels are looked at, never an image; a value that is not understood is
left unsaid.
"""

import re
from collections.abc import Mapping

# Years below which the word holds: a choice of ours.
AGES = {"child": 18, "young": 35, "middle-aged": 60, "old": 121}
# BU-3DFE's codes, in adjectives of a person.
ANCESTRIES = {
    "WH": "White",
    "AE": "East Asian",
    "LA": "Hispanic",
    "BL": "Black",
    "AM": "Middle Eastern",
    "IN": "Indian",
}
_SEXES = {"f": "female", "female": "female", "woman": "female", "m": "male", "male": "male", "man": "male"}
# Grown-up, and child.
_NOUNS = {"female": ("woman", "girl"), "male": ("man", "boy"), "": ("person", "child")}
# 0 is how many tables say that they do not know.
_YEARS = re.compile(r"0*[1-9][0-9]{0,2}(?:\.[0-9]{1,9})?")
_MAX_WORDS, _MIN_LETTERS, _MAX_LETTERS = 3, 2, 20
_SAYS_NOTHING = frozenset(("missing", "na", "nan", "no", "none", "not", "null", "other", "undisclosed", "unknown"))
_TAKES_AN = re.compile(r"(?!eu)[aeio]", re.IGNORECASE)


def person(labels: Mapping[str, str]) -> str:
    """Whom the labels `sex`, `age` and `ancestry` tell of, with an article; "" where they tell nothing.

    Understood are F, M, female, male, woman, man; years, or a word of `AGES`; a code of `ANCESTRIES`, or one to three
    plain words, which should be an adjective of a person.
    """
    sex = _SEXES.get(labels.get("sex", "").lower(), "")
    age, ancestry = _age(labels.get("age", "")), _ancestry(labels.get("ancestry", ""))
    if not (sex or age or ancestry):
        return ""
    grown_up, child = _NOUNS[sex]
    words = (ancestry, child) if age == "child" else (age, ancestry, grown_up)
    said = " ".join(filter(None, words))
    return f"{'an' if _TAKES_AN.match(said) else 'a'} {said}"


def with_person(prompt: str, who: str) -> str:
    """A prompt that also says who is shown: "an angry face (a young woman)".

    Prompts name a face, an expression, a person, or what muscles do: no one preposition fits all of them, brackets do.
    They come last, so that of a text that is too long for a tower the expression stays.
    """
    return f"{prompt} ({who})"


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
    # Capitals alone are a code, and not one that we know.
    is_said = are_plain and len(words) <= _MAX_WORDS and not value.isupper() and _SAYS_NOTHING.isdisjoint(words)
    return value if is_said else ""
