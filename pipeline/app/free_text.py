"""What visitors type: descriptions of a face, a line each, and which of them are scored beside the expressions."""

from collections.abc import Iterable
from dataclasses import dataclass

from smile_pipe.pipeline.common.expressions import word_for

MAX_WORDS = 12


@dataclass(frozen=True)
class FreeText:
    """Descriptions to score, and sentences about those that are not."""

    words: tuple[str, ...]
    notes: tuple[str, ...]


def parse_free_text(text: str, known: Iterable[str]) -> FreeText:
    """The descriptions in a text, each once and in their order, `MAX_WORDS` at most.

    One that names a `known` expression, by its code or its word, is left out: there is a bar of that name already.
    """
    names = {name.casefold() for expression in known for name in (expression, word_for(expression))}
    lines = dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())
    words = [line for line in lines if line.casefold() not in names]
    notes = []
    if len(words) < len(lines):
        notes.append("Expressions that the run knows by that name are scored anyway, and once.")
    if len(words) > MAX_WORDS:
        notes.append(f"Of {len(words)} descriptions the first {MAX_WORDS} are scored.")
    return FreeText(tuple(words[:MAX_WORDS]), tuple(notes))
