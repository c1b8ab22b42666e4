"""`smile-pipe inspect`: what shards or a run hold, as tables and as a picture."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.tables import curves_table, expression_table, print_sample, row_of
from smile_pipe.pipeline.data.temporal import is_sequence
from smile_pipe.pipeline.runs.curves import curves_of, curves_png
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import describe_samples, pluralize
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath

if TYPE_CHECKING:
    from smile_pipe.pipeline.runs.run_directory import RunDirectory


class InspectOptions(Frozen):
    """Options of `smile-pipe inspect`."""

    target: str = Field(description="Shards (as for --shards of train), or the directory of a run.")
    key: str | None = Field(None, description="Show this one sample: labels, text, cameras; with --preview its views.")
    preview: StoragePath | None = Field(None, description="Write a contact sheet of some samples to this PNG file.")
    curves: StoragePath | None = Field(None, description="Write the curves of a run to this PNG file.")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "inspect", InspectOptions, arguments=("target",))
    def inspect(config: InspectOptions, console: Console) -> Result:
        """Show what TARGET, shards or a run, holds."""
        target = StoragePath(config.target)
        if (target / "config.json").exists():
            if config.preview or config.key:
                option = "--preview" if config.preview else "--key"
                raise UsageError(f"{option}: shows shards; a run has --curves, and a report by `smile-pipe evaluate`")
            return _inspect_run(target, config.curves, console)
        if config.curves:
            raise UsageError("--curves: shows a run, and these are shards; they have --preview")
        shards = ShardSet.open(config.target)
        rows = [row_of(shards, config.key)] if config.key else []
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
    for what, values in (
        ("surface", [r.surface for r in shards.rows]),
        ("framed by", [r.framed_by for r in shards.rows]),
    ):
        facts.add_row(what, ", ".join(f"{name}: {count}" for name, count in sorted(Counter(values).items())))
    console.print(facts)
    console.print(expression_table(shards.rows))


def _kinds(rows: Sequence[IndexRow]) -> str:
    """How many are scans and how many are sequences, of how many frames, at what rates."""
    sequences = [row for row in rows if is_sequence(row)]
    if not sequences:
        return describe_samples(len(rows), 0)
    counts = [row.num_frames for row in sequences]
    each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    rates = ", ".join(f"{rate:g}" for rate in sorted({row.frame_rate for row in sequences}))
    told = describe_samples(len(rows) - len(sequences), len(sequences))
    return f"{told} of {each} frames ({sum(counts)} in all), recorded at {rates} fps"


def _write_preview(shards: ShardSet, rows: Sequence[IndexRow], path: StoragePath, console: Console) -> None:
    from smile_pipe.pipeline.reports.preview import preview_png

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
        facts = _facts(manifest)
        facts.add_row("checkpoint", str(checkpoint.path))
    else:
        result, facts = _unfinished(directory)
    console.print(facts)
    curves = curves_of(directory.metrics())
    if curves:
        console.print()
        console.print(curves_table(curves))
    if picture:
        if not curves:
            raise UsageError(f"--curves {picture}: {root} has no metrics yet")
        _write_picture("--curves", picture, curves_png(curves))
        print_line(console, f"curves: {picture}")
    return result


def _facts(manifest: RunManifest) -> Table:
    facts = Table(show_header=False, box=None)
    facts.add_row("recipe", f"{manifest.recipe['name']}, {manifest.recipe['arch']} on {manifest.channel} images")
    facts.add_row("trained on", manifest.learned_from())
    if manifest.validation_subjects:
        facts.add_row("held back", pluralize(len(manifest.validation_subjects), "subject"))
    facts.add_row("tested on", f"{pluralize(len(manifest.test_subjects), 'subject')} (split {manifest.split})")
    facts.add_row("prompts", f"from {manifest.text_source}")
    changes = ", ".join(f"{size} from step {step}" for step, size in manifest.world_sizes[1:])
    facts.add_row("steps", f"{manifest.num_steps}, workers: {manifest.world_size}{f' ({changes})' if changes else ''}")
    return facts


def _unfinished(directory: "RunDirectory") -> tuple[dict[str, Any], Table]:
    """What there is of a run that is not finished."""
    from smile_pipe.pipeline.train.resume import load_run_config

    try:
        about, checkpoints = load_run_config(directory), directory.checkpoints()
    except UsageError:
        raise UsageError(f"{directory.root}: holds no run; name one, or shards") from None
    step, num_steps = directory.progress()
    last = checkpoints[-1].path.name if checkpoints else None
    facts = Table(show_header=False, box=None)
    facts.add_row("recipe", f"{about['recipe']['name']}, {about['recipe']['arch']}")
    facts.add_row("state", f"not finished: step {step} of {num_steps or 'some'}; `smile-pipe train --resume` goes on")
    facts.add_row("split", about["train"]["split"])
    facts.add_row("checkpoint", str(directory.checkpoints_path / last) if last else "none yet")
    found = {"stage": "train", "state": "unfinished", "step": step, "num_steps": num_steps, "checkpoint": last}
    return found | {"train": about["train"], "recipe": about["recipe"]}, facts
