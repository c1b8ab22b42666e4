"""The entry point of `smile-pipe`: registers all commands and runs one."""

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from typer.exceptions import TyperException

from smile_pipe.cli import signals
from smile_pipe.cli.commands import app as app_command
from smile_pipe.cli.commands import (
    compare,
    crossval,
    evaluate,
    export,
    inspect,
    predict,
    render,
    status,
    synth,
    train,
    verify,
)
from smile_pipe.cli.console import print_error

app = typer.Typer(
    name="smile-pipe",
    help="Render 3D face scans to multiview shards; train and evaluate SMILE-VLM on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    synth,
    render,
    verify,
    train,
    evaluate,
    predict,
    app_command,
    export,
    crossval,
    compare,
    inspect,
    status,
):
    module.register(app)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        print(f"smile-pipe {version('smile-pipe')}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. An unknown option is one line on stderr and exit code 2, like other invalid arguments."""
    signals.install_handlers()
    try:
        sys.exit(app(standalone_mode=False))
    except TyperException as error:
        print_error("error", error.format_message())
        sys.exit(2)
