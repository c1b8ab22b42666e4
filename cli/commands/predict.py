"""`smile-pipe predict`: predict expressions of scans with a run."""

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import CheckFailedError, Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.common.expressions import word_for
from smile_pipe.pipeline.landmarks.source import LOW_CONFIDENCE
from smile_pipe.pipeline.predict.config import PredictConfig, Prediction, Predictions
from smile_pipe.pipeline.runs.evaluation_manifest import single_view

# Up to MAX_COLUMNS classes have a column each; of more classes the MAX_LISTED most probable ones are listed.
MAX_COLUMNS, MAX_LISTED = 8, 3


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "predict",
        PredictConfig,
        arguments=("run", "scans"),
        examples=(
            "smile-pipe predict run face.obj scans/",
            'smile-pipe predict run face.obj --prompts "a polite smile" --prompts "a skeptical face"',
        ),
    )
    def predict(config: PredictConfig, console: Console) -> Result:
        """Predict expressions of SCANS with a trained RUN."""
        from smile_pipe.pipeline.predict.stage import run

        with StageProgress("predict") as progress:
            result = run(config, progress.update)
        console.print(_table(result))
        for prediction in result.predictions:
            # The answer means little if the scan shows no face, or hardly one.
            is_doubtful = prediction.alignment == "bounds" or (prediction.confidence or 1.0) < LOW_CONFIDENCE
            remark = prediction.notes if is_doubtful else prediction.failure
            if remark:
                print_line(console, f"{prediction.source}: {remark}")
        if config.save_views:
            print_line(console, f"views: {config.save_views}")
        if all(prediction.failure for prediction in result.predictions):
            raise CheckFailedError("none of the scans could be read", result)
        return result


def _table(result: Predictions) -> Table:
    """A row per scan: the probability of each class in percent, or the most probable classes if there are many."""
    is_wide = len(result.classes) > MAX_COLUMNS
    labelled = any(prediction.labelled for prediction in result.predictions)
    # Without borders seven classes fit into 80 columns.
    view = f", {single_view(result.views)}" if len(result.views) == 1 else ""
    table = Table(title=f"percent, by {result.head}, text: {result.text_source}{view}", box=None)
    table.add_column("scan", no_wrap=True)
    for heading in (*(["label"] if labelled else []), "expression"):
        table.add_column(heading, no_wrap=True)
    for name in range(1, MAX_LISTED + 1) if is_wide else result.classes:
        # Codes of expressions; their words would not fit into one line of a terminal.
        table.add_column(f"{name}." if is_wide else str(name), justify="right", min_width=3)
    for prediction in result.predictions:
        cells = [prediction.labelled or ""] if labelled else []
        if prediction.failure:
            table.add_row(prediction.key, *cells, "not read")
            continue
        best = Text(word_for(prediction.expression or ""), style="bold")
        numbers = _most_probable(prediction) if is_wide else _percentages(prediction, result.classes)
        table.add_row(prediction.key, *cells, best, *numbers)
    return table


def _percentages(prediction: Prediction, classes: tuple[str, ...]) -> list[str]:
    return [f"{100 * prediction.probabilities[name]:.0f}" for name in classes]


def _most_probable(prediction: Prediction) -> list[str]:
    best = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:MAX_LISTED]
    return [f"{word_for(name)} {100 * share:.0f}" for name, share in best]
