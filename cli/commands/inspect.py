"""`smile-pipe inspect`: show the contents of shards or of a run as tables and as a picture."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.tables import curves_table, expression_table, find_row, print_sample
from smile_pipe.pipeline.data.temporal import sequences_of
from smile_pipe.pipeline.runs.curves import extract_curves
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import describe_samples, pluralize
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath

if TYPE_CHECKING:
    from smile_pipe.pipeline.runs.run_directory import RunDirectory


class InspectOptions(Frozen):
    """Options of `smile-pipe inspect`."""

    target: str = Field(
        description="Shards (directory, manifest.json, glob, brace pattern or URL), or the directory of a run."
    )
    key: str | None = Field(None, description="Show one sample: labels, text and cameras; with `preview` its views.")
    preview: StoragePath | None = Field(None, description="Write a contact sheet of some samples to this PNG file.")
    curves: StoragePath | None = Field(None, description="Write the curves of a run to this PNG file.")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "inspect",
        InspectOptions,
        arguments=("target",),
        examples=(
            "smile-pipe inspect shards --preview views.png",
            "smile-pipe inspect run --curves curves.png",
        ),
    )
    def inspect(config: InspectOptions, console: Console) -> Result:
        """Show the contents of TARGET, which is shards or a run."""
        target = StoragePath(config.target)
        if (target / "config.json").exists():
            if config.preview or config.key:
                option = "--preview" if config.preview else "--key"
                raise UsageError(
                    f"{option}: shows shards; for a run use --curves, or `smile-pipe evaluate` for a report"
                )
            return _inspect_run(target, config.curves, console)
        if config.curves:
            raise UsageError("--curves: shows a run, and these are shards; use --preview")
        shards = ShardSet.open(config.target)
        rows = [find_row(shards, config.key)] if config.key else []
        result: Result = shards.manifest
        if rows:
            sample = shards.read(rows[0])
            print_sample(sample, rows[0], console)
            result = {"text": sample.text} | sample.record.model_dump(mode="json")
        else:
            _print_shards(shards, console)
        if config.preview:
            _write_preview(shards, rows, config.preview, console)
        return result


def _print_shards(shards: ShardSet, console: Console) -> None:
    manifest = shards.manifest
    facts = Table(show_header=False, box=None)
    facts.add_row(
        "samples",
        f"{len(shards.rows)} of {pluralize(len(shards.subjects), 'subject')}, "
        f"{pluralize(manifest.num_failures, 'failure')}",
    )
    facts.add_row("kinds", _kinds(shards.rows))
    facts.add_row("layout", manifest.layout)
    facts.add_row("views", ", ".join(manifest.views))
    facts.add_row("channels", f"{', '.join(manifest.channels)} at {manifest.image_size} px by {manifest.renderer}")
    facts.add_row("prompts", f"from {manifest.text_source}")
    facts.add_row("shards", f"{len(manifest.shards)}, {sum(entry.bytes for entry in manifest.shards) / 1e6:.1f} MB")
    for name, values in (
        ("surface", [r.surface for r in shards.rows]),
        ("aligned by", [r.framed_by for r in shards.rows]),
    ):
        facts.add_row(name, ", ".join(f"{value}: {count}" for value, count in sorted(Counter(values).items())))
    console.print(facts)
    console.print(expression_table(shards.rows))


def _kinds(rows: Sequence[SampleRow]) -> str:
    """Numbers of scans and sequences, with the frames and frame rates of sequences."""
    sequences = sequences_of(rows)
    if not sequences:
        return describe_samples(len(rows), 0)
    counts = [row.num_frames for row in sequences]
    each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    rates = ", ".join(f"{rate:g}" for rate in sorted({row.frame_rate for row in sequences}))
    samples = describe_samples(len(rows) - len(sequences), len(sequences))
    return f"{samples} of {each} frames ({sum(counts)} in all), recorded at {rates} fps"


def _write_preview(shards: ShardSet, rows: Sequence[SampleRow], path: StoragePath, console: Console) -> None:
    from smile_pipe.pipeline.reports.contact_sheet import preview_png

    _write_picture("--preview", path, preview_png(shards, rows))
    print_line(console, f"contact sheet: {path}")


def _write_picture(option: str, path: StoragePath, picture: bytes) -> None:
    try:
        path.write_atomically(picture)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written ({error.strerror or error})") from None


def _inspect_run(root: StoragePath, picture: StoragePath | None, console: Console) -> Result:
    from smile_pipe.pipeline.runs.run_directory import RunDirectory, open_run

    directory = RunDirectory(root)
    if directory.manifest_path.exists():
        manifest, checkpoint = open_run(root)
        result: Result = manifest
        facts = _run_table(manifest)
        facts.add_row("checkpoint", str(checkpoint.path))
    else:
        result, facts = _show_unfinished(directory)
    console.print(facts)
    curves = extract_curves(directory.metrics())
    if curves:
        console.print()
        console.print(curves_table(curves))
    if picture:
        from smile_pipe.pipeline.reports.plots import training_curves

        image = training_curves(curves, num_columns=2, image_format="png")
        if image is None:
            raise UsageError(f"--curves {picture}: {root} has no metrics yet")
        _write_picture("--curves", picture, image)
        print_line(console, f"curves: {picture}")
    return result


def _run_table(manifest: RunManifest) -> Table:
    facts = Table(show_header=False, box=None)
    images = f"{' and '.join(manifest.channels)} images"
    facts.add_row("recipe", f"{manifest.recipe['name']}, {manifest.recipe['arch']} on {images}")
    facts.add_row("trained on", manifest.training_data_summary())
    if manifest.validation_subjects:
        facts.add_row("held back", pluralize(len(manifest.validation_subjects), "subject"))
    facts.add_row("tested on", f"{pluralize(len(manifest.test_subjects), 'subject')} (split {manifest.split})")
    facts.add_row("prompts", f"from {manifest.text_source}")
    changes = ", ".join(f"{size} from step {step}" for step, size in manifest.world_sizes[1:])
    facts.add_row("steps", f"{manifest.num_steps}, workers: {manifest.world_size}{f' ({changes})' if changes else ''}")
    return facts


def _show_unfinished(directory: "RunDirectory") -> tuple[dict[str, Any], Table]:
    """JSON result and table of a run that is not finished."""
    from smile_pipe.pipeline.train.resume import load_run_config

    try:
        run_config, checkpoints = load_run_config(directory), directory.checkpoints()
    except UsageError:
        raise UsageError(f"{directory.root}: holds no run; give the directory of a run, or shards") from None
    step, num_steps = directory.progress()
    last = checkpoints[-1].path.name if checkpoints else None
    facts = Table(show_header=False, box=None)
    facts.add_row("recipe", f"{run_config['recipe']['name']}, {run_config['recipe']['arch']}")
    facts.add_row(
        "state", f"not finished: step {step} of {num_steps or 'some'}; `smile-pipe train --resume` continues it"
    )
    facts.add_row("split", run_config["train"]["split"])
    facts.add_row("checkpoint", str(directory.checkpoints_path / last) if last else "none yet")
    result = {"stage": "train", "state": "unfinished", "step": step, "num_steps": num_steps, "checkpoint": last}
    return result | {"train": run_config["train"], "recipe": run_config["recipe"]}, facts
