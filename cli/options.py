"""Commands from configs: every field of a stage's config becomes an option, with its type, default and help.

A value on the command line overrides one in the `--config` file, which overrides the default. An error becomes one line
and an exit code: 1 if the job failed, 2 for invalid arguments; `--debug` shows the traceback.

Stages name options as fields of their configs (`num_workers`, `split=all`). Here these become flags (`--num-workers`,
`--split all`), in help texts and in errors.
"""

import inspect
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from rich.console import Console

from smile_pipe.cli import signals
from smile_pipe.cli.console import plain_console, print_error, print_line
from smile_pipe.pipeline.common import ray_session
from smile_pipe.pipeline.common.option_types import Repeated
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import canonical_json

C = TypeVar("C", bound=BaseModel)
Result = BaseModel | dict[str, Any]


class CheckFailedError(RuntimeError):
    """What was checked is not as it should be; `result` says what was found, for `--json`."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


# A field in a message or a help text: `name` or `name=value`, in backticks. Only names of known fields are replaced.
_FIELD = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
_known_fields: set[str] = set()

_COMMON = {
    "config": (Path | None, "File (YAML or TOML) with any of these options by name."),
    "json": (bool, "Print the result as JSON on stdout, and everything else on stderr."),
    "verbose": (bool, "Show what Ray and its workers say, too."),
    "debug": (bool, "Show the traceback of an error."),
}


def command(
    app: typer.Typer, name: str, config: type[C], arguments: tuple[str, ...] = (), goes_on: str = ""
) -> Callable[[Callable[[C, Console], Result]], Callable[..., None]]:
    """Register a function of (config, console) as a command.

    Args:
        app, name: where, and under which name.
        config: the model of its options.
        arguments: fields that are positional.
        goes_on: what goes on with the work where this command was stopped; nothing does by default.
    """

    def register(function: Callable[[C, Console], Result]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            file, as_json, verbose, debug = (given.pop(option) for option in _COMMON)
            _replace_old_names(given, config)
            ray_session.set_verbose(verbose)
            console = plain_console(stderr=as_json)
            try:
                result = function(_resolve(config, given, file, arguments), console)
            except KeyboardInterrupt:
                raise typer.Exit(_report_stop(goes_on)) from None
            except Exception as error:
                if as_json and isinstance(error, CheckFailedError):
                    print(canonical_json(error.result), end="")
                raise typer.Exit(_report(error, debug, arguments)) from None
            if as_json:
                print(canonical_json(result), end="")

        # What has to be given stands first, wherever the config inherits it from.
        fields = sorted(config.model_fields.items(), key=lambda item: not item[1].is_required())
        _known_fields.update(config.model_fields)
        parameters = [_parameter(n, field, n in arguments) for n, field in fields]
        parameters += [
            _parameter(old, config.model_fields[new], positional=False, hidden=True)
            for old, new in _old_names(config).items()
        ]
        parameters += [_common(option, *about) for option, about in _COMMON.items()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__doc__ = function.__doc__
        return app.command(name)(run)

    return register


def flag(name: str, arguments: tuple[str, ...] = ()) -> str:
    """How a field is given on the command line: `num_workers` -> `--num-workers`; of a positional one `OUT`."""
    return name.upper() if name in arguments else f"--{name.replace('_', '-')}"


def with_flags(text: str, arguments: tuple[str, ...] = ()) -> str:
    """Replace fields in backticks by their flags: "leave `split=all` out" -> "leave --split all out"."""

    def replaced(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in _known_fields:
            return match.group()
        return flag(name, arguments) + (f" {value}" if value else "")

    return _FIELD.sub(replaced, text)


def _old_names(config: type[BaseModel]) -> Mapping[str, str]:
    """Former names of options, which still work for one release; a config lists them as `OLD_NAMES`."""
    return getattr(config, "OLD_NAMES", {})


def _replace_old_names(values: dict[str, Any], config: type[BaseModel]) -> None:
    for old, new in _old_names(config).items():
        value = values.pop(old, None)
        if value not in (None, []):
            print_error("warning", f"{flag(old)} is now called {flag(new)}; the old name will be removed")
            values.setdefault(new, None)
            values[new] = values[new] or value


def _report_stop(goes_on: str) -> int:
    number = signals.ignore_further_signals()
    print_line(plain_console(stderr=True), f"stopped; {goes_on} goes on from here" if goes_on else "stopped")
    return 128 + number


def _resolve(config: type[C], given: dict[str, Any], file: Path | None, arguments: tuple[str, ...]) -> C:
    values = _from_file(file, config) if file else {}
    values |= {name: value for name, value in given.items() if value not in (None, [])}
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise UsageError(_problem(error.errors()[0], values, arguments)) from None


def _problem(first: ErrorDetails, values: Mapping[str, Any], arguments: tuple[str, ...]) -> str:
    """What is wrong with an option, by its name; of several that do not go together their message tells."""
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    error = first.get("ctx", {}).get("error")
    if isinstance(error, UsageError) and error.field:
        return _usage(error, arguments)
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{flag(name, arguments)} is required"
    # A UsageError contains the value, as far as that may be shown.
    has_value = isinstance(error, UsageError)
    return f"{flag(name, arguments)} {message if has_value else f'{values.get(name)}: {message}'}"


def _usage(error: UsageError, arguments: tuple[str, ...]) -> str:
    head = flag(error.field, arguments) if error.field else ""
    if head and error.value is not None:
        head += f" {error.value}"
    return f"{head}: {error.message}" if head else error.message


def _from_file(file: Path, config: type[BaseModel]) -> dict[str, Any]:
    try:
        text = file.read_text()
        loaded = tomllib.loads(text) if file.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {file}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {file}: needs options by name, such as `size: 224`")
    values = {str(name).replace("-", "_"): value for name, value in loaded.items()}
    _replace_old_names(values, config)
    if unknown := sorted(values.keys() - config.model_fields.keys()):
        raise UsageError(f"--config {file}: no such option: {', '.join(unknown)}")
    return values


def _parameter(name: str, field: Any, positional: bool, hidden: bool = False) -> inspect.Parameter:
    kind = list[str] if Repeated in field.metadata else _cli_type(field.annotation)
    required = field.is_required()
    default = False if required or field.default in (None, ()) else _show(field.default)
    help_text = with_flags(field.description)
    if positional:
        info = typer.Argument(help=help_text, show_default=False)
    else:
        help_text = f"{help_text} (required)" if required else help_text
        info = typer.Option(flag(name), help=help_text, show_default=default, hidden=hidden)
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _cli_type(annotation: Any) -> Any:
    """The type that typer parses: plain types and choices by itself, everything else as a string for pydantic."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if annotation in (int, float, bool, Path) or typing.get_origin(annotation) is Literal:
        return annotation
    return str


def _common(name: str, kind: Any, help_text: str) -> inspect.Parameter:
    info = typer.Option(f"--{name}", help=help_text, show_default=False, rich_help_panel="Common options")
    default = False if kind is bool else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _show(default: Any) -> str:
    return (
        ",".join(map(str, default))
        if isinstance(default, tuple)
        else str(default).lower()
        if isinstance(default, bool)
        else str(default)
    )


def _report(error: Exception, debug: bool, arguments: tuple[str, ...]) -> int:
    """Print the error; returns the exit code."""
    if debug:
        plain_console(stderr=True).print_exception()
    usage = isinstance(error, UsageError)
    text = _usage(error, arguments) if isinstance(error, UsageError) else str(error)
    text = with_flags(text.strip() or type(error).__name__, arguments)
    if not usage and isinstance(error, (OSError, KeyError)):
        text = f"{type(error).__name__}: {text}"
    hint = "" if usage or debug else "  (--debug shows where)"
    print_error("error" if usage else "failed", " ".join(text.split()) + hint)
    return 2 if usage else 1
