"""`smile-pipe inspect`: what shards or a run hold, as tables and as a picture."""

from collections import Counter
from collections.abc import Sequence

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from cli.counts import expression_table
from cli.options import Result, command
from pipeline.training.manifest import RunManifest
from pipeline.training.sequences import in_words, is_sequence
from shards.errors import UsageError
from shards.index import IndexRow
from shards.manifest import Frozen
from shards.places import AnyPlace, Place, place, write_atomically
from shards.reader import ShardSet


class InspectOptions(Frozen):
    """Options of `smile-pipe inspect`."""

    target: str = Field(description="Shards (as for --shards of train), or the directory of a run.")
    preview: AnyPlace | None = Field(None, description="Write a contact sheet of some samples to this PNG file.")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "inspect", InspectOptions, arguments=("target",))
    def inspect(config: InspectOptions, console: Console) -> Result:
        """Show what TARGET, shards or a run, holds."""
        target = place(config.target)
        if (target / "config.json").exists():
            if config.preview:
                raise UsageError("--preview: shows shards; a run has a report, see `smile-pipe evaluate`")
            return _inspect_run(target, console)
        shards = ShardSet.open(config.target)
        _print_shards(shards, console)
        if config.preview:
            _write_preview(shards, config.preview, console)
        return shards.manifest


def _print_shards(shards: ShardSet, console: Console) -> None:
    manifest = shards.manifest
    facts = Table(show_header=False, box=None)
    facts.add_row("samples", f"{len(shards.rows)} of {len(shards.subjects)} subjects, {manifest.num_failures} failures")
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
        return f"{len(rows)} scans"
    counts = [row.num_frames for row in sequences]
    each = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    rates = ", ".join(f"{rate:g}" for rate in sorted({row.frame_rate for row in sequences}))
    told = f"{len(sequences)} sequences of {each} frames ({sum(counts)} in all), recorded at {rates} fps"
    return told if len(sequences) == len(rows) else f"{len(rows) - len(sequences)} scans, {told}"


def _write_preview(shards: ShardSet, path: Place, console: Console) -> None:
    from pipeline.preview import preview_png

    sheet = preview_png(shards)
    try:
        write_atomically(path, sheet)
    except OSError as error:
        raise UsageError(f"--preview {path}: cannot be written ({error.strerror or error})") from None
    console.print(f"contact sheet: {path}", highlight=False)


def _inspect_run(root: Place, console: Console) -> RunManifest:
    from pipeline.training.run_directory import RunDirectory, open_run

    manifest, checkpoint = open_run(root)
    facts = Table(show_header=False, box=None)
    facts.add_row("recipe", f"{manifest.recipe['name']}, {manifest.recipe['arch']} on {manifest.channel} images")
    facts.add_row("trained on", f"{manifest.num_train_samples} samples of {len(manifest.train_subjects)} subjects")
    facts.add_row(
        "read", f"{in_words(manifest.temporal, manifest.max_frames)}; {manifest.num_train_sequences} sequences"
    )
    facts.add_row("tested on", f"{len(manifest.test_subjects)} subjects (split {manifest.split})")
    facts.add_row("prompts", f"from {manifest.text_source}")
    facts.add_row("steps", f"{manifest.num_steps}, {manifest.world_size} worker(s)")
    facts.add_row("checkpoint", str(checkpoint.path))
    console.print(facts)
    rows = RunDirectory(root).metrics()
    names = [name for name in rows[-1] if name.startswith("loss_")] if rows else []
    table = Table("step", "epoch", *(name.removeprefix("loss_") for name in names), title="losses")
    for row in rows[:: max(len(rows) // 8, 1)]:
        table.add_row(str(row["step"]), str(row["epoch"] + 1), *(f"{row[name]:.4f}" for name in names))
    console.print(table)
    return manifest
