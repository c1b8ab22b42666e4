"""`smile-pipe predict`: predict expressions of scans with a run."""

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import CheckFailedError, Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.predict.config import PredictConfig, Prediction, Predictions

# Up to MAX_COLUMNS classes have a column each; of more classes, the SHOWN most probable ones are listed.
MAX_COLUMNS, SHOWN = 8, 3


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "predict", PredictConfig, arguments=("run", "scans"))
    def predict(config: PredictConfig, console: Console) -> Result:
        """Predict expressions of SCANS with a trained RUN."""
        from smile_pipe.pipeline.predict.stage import run

        with StageProgress("predict") as progress:
            found = run(config, progress.update)
        console.print(_table(found))
        for failed in (one for one in found.predictions if one.failure):
            print_line(console, f"{failed.source}: {failed.failure}")
        if config.save_views:
            print_line(console, f"views: {config.save_views}")
        if all(one.failure for one in found.predictions):
            raise CheckFailedError("none of the scans could be read", found)
        return found


def _table(found: Predictions) -> Table:
    """A row per scan: the probability of each class in percent, or the most probable classes if there are many."""
    is_wide = len(found.classes) > MAX_COLUMNS
    labelled = any(one.labelled for one in found.predictions)
    # Without borders seven classes fit into 80 columns.
    table = Table(title=f"percent, by {found.head}, text: {found.text_source}", box=None)
    table.add_column("scan", no_wrap=True)
    for heading in (*(["label"] if labelled else []), "expression"):
        table.add_column(heading, no_wrap=True)
    for name in range(1, SHOWN + 1) if is_wide else found.classes:
        # Codes of expressions; their words would not fit into one line of a terminal.
        table.add_column(f"{name}." if is_wide else str(name), justify="right", min_width=3)
    for one in found.predictions:
        cells = [one.labelled or ""] if labelled else []
        if one.failure:
            table.add_row(one.key, *cells, "not read")
            continue
        best = Text(word_for(one.expression or ""), style="bold")
        table.add_row(one.key, *cells, best, *(_likeliest(one) if is_wide else _shares(one, found.classes)))
    return table


def _shares(one: Prediction, classes: tuple[str, ...]) -> list[str]:
    return [f"{100 * one.probabilities[name]:.0f}" for name in classes]


def _likeliest(one: Prediction) -> list[str]:
    best = sorted(one.probabilities.items(), key=lambda item: -item[1])[:SHOWN]
    return [f"{word_for(name)} {100 * share:.0f}" for name, share in best]
