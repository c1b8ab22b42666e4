"""Expression knowledge: prototypes of expressions as action units, with their sources, read from YAML.

It is the published part of naming an expression: which movements are described as anger, surprise or pain. `naming.py`
compares captions with it, so that an expression can be named without any label.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from smile_pipe.pipeline.captions.action_units import PHRASES
from smile_pipe.pipeline.common.expressions import NEUTRAL, expression_code
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen

INTENSITIES = {"A": 0.2, "B": 0.4, "C": 0.6, "D": 0.8, "E": 1.0, "": 1.0}
"""Intensity of an action unit by its FACS letter; prototypes without a letter are complete."""

KNOWLEDGE_HELP = (
    "YAML file with prototypes of expressions (action units) that are added to the built-in ones, or replace them; see "
    "pipeline/captions/README.md."
)

_SHIPPED = "knowledge.yaml"
_UNIT = re.compile(r"([1-9]\d?)([A-E]?)")


def parse_units(code: str | int) -> dict[int, float]:
    """Parse a combination of action units: "6+12C" -> {6: 1.0, 12: 0.6}.

    Raises:
        ValueError: It is not such a combination, or has an action unit twice or one that is not known.
    """
    units: dict[int, float] = {}
    for part in str(code).split("+"):
        match = _UNIT.fullmatch(part.strip())
        if match is None or int(match[1]) not in PHRASES:
            raise ValueError(f"{part.strip()!r} in {str(code)!r} is not an action unit; write e.g. 6+12C")
        if int(match[1]) in units:
            raise ValueError(f"the action unit {match[1]} is in {str(code)!r} twice")
        units[int(match[1])] = INTENSITIES[match[2]]
    return units


def _to_units(value: object) -> object:
    return parse_units(value) if isinstance(value, str | int) else value


def _check_units(units: Mapping[int, float]) -> Mapping[int, float]:
    if unknown := sorted(units.keys() - PHRASES.keys()):
        raise ValueError(f"{unknown[0]} is not an action unit that is known")
    return units


Units = Annotated[
    Mapping[int, Annotated[float, Field(gt=0, le=1)]],
    BeforeValidator(_to_units),
    AfterValidator(_check_units),
    Field(min_length=1),
]
"""Intensities from 0 to 1 by action unit, also parsed from the notation of FACS."""


class Prototype(Frozen):
    """One variant of an expression.

    Attributes:
        source: Key of its publication in `Knowledge.sources`.
        units: Intensities from 0 to 1 by action unit.
    """

    source: str
    units: Units


class Knowledge(Frozen):
    """Prototypes of expressions.

    Attributes:
        sources: Publications by key.
        prototypes: Variants by expression code; neutral has none.
    """

    sources: Mapping[str, str]
    prototypes: Mapping[str, tuple[Prototype, ...]]


class _File(Frozen):
    """The content of a knowledge file: citations, and for each expression its variants by source."""

    sources: Mapping[str, Annotated[str, Field(min_length=1)]]
    expressions: Annotated[
        Mapping[str, Annotated[Mapping[str, Annotated[tuple[Units, ...], Field(min_length=1)]], Field(min_length=1)]],
        Field(min_length=1),
    ]


def load_knowledge(path: Path | None = None) -> Knowledge:
    """Load expression knowledge.

    Args:
        path: YAML file like the built-in `knowledge.yaml`. Its expressions are added to the built-in ones; one
            that is in both has the prototypes of the file. None loads the built-in knowledge alone.

    Raises:
        UsageError: The file cannot be read or is not expression knowledge.
    """
    shipped = _parse((files("smile_pipe.pipeline.captions") / _SHIPPED).read_text(encoding="utf-8"), _SHIPPED)
    own = read_knowledge(path) if path else Knowledge(sources={}, prototypes={})
    return Knowledge(sources={**shipped.sources, **own.sources}, prototypes={**shipped.prototypes, **own.prototypes})


def read_knowledge(path: Path) -> Knowledge:
    """Read the expression knowledge of a file alone, without the built-in one.

    Raises:
        UsageError: See `load_knowledge`.
    """
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise UsageError(f"{path}: the expression knowledge cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: the expression knowledge is not UTF-8 text") from None


def _parse(text: str, origin: str) -> Knowledge:
    try:
        content = _File.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise UsageError(
            f"{origin}: the expression knowledge is not valid YAML ({' '.join(str(error).split())})"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise UsageError(f"{origin}: not expression knowledge ({where}: {first['msg']})") from None
    prototypes: dict[str, tuple[Prototype, ...]] = {}
    for word, variants in content.expressions.items():
        code = expression_code(word)
        if not code:
            raise UsageError(f"{origin}: {word!r} is not the name of an expression")
        if code == NEUTRAL:
            raise UsageError(f"{origin}: neutral has no prototype: it is the absence of activity; remove {word!r}")
        if code in prototypes:
            raise UsageError(f"{origin}: the expression {code!r} has second variants, {word!r}; merge the two")
        if unknown := sorted(variants.keys() - content.sources.keys()):
            raise UsageError(f"{origin}: {word!r} names the source {unknown[0]!r}, which `sources` lacks; add it there")
        prototypes[code] = tuple(
            Prototype(source=source, units=units) for source, codes in variants.items() for units in codes
        )
    return Knowledge(sources=content.sources, prototypes=prototypes)
