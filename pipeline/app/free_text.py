"""Parse the text that visitors type: descriptions of a face, one a line, to score together with the expressions."""

from collections.abc import Iterable
from dataclasses import dataclass

from smile_pipe.pipeline.common.expressions import word_for

MAX_DESCRIPTIONS = 12


@dataclass(frozen=True)
class FreeText:
    """The parsed text.

    Attributes:
        descriptions: descriptions to score.
        notes: sentences about descriptions that are left out.
    """

    descriptions: tuple[str, ...]
    notes: tuple[str, ...]


def parse_free_text(text: str, known: Iterable[str]) -> FreeText:
    """Return the first `MAX_DESCRIPTIONS` descriptions of a text, each once.

    Args:
        text: one description a line.
        known: codes of the expressions that are scored anyway. A description that equals such a code, or the word for
            it, is left out, as the chart has a bar with that name already.
    """
    names = {name.casefold() for expression in known for name in (expression, word_for(expression))}
    lines = dict.fromkeys(line.strip() for line in text.splitlines() if line.strip())
    descriptions = [line for line in lines if line.casefold() not in names]
    notes = []
    if len(descriptions) < len(lines):
        notes.append("Expressions that the run knows are scored anyway, each once.")
    if len(descriptions) > MAX_DESCRIPTIONS:
        notes.append(f"Of {len(descriptions)} descriptions the first {MAX_DESCRIPTIONS} are scored.")
    return FreeText(tuple(descriptions[:MAX_DESCRIPTIONS]), tuple(notes))
