"""Field types shared by the configs of several stages.

An option is declared once, as a field of the config of its stage. The command line, config files and manifests use that
declaration.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from smile_pipe.shards.urls import SEPARATOR

ADDRESS_HELP = "Ray cluster to run on: local starts one on this machine; auto or HOST:PORT joins a running one."


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _join_sets(value: Any) -> Any:
    return SEPARATOR.join(map(str, value)) if isinstance(value, list | tuple) else value


Repeated = "repeated"
"""Marks a tuple whose option or argument is repeated once per part, since a part may contain commas."""

CommaSeparated = BeforeValidator(_split)
"""Accepts a tuple as the text `a,b,c`."""

SetsOfShards = BeforeValidator(_join_sets)
"""Accepts a list of shard sets as the text `A::B`."""

SHARDS_HELP = "Shards: a directory, manifest.json, glob, brace pattern or URL; several sets as A::B, or repeated."

CacheFolder = Annotated[
    Path | None,
    Field(
        description="Local folder for copies of shards; all workers of a machine share it. By default shards under a "
        "URL are copied to the cache folder of the user, and others are not copied."
    ),
]
CacheGigabytes = Annotated[
    float,
    Field(ge=0, allow_inf_nan=False, description="Largest size of that folder, in GiB; 0 reads without copies."),
]
DEFAULT_CACHE_GB = 20.0

ClassifierName = Literal["zero-shot", "probe", "classifier", "captions"]
ClassifierKind = Literal[ClassifierName, "examples"]
HEAD_HELP = (
    "Classifier: zero-shot (prompts), probe (the linear probe of `smile-pipe evaluate`), classifier (of a supervised "
    "run) or captions (the captions of training name the face, by expression knowledge); auto takes the first that the "
    "run has of classifier, zero-shot and probe."
)
