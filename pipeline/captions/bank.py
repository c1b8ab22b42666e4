"""A prompt bank: for each expression, the wordings of which one stands beside a sample.

Goes in: YAML, a mapping from an expression to a list of prompts. Comes out: `PromptBank`. Promised: the same key and
expression draw the same prompt on every machine and in every process; no prompt speaks for two expressions.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from blake3 import blake3

from smile_pipe.pipeline.common.expressions import expression_code
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen

_SHIPPED = "bank.yaml"
_OTHERS = "*"


class PromptBank(Frozen):
    """Prompts by expression code; the order of the templates is part of which one a key draws.

    `others`, if any, are wordings with `{}` in them, for expressions that have none of their own.
    """

    templates: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...] = ()

    def prompt_for(self, key: str, expression: str) -> str:
        """The prompt of sample `key`: drawn from its expression's templates by a hash of the key.

        Raises:
            UsageError: the bank has no templates for `expression`.
        """
        choices = self.templates_for(expression)
        # Python's own hash differs from process to process.
        draw = int.from_bytes(blake3(key.encode()).digest(length=8), "little")
        return choices[draw % len(choices)]

    def templates_for(self, expression: str) -> tuple[str, ...]:
        """All wordings of an expression; of several at once ("HA;SU"), each pair of theirs joined by "and".

        Raises:
            UsageError: the bank has no templates for `expression`.
        """
        parts = [self._of_one(part) for part in expression.split(";")]
        if len(parts) == 1:
            return parts[0]
        # The lists are walked together, the shorter ones from their beginning again.
        return tuple(" and ".join(part[n % len(part)] for part in parts) for n in range(max(map(len, parts))))

    def _of_one(self, expression: str) -> tuple[str, ...]:
        if expression in self.templates:
            return self.templates[expression]
        if self.others:
            words = re.sub(r"[^\w]+|_", " ", expression).strip() or expression
            return tuple(other.replace("{}", words) for other in self.others)
        raise UsageError(
            f"the prompt bank has no templates for the expression {expression!r}; "
            f"it knows {', '.join(self.templates)}: add a list {expression!r} to a bank file of your own"
        )


def load(path: Path | None = None) -> PromptBank:
    """The bank in the YAML file at `path`, or the shipped one.

    Expressions may be codes or words ("SU", "surprise"); a word outside the seven basic ones is kept, in lower case.

    Raises:
        UsageError: the file cannot be read, or is not a bank; the message names the file and what is wrong with it.
    """
    source = files("smile_pipe.pipeline.captions") / _SHIPPED if path is None else path
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{source}: the prompt bank cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{source}: the prompt bank is not UTF-8 text") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{source}: the prompt bank is not valid YAML ({reason})") from None
    try:
        others = content.pop(_OTHERS, None) if isinstance(content, dict) else None
        return PromptBank(templates=_templates(content), others=() if others is None else _others(others))
    except UsageError as error:
        raise UsageError(f"{source}: {error}") from None


def _templates(content: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(content, dict) or not content:
        raise UsageError("a prompt bank is a mapping from expressions to lists of prompts, e.g. 'HA: [a happy face]'")
    templates: dict[str, tuple[str, ...]] = {}
    speaker: dict[str, str] = {}
    for word, prompts in content.items():
        if not isinstance(word, str):
            raise UsageError(f"the expression {word!r} is not text; put it in quotes")
        code = expression_code(word)
        if code in templates:
            raise UsageError(f"{word!r} gives the expression {code!r} a second list; merge the two")
        templates[code] = _prompts(word, prompts)
        for prompt in templates[code]:
            # One text for two expressions would teach that they are the same, and no text could tell them apart.
            if speaker.setdefault(prompt, code) != code:
                raise UsageError(f"the prompt {prompt!r} stands under {speaker[prompt]!r} and under {code!r}")
    return templates


def _others(prompts: Any) -> tuple[str, ...]:
    others = _prompts(_OTHERS, prompts)
    if dull := next((prompt for prompt in others if "{}" not in prompt), None):
        raise UsageError(f"{_OTHERS!r} holds {dull!r}, which says the same of every expression; put {{}} for its name")
    return others


def _prompts(word: str, prompts: Any) -> tuple[str, ...]:
    if not isinstance(prompts, list) or not prompts:
        raise UsageError(f"{word!r} needs a list of at least one prompt")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"{word!r} holds {prompt!r}, which is not a prompt; write text, in quotes if need be")
    return tuple(prompt.strip() for prompt in prompts)
