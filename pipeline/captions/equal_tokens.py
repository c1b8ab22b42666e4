"""Prompts of different classes that are equal for a text tower, because it cuts texts after its number of tokens."""

import logging
from collections.abc import Mapping, Sequence

from smile_pipe.model.towers import Tokenizer
from smile_pipe.shards.formatting import pluralize

_log = logging.getLogger(__name__)


def warn_on_equal_tokens(tokenizer: Tokenizer, prompts: Mapping[str, Sequence[str]]) -> None:
    """Warn if prompts of different classes have equal tokens: no model can distinguish these classes by them.

    Args:
        tokenizer: Tokenizer of the text tower.
        prompts: Prompts by class.
    """
    owners: dict[tuple[int, ...], str] = {}
    equal = [
        (text, name, owner)
        for name, texts in prompts.items()
        for text, tokens in zip(texts, tokenizer(list(texts)).tolist() if texts else (), strict=True)
        if (owner := owners.setdefault(tuple(tokens), name)) != name
    ]
    if equal:
        _log.warning(
            "%s equal to one of another class for the text tower, which cuts long texts, first %r of %s and %s; write "
            "shorter prompts",
            pluralize(len(equal), "prompt"),
            *equal[0],
        )
