"""The entry point of `smile-pipe`: registers all commands and runs one."""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from smile_pipe.cli import signals
from smile_pipe.cli.console import print_error

# The help of each command, with the module of the same name in `commands/`. Configs import numpy, numba and pyarrow,
# so a module is imported only when its command runs.
COMMANDS = {
    "synth": "Generate labelled face scans or sequences of neutral and the six basic expressions, without a download.",
    "render": "Render multiview images of all scans under DATA_DIR and write them as WebDataset shards.",
    "verify": "Check every shard, sample and image of SHARDS against manifest and index.",
    "train": "Train a recipe on shards; several workers and GPUs need Ray. The test side of the split is never read.",
    "evaluate": "Score a trained RUN on unseen subjects, and write a report into RUN/evaluation.",
    "predict": "Predict expressions of SCANS with a trained RUN.",
    "app": "Serve a web page that predicts expressions of uploaded scans with a trained RUN.",
    "export": "Export a trained RUN for open_clip or as an ONNX graph, or embeddings of shards as a table.",
    "crossval": "Train and score each fold, and report mean and deviation; run again to continue after a stop.",
    "compare": "Compare the cross-validations in DIRECTORY over the same folds; those of several seeds are one row.",
    "train-landmarks": "Train the detector of landmarks on random views of face models, and write its weights.",
    "inspect": "Show the contents of TARGET, which is shards or a run.",
    "status": "Show what DIRECTORY holds, what was made from what, what is stale, and the next commands.",
}

app = typer.Typer(
    name="smile-pipe",
    help="Render 3D face scans to multiview shards; train and evaluate SMILE-VLM on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def load_command(name: str) -> Any:
    """Import a command with its options and return it."""
    only = typer.Typer(add_completion=False)
    import_module(f"smile_pipe.cli.commands.{name.replace('-', '_')}").register(only)
    return typer.main.get_command(only)


class _LazyCommand(TyperCommand):
    """A command that is known by its help until it runs."""

    def make_context(self, info_name: str | None, *args: Any, **options: Any) -> Any:
        return load_command(str(self.name)).make_context(info_name, *args, **options)


for _name, _help in COMMANDS.items():
    app.command(_name, cls=_LazyCommand, help=_help)(lambda: None)


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
        print_error("error", error.format_message() + _origin(error))
        sys.exit(2)


def _origin(error: TyperException) -> str:
    """Name the environment variable that an invalid value is from."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    source = context.get_parameter_source(parameter.name) if context and parameter else None
    return f" (from {parameter.envvar})" if parameter and source and source.name == "ENVIRONMENT" else ""
