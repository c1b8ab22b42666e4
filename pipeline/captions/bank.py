"""Prompt banks: templates of text for each expression, read from YAML.

The prompt of a sample depends on its key, its expression and the bank only, on every machine and in every process.
A prompt belongs to one expression.
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
    """Templates of prompts for each expression.

    Attributes:
        templates: Prompts by expression code; their order decides which one a key draws.
        others: Prompts for expressions without a list, with `{}` in place of the expression's name; may be empty.
    """

    templates: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...] = ()

    def prompt_for(self, key: str, expression: str) -> str:
        """Draw the prompt of a sample from the templates of its expression, by a hash of its key.

        Raises:
            UsageError: The bank has no templates for `expression`.
        """
        choices = self.templates_for(expression)
        # Python's `hash` differs between processes.
        draw = int.from_bytes(blake3(key.encode()).digest(length=8), "little")
        return choices[draw % len(choices)]

    def templates_for(self, expression: str) -> tuple[str, ...]:
        """Return all templates of an expression; those of a compound expression ("HA;SU") are joined by "and".

        Raises:
            UsageError: The bank has no templates for `expression`.
        """
        parts = [self._templates_for_one(part) for part in expression.split(";")]
        if len(parts) == 1:
            return parts[0]
        # The n-th templates of all lists are joined; shorter lists repeat.
        return tuple(" and ".join(part[n % len(part)] for part in parts) for n in range(max(map(len, parts))))

    def _templates_for_one(self, expression: str) -> tuple[str, ...]:
        if expression in self.templates:
            return self.templates[expression]
        if self.others:
            words = re.sub(r"[^\w]+|_", " ", expression).strip() or expression
            return tuple(other.replace("{}", words) for other in self.others)
        raise UsageError(
            f"the prompt bank has no templates for the expression {expression!r}: it has "
            f"{', '.join(self.templates)}; add a list {expression!r} to your own bank file"
        )


def load_bank(path: Path | None = None) -> PromptBank:
    """Load a prompt bank.

    Args:
        path: YAML file with a mapping from expressions to lists of prompts; None loads the built-in bank. Expressions
            are codes or words ("SU", "surprise"); words other than the seven basic expressions are kept in lower case.

    Raises:
        UsageError: The file cannot be read or is not a prompt bank.
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
        raise UsageError("not a mapping from expressions to lists of prompts; write e.g. 'HA: [a happy face]'")
    templates: dict[str, tuple[str, ...]] = {}
    code_of_prompt: dict[str, str] = {}
    for word, prompts in content.items():
        if not isinstance(word, str):
            raise UsageError(f"the expression {word!r} is not a string; put it in quotes")
        code = expression_code(word)
        if code in templates:
            raise UsageError(f"the expression {code!r} has a second list, {word!r}; merge the two")
        templates[code] = _prompts(word, prompts)
        for prompt in templates[code]:
            # The same text for two expressions would train them as equal, and could not distinguish them.
            if code_of_prompt.setdefault(prompt, code) != code:
                raise UsageError(
                    f"the prompt {prompt!r} belongs to {code_of_prompt[prompt]!r} and to {code!r}; remove one of them"
                )
    return templates


def _others(prompts: Any) -> tuple[str, ...]:
    others = _prompts(_OTHERS, prompts)
    if constant := next((prompt for prompt in others if "{}" not in prompt), None):
        raise UsageError(
            f"{_OTHERS!r} contains {constant!r} without a placeholder; write {{}} for the expression's name"
        )
    return others


def _prompts(word: str, prompts: Any) -> tuple[str, ...]:
    if not isinstance(prompts, list) or not prompts:
        raise UsageError(f"the value of {word!r} is not a list of prompts; write at least one prompt")
    for prompt in prompts:
        if not isinstance(prompt, str) or not prompt.strip():
            raise UsageError(f"{word!r} contains {prompt!r}, which is not a prompt; write text, in quotes if necessary")
    return tuple(prompt.strip() for prompt in prompts)
