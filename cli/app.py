"""`smile-pipe app`: a run in, a page in the browser out."""

import signal

import typer
from rich.console import Console

from cli import stopping
from cli.console import say
from cli.options import Result, command
from pipeline.app.config import AppConfig


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "app", AppConfig, arguments=("run",))
    def serve(config: AppConfig, console: Console) -> Result:
        """Serve a page in which faces can be dropped, turned and put into words, by a trained RUN."""
        from pipeline.app.launch import run

        say(console, f"http://{config.host}:{config.port}   (Ctrl-C ends it)")
        try:
            code = run(config)
        except KeyboardInterrupt:
            if stopping.put_away() != signal.SIGINT:
                raise
            # It is how a page ends, and nothing went wrong.
            code = 0
        if code:
            raise RuntimeError(f"the page ended with exit code {code}; is port {config.port} taken?")
        return {"exit_code": code}
