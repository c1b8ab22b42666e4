"""`smile-pipe app`: serve a web page that predicts with a run."""

import signal

import typer
from rich.console import Console

from smile_pipe.cli import signals
from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.pipeline.app.config import AppConfig


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "app",
        AppConfig,
        arguments=("run",),
        examples=(
            "smile-pipe app run",
            "smile-pipe app run --host 0.0.0.0 --port 8080",
        ),
    )
    def serve(config: AppConfig, console: Console) -> Result:
        """Serve a web page that predicts expressions of uploaded scans with a trained RUN."""
        from smile_pipe.pipeline.app.stage import run

        print_line(console, f"http://{config.host}:{config.port}   (Ctrl-C ends it)")
        try:
            code = run(config)
        except KeyboardInterrupt:
            if signals.ignore_further_signals() != signal.SIGINT:
                raise
            # Ctrl-C is the normal way to end the page.
            code = 0
        if code:
            raise RuntimeError(f"the server ended with exit code {code}; is port {config.port} taken?")
        return {"exit_code": code}
