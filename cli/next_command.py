"""The command line of the next step that `smile-pipe status` suggests."""

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from smile_pipe.cli.options import flag
from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.runs.status import NextStep
from smile_pipe.pipeline.train.config import TrainConfig, TrainOptions

# The stages whose recorded options are repeated.
_CONFIGS: Mapping[str, type[TrainOptions]] = {"train": TrainConfig, "crossval": CrossvalConfig}


def next_command(step: NextStep | None) -> str:
    """Return the command as one line that a shell reads correctly; "" for None.

    Unprintable characters in paths are left out, since a terminal may interpret them.
    """
    if step is None:
        return ""
    words = ["smile-pipe", step.stage, *step.inputs]
    # Recorded options come last, and never replace the others.
    for name, value in {**step.options, **_recorded_options(step), **step.options}.items():
        words += _words(name, value)
    if step.resume:
        words += _words("resume", True)
    return shlex.join("".join(sign for sign in word if sign.isprintable()) for word in words)


def _recorded_options(step: NextStep) -> dict[str, Any]:
    return dict(_changed_options(step.recorded, _CONFIGS[step.stage])) if step.recorded else {}


def _changed_options(recorded: Mapping[str, Any], config: type[TrainOptions]) -> Iterator[tuple[str, Any]]:
    """Yield the recorded options that the stage knows and that differ from its defaults, by their present names."""
    for name, recorded_value in config.from_record(recorded).items():
        value = tuple(recorded_value) if isinstance(recorded_value, list) else recorded_value
        if value is not None and value != config.model_fields[name].default:
            yield name, value


def _words(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [flag(name)] * value
    return [flag(name), ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
