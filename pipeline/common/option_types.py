"""What the options of all stages share. An option is a field of its stage's config, described there and nowhere else:
the command line, config files and manifests take it from there.
"""

from typing import Any

from pydantic import BeforeValidator

ADDRESS_HELP = "Ray to run on: local starts one here; auto or HOST:PORT joins a running cluster."


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Repeated = "repeated"
"""Marks a tuple that is given by saying the option, or the argument, once for each: its parts may hold commas."""

CommaSeparated = BeforeValidator(_split)
"""Lets a tuple be given as `a,b,c`."""
