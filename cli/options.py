"""Build commands from configs: every field of a config becomes an option with its type, default and help text.

A value on the command line overrides one of the environment (`SMILE_PIPE_TRAIN_EPOCHS=8` for `train --epochs 8`), which
overrides one in the `--config` file, which overrides the default. An error becomes one line
and an exit code: 1 (the job failed) or 2 (invalid arguments). `--debug` prints the traceback.

Stages name options as fields of their configs (`num_workers`, `split=all`). This module turns them into flags
(`--num-workers`, `--split all`) in help texts and errors.
"""

import inspect
import re
import tomllib
import types
import typing
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperOption

from smile_pipe.cli import panels, signals
from smile_pipe.cli.console import plain_console, print_error, print_line
from smile_pipe.pipeline.common import ray_session
from smile_pipe.pipeline.common.option_types import Repeated
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import canonical_json

C = TypeVar("C", bound=BaseModel)
Result = BaseModel | dict[str, Any]


class CheckFailedError(RuntimeError):
    """A check has failed.

    Attributes:
        result: what was found; `--json` prints it.
    """

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result


# A field in a message or a help text: `name` or `name=value`, in backticks. Only names of known fields are replaced.
_FIELD = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
_known_fields: set[str] = set()

_COMMON = {
    "config": (Path | None, "YAML or TOML file with options by name; the command line overrides it."),
    "json": (bool, "Print the result as JSON on stdout, and all other output on stderr."),
    "verbose": (bool, "Show the output of Ray and its workers."),
    "debug": (bool, "Print the traceback of an error."),
}


class ConfigCommand(TyperCommand):
    """A command whose help marks what is required. The parser does not, because a file may contain it."""

    required_names: frozenset[str] = frozenset()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page, after which the process ends."""
        for parameter in self.params:
            parameter.required = parameter.name in self.required_names
        super().format_help(ctx, formatter)

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`, in the panel of the common options."""
        option = super().get_help_option(ctx)
        if isinstance(option, TyperOption):
            option.rich_help_panel = panels.COMMON
        return option

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line: what is required is named without brackets."""
        options, names = list[str](), list[str]()
        for parameter in self.params:
            is_required = parameter.name in self.required_names
            if isinstance(parameter, TyperOption):
                options += [f"{parameter.opts[0]} {parameter.opts[0][2:].upper()}"] if is_required else []
            elif not getattr(parameter, "hidden", False):
                name = str(parameter.name).upper() + ("..." if parameter.nargs == -1 else "")
                names.append(name if is_required else f"[{name}]")
        return [*options, "[OPTIONS]", *names]


def command(
    app: typer.Typer,
    name: str,
    config: type[C],
    arguments: tuple[str, ...] = (),
    examples: tuple[str, ...] = (),
    resume_hint: str = "",
) -> Callable[[Callable[[C, Console], Result]], Callable[..., None]]:
    """Decorator that registers a function of (config, console) as a command.

    Args:
        app: the application to add the command to.
        name: name of the command.
        config: model of its options.
        arguments: names of the fields that are positional.
        examples: command lines that the help ends with.
        resume_hint: what to run to continue after the command was stopped; "" if it cannot be continued.
    """

    def register(function: Callable[[C, Console], Result]) -> Callable[..., None]:
        def run(context: typer.Context, **options: Any) -> None:
            file, as_json, verbose, debug = (options.pop(option) for option in _COMMON)
            from_environment = {
                option: _variable(name, option)
                for option in options
                if (source := context.get_parameter_source(option)) and source.name == "ENVIRONMENT"
            }
            _replace_old_names(options, config)
            ray_session.set_verbose(verbose)
            console = plain_console(stderr=as_json)
            try:
                result = function(_build_config(config, options, file, arguments, from_environment), console)
            except KeyboardInterrupt:
                raise typer.Exit(_report_stop(resume_hint)) from None
            except Exception as error:
                if as_json and isinstance(error, CheckFailedError):
                    print(canonical_json(error.result), end="")
                raise typer.Exit(_report_error(error, debug, arguments, from_environment)) from None
            if as_json:
                print(canonical_json(result), end="")

        _known_fields.update(config.model_fields)

        def position(item: tuple[str, FieldInfo]) -> tuple[int, bool]:
            """Arguments in their order, then panel by panel; in each, required options come first."""
            if item[0] in arguments:
                return arguments.index(item[0]) - len(arguments), False
            return panels.panel_order(panels.panel_of(name, item[0])), not item[1].is_required()

        fields = sorted(config.model_fields.items(), key=position)
        context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
        parameters = [context, *(_parameter(name, n, field, n in arguments) for n, field in fields)]
        parameters += [
            _parameter(name, old, config.model_fields[new], positional=False, hidden=True)
            for old, new in _old_names(config).items()
        ]
        parameters += [_common_parameter(option, kind, text) for option, (kind, text) in _COMMON.items()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__doc__ = function.__doc__
        required = frozenset(n for n, field in fields if field.is_required())
        cls = type("Command", (ConfigCommand,), {"required_names": required})
        return app.command(name, cls=cls, epilog=_epilog(name, examples))(run)

    return register


def flag(name: str, arguments: tuple[str, ...] = ()) -> str:
    """Name of a field on the command line: `num_workers` -> `--num-workers`; `out` -> `OUT` if it is positional."""
    return name.upper() if name in arguments else f"--{name.replace('_', '-')}"


def with_flags(text: str, arguments: tuple[str, ...] = ()) -> str:
    """Replace known fields in backticks by flags: "remove `split=all`" -> "remove --split all".

    Args:
        text: a message or a help text.
        arguments: names of the fields that are positional in this command.
    """

    def replace(match: re.Match[str]) -> str:
        name, value = match.groups()
        if name not in _known_fields:
            return match.group()
        return flag(name, arguments) + (f" {value}" if value else "")

    return _FIELD.sub(replace, text)


def _old_names(config: type[BaseModel]) -> Mapping[str, str]:
    """New names by old names of options; old names work for one release. A config lists them as `OLD_NAMES`."""
    return getattr(config, "OLD_NAMES", {})


def _replace_old_names(values: dict[str, Any], config: type[BaseModel]) -> None:
    for old, new in _old_names(config).items():
        value = values.pop(old, None)
        if value not in (None, []):
            print_error("warning", f"{flag(old)} is now called {flag(new)}; the old name will be removed")
            if values.get(new) in (None, []):
                values[new] = value
            elif new in getattr(config, "RECORDED_NAMES", {}):
                # The new name once had another meaning: the config resolves it.
                values[old] = value


def _report_stop(resume_hint: str) -> int:
    """Print that the command was stopped; returns the exit code."""
    number = signals.ignore_further_signals()
    print_line(plain_console(stderr=True), f"stopped; run {resume_hint} to continue" if resume_hint else "stopped")
    return 128 + number


def _variable(command_name: str, option: str) -> str:
    """Name of the environment variable of an option."""
    return f"SMILE_PIPE_{command_name}_{option}".replace("-", "_").upper()


def _epilog(command_name: str, examples: tuple[str, ...]) -> str:
    """The end of a help page; typer takes empty lines for line breaks."""
    variable = f"SMILE_PIPE_{command_name.replace('-', '_').upper()}_OPTION"
    lines = ["Examples:", *(f"  {example}" for example in examples)] if examples else []
    lines.append(
        f"Options can be set by environment variables, too: {variable}; words of a list are separated by spaces."
    )
    return escape("\n\n".join(lines))


def _build_config(
    config: type[C],
    options: dict[str, Any],
    file: Path | None,
    arguments: tuple[str, ...],
    from_environment: Mapping[str, str],
) -> C:
    values = _read_config_file(file, config) if file else {}
    values |= {name: value for name, value in options.items() if value not in (None, [])}
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FutureWarning)
            resolved = config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = _describe_validation_error(first, values, arguments)
        variable = from_environment.get(str(first["loc"][0])) if first["loc"] else None
        raise UsageError(f"{message} (from {variable})" if variable else message) from None
    for warning in caught:
        print_error("warning", with_flags(str(warning.message), arguments))
    return resolved


def _describe_validation_error(first: ErrorDetails, values: Mapping[str, Any], arguments: tuple[str, ...]) -> str:
    """The message for an invalid option, which starts with its flag; for a conflict of options, the message alone."""
    message = first["msg"].removeprefix("Value error, ").removesuffix(".")
    error = first.get("ctx", {}).get("error")
    if isinstance(error, UsageError) and error.field:
        return _describe_usage_error(error, arguments)
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    if first["type"] == "missing":
        return f"{flag(name, arguments)} is required"
    # The text of a UsageError already contains the value, unless it must not be shown.
    has_value = isinstance(error, UsageError)
    return f"{flag(name, arguments)} {message if has_value else f'{values.get(name)}: {message}'}"


def _describe_usage_error(error: UsageError, arguments: tuple[str, ...]) -> str:
    head = flag(error.field, arguments) if error.field else ""
    if head and error.value is not None:
        head += f" {error.value}"
    return f"{head}: {error.message}" if head else error.message


def _read_config_file(file: Path, config: type[BaseModel]) -> dict[str, Any]:
    try:
        text = file.read_text()
        loaded = tomllib.loads(text) if file.suffix.lower() == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--config {file}: cannot be read ({str(error).splitlines()[0]})") from None
    if not isinstance(loaded, dict):
        raise UsageError(f"--config {file}: needs options by name, such as size: 224")
    values = {str(name).replace("-", "_"): value for name, value in loaded.items()}
    _replace_old_names(values, config)
    if unknown := sorted(values.keys() - config.model_fields.keys()):
        raise UsageError(f"--config {file}: unknown option: {', '.join(unknown)}")
    return values


def _parameter(command_name: str, name: str, field: Any, positional: bool, hidden: bool = False) -> inspect.Parameter:
    kind = list[str] if Repeated in field.metadata else _cli_type(field.annotation)
    help_text = with_flags(field.description)
    if _has_default_to_show(field):
        help_text += f" [default: {_format_default(field.default)}]"
    # Square brackets are no markup.
    help_text = escape(help_text)
    variable = None if hidden else _variable(command_name, name)
    if positional:
        info = typer.Argument(
            help=help_text, show_default=False, envvar=variable, show_envvar=False, metavar=name.upper()
        )
    else:
        info = typer.Option(
            flag(name),
            help=help_text,
            show_default=False,
            hidden=hidden,
            envvar=variable,
            show_envvar=False,
            rich_help_panel=panels.panel_of(command_name, name),
            metavar="<str>" if kind == list[str] else None,
        )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _has_default_to_show(field: FieldInfo) -> bool:
    """Whether the help names the default; that of a flag is no, and a computed one is in the description."""
    is_constant = not field.is_required() and field.default_factory is None
    return is_constant and field.default is not False and field.default not in (None, ())


def _cli_type(annotation: Any) -> Any:
    """The type that typer parses: plain types and choices; other types are strings, which pydantic parses."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        annotation = next(part for part in typing.get_args(annotation) if part is not type(None))
    if annotation in (int, float, bool, Path) or typing.get_origin(annotation) is Literal:
        return annotation
    return str


def _common_parameter(name: str, kind: Any, help_text: str) -> inspect.Parameter:
    info = typer.Option(f"--{name}", help=help_text, show_default=False, rich_help_panel=panels.COMMON)
    default = False if kind is bool else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _format_default(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return str(default).lower() if isinstance(default, bool) else str(default)


def _report_error(
    error: Exception, debug: bool, arguments: tuple[str, ...], from_environment: Mapping[str, str]
) -> int:
    """Print the error; returns the exit code."""
    if debug:
        plain_console(stderr=True).print_exception()
    is_usage = isinstance(error, UsageError)
    text = _describe_usage_error(error, arguments) if isinstance(error, UsageError) else str(error)
    text = with_flags(text.strip() or type(error).__name__, arguments)
    if isinstance(error, UsageError) and (variable := from_environment.get(error.field or "")):
        text += f" (from {variable})"
    if not is_usage and isinstance(error, (OSError, KeyError)):
        text = f"{type(error).__name__}: {text}"
    hint = "" if is_usage or debug else "  (--debug prints a traceback)"
    print_error("error" if is_usage else "failed", " ".join(text.split()) + hint)
    return 2 if is_usage else 1
