"""`smile-pipe render`: render face scans into shards."""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import typer
from pydantic import Field
from rich.console import Console
from rich.table import Table

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.cli.tables import counts, expression_table, subject_lines
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.plan import RenderPlan
from smile_pipe.pipeline.render.timings import Utilization
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import describe_samples, pluralize
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath

if TYPE_CHECKING:
    from smile_pipe.pipeline.render.estimate import Estimate
    from smile_pipe.pipeline.render.stage import RenderProgress

MAX_NOTES = 20


class RenderOptions(RenderConfig):
    """Options of the stage, with a default for `out`, and `dry_run`."""

    out: StoragePath = Field(
        default_factory=lambda: StoragePath("shards"),
        description="Directory for the shards, or its URL; a run there is resumed. [default: DATA_DIR-shards]",
    )
    dry_run: bool = Field(False, description="Print the plan and an estimate of time and size; write nothing.")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "render",
        RenderOptions,
        arguments=("data_dir",),
        resume_hint="the same command",
        examples=(
            "smile-pipe render BU-3DFE",
            'smile-pipe render scans --out shards --channels normal,landmarks --where "level >= 3"',
        ),
    )
    def render(config: RenderOptions, console: Console) -> Result:
        """Render multiview images of all scans under DATA_DIR and write them as WebDataset shards.

        Runs are incremental and resumable: a second run renders only what has changed.
        """
        from smile_pipe.pipeline.render import stage

        if "out" not in config.model_fields_set:
            config = config.model_copy(update={"out": _default_out(config.data_dir)})
        if config.dry_run:
            with StageProgress("render") as progress:
                plan = stage.plan(config, progress.wait_for)
            _print_plan(plan, console)
            _print_counts(plan, console)
            cost = stage.estimate(config, plan)
            print_line(console, _cost(plan, cost))
            return _as_dict(plan, cost)
        started = time.monotonic()
        plans: list[RenderPlan] = []

        busy: list[Utilization] = []
        notes: list[str] = []

        with StageProgress("render") as progress:

            def on_plan(plan: RenderPlan) -> None:
                progress.clear()
                _print_plan(plan, console)
                plans.append(plan)

            def on_progress(state: stage.RenderProgress) -> None:
                progress.update(state.num_done, state.num_total, _failures(state))
                busy[:] = [state.utilization]
                notes[:] = state.notes

            progress.wait_for("finding scans, and comparing them with the shards", is_short=True)
            manifest = stage.run(config, on_progress, on_plan, progress.wait_for)
        (plan,) = plans
        _print_notes(notes, console)
        _print_summary(config, plan, manifest, busy, time.monotonic() - started, console)
        if not manifest.num_samples:
            raise RuntimeError(
                f"of {pluralize(len(plan.samples), 'sample')} none could be rendered; failures.parquet has the reasons"
            )
        return manifest


def _print_plan(plan: RenderPlan, console: Console) -> None:
    subjects = len({sample.subject for sample in plan.samples})
    print_line(console, f"layout {plan.layout}: {plan.evidence}")
    print_line(console, f"{_amount(plan.samples)} of {pluralize(subjects, 'subject')}: {_work(plan)}")
    for reason, count in plan.reasons.items():
        print_line(console, f"  {pluralize(count, 'sample')}: {reason}")
    for line in plan.ignored:
        print_line(console, f"  ignored: {line}")


def _work(plan: RenderPlan) -> str:
    samples = (
        (plan.num_to_render, "to render"),
        (plan.num_to_rewrite, "to rewrite"),
        (plan.num_to_copy, "to copy"),
    )
    shards = ((len(plan.tasks), "to write"), (len(plan.kept), "kept"), (len(plan.removed), "to remove"))
    todo = ", ".join(f"{count} {what}" for count, what in samples if count) or "nothing to render"
    return f"{todo}; shards: " + ", ".join(f"{count} {what}" for count, what in shards if count)


def _print_counts(plan: RenderPlan, console: Console) -> None:
    console.print(expression_table(plan.samples))
    for line in subject_lines(plan.samples):
        print_line(console, line)


def _cost(plan: RenderPlan, cost: "Estimate") -> str:
    if not plan.tasks:
        return "estimate: nothing to write"
    size = f"{cost.bytes / 1e6:,.1f} MB of shards to write"
    if not plan.num_to_render:
        return f"estimate: {size}"
    cores = os.cpu_count() or 1
    duration = timedelta(seconds=round(cost.core_seconds / cores))
    each = cost.core_seconds / plan.num_to_render
    return (
        f"estimate: {duration} on {pluralize(cores, 'core')} like this machine's ({each:.3g} s a sample and core), "
        f"{size}; from a trial of {pluralize(cost.num_tried, 'sample')} with {cost.renderer}"
    )


def _amount(samples: Sequence[SampleSource]) -> str:
    num_sequences = sum(sample.frame_rate is not None for sample in samples)
    return describe_samples(len(samples) - num_sequences, num_sequences)


def _print_summary(
    config: RenderOptions,
    plan: RenderPlan,
    manifest: ShardManifest,
    busy: Sequence[Utilization],
    seconds: float,
    console: Console,
) -> None:
    if plan.is_done:
        print_line(console, f"Nothing to do: {config.out} is up to date")
        return
    table = Table(show_header=False, box=None)
    table.add_row("samples", f"{manifest.num_samples} ({plan.num_to_render} rendered, {plan.num_to_rewrite} rewritten)")
    table.add_row("failures", f"{manifest.num_failures}" + (" (see failures.parquet)" if manifest.num_failures else ""))
    for what, count in _fallbacks(config) if manifest.num_samples else ():
        table.add_row(what, str(count))
    table.add_row("views x channels", f"{len(manifest.views)} x {len(manifest.channels)}, {manifest.image_size} px")
    table.add_row("shards", f"{len(manifest.shards)}, {sum(s.bytes for s in manifest.shards) / 1e6:.1f} MB")
    is_default = config.renderer == "auto" and manifest.renderer == "pytorch3d"
    hint = " (on GPUs without PyTorch3D: --renderer zbuffer-cuda)" if is_default else ""
    table.add_row("renderer", manifest.renderer + hint)
    table.add_row("time", f"{seconds:.1f} s ({plan.num_to_render / max(seconds, 1e-9):.1f} samples/s)")
    for shares in busy:
        table.add_row("workers", _busy(shares))
        table.add_row("limited by", shares.limit)
    table.add_row("written to", str(config.out))
    console.print(table)


def _default_out(data_dir: StoragePath) -> StoragePath:
    """Return the folder next to a dataset for its shards."""
    folder = data_dir.absolute()
    if not folder.name:
        raise UsageError("is needed, because DATA_DIR has no name", field="out")
    return folder.parent / f"{folder.name}-shards"


def _failures(state: "RenderProgress") -> str:
    """Failures are known once a shard is written."""
    if not state.num_written:
        return ""
    return f"{state.num_failed} failed in {pluralize(state.num_written, 'finished shard')}"


def _print_notes(notes: Sequence[str], console: Console) -> None:
    for note in notes[:MAX_NOTES]:
        print_line(console, f"note: {note}")
    if len(notes) > MAX_NOTES:
        print_line(
            console, f"and {len(notes) - MAX_NOTES:,} more notes; `notes` in the KEY.json of a sample has its own"
        )


def _busy(shares: Utilization) -> str:
    steps = ", ".join(f"{step} {share:.0%}" for step, share in shares.steps.items())
    cores = f"cores busy {shares.cores:.0%} ({steps})"
    return cores if shares.gpus is None else f"GPUs busy {shares.gpus:.0%}; {cores}"


def _fallbacks(config: RenderOptions) -> list[tuple[str, int]]:
    """Numbers of samples that were rendered without colours, or without landmarks of a file."""
    rows = ShardSet.open(str(config.out)).rows
    fallbacks = (
        ("without colours (plain tone)", len(rows.where("surface", ["plain"]))),
        ("aligned by landmarks found on the surface", len(rows.where("framed_by", ["detected"]))),
        ("aligned by the outer shape (no landmarks)", len(rows.where("framed_by", ["bounds"]))),
    )
    return [(what, count) for what, count in fallbacks if count]


def _as_dict(plan: RenderPlan, cost: "Estimate") -> dict:
    return {
        "layout": plan.layout,
        "num_samples": len(plan.samples),
        "num_to_render": plan.num_to_render,
        "num_to_rewrite": plan.num_to_rewrite,
        "num_to_copy": plan.num_to_copy,
        "render": [task.name for task in plan.tasks],
        "kept": [receipt.name for receipt in plan.kept],
        "removed": list(plan.removed),
        "reasons": dict(plan.reasons),
        "counts": counts(plan.samples),
        "evidence": plan.evidence,
        "ignored": list(plan.ignored),
        "estimate": asdict(cost),
    }
