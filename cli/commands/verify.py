"""`smile-pipe verify`: check a shard set for damage."""

from dataclasses import asdict

import typer
from pydantic import Field
from rich.console import Console

from smile_pipe.cli.console import print_line
from smile_pipe.cli.options import CheckFailedError, Result, command
from smile_pipe.cli.progress import StageProgress
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.verify import Problem, verify_shards

MAX_SHOWN = 20


class VerifyOptions(Frozen):
    """Options of `smile-pipe verify`."""

    shards: str = Field(description="Shards: a directory, manifest.json, glob, brace pattern or URL.")
    quick: bool = Field(False, description="Compare only sizes and manifests, instead of reading every byte.")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(
        app,
        "verify",
        VerifyOptions,
        arguments=("shards",),
        examples=(
            "smile-pipe verify shards",
            "smile-pipe verify s3://bucket/shards --quick",
        ),
    )
    def verify(config: VerifyOptions, console: Console) -> Result:
        """Check every shard, sample and image of SHARDS against manifest and index."""
        shards = ShardSet.open(config.shards)
        names = {row.shard for row in shards.rows}
        problems: list[Problem] = []
        with StageProgress("verify") as progress:
            done = 0
            for name, found in verify_shards(shards, config.quick):
                problems += found
                # Problems of the whole set have no shard name.
                done += bool(name)
                progress.update(done, len(names), pluralize(len(problems), "problem"))
        for problem in problems[:MAX_SHOWN]:
            where = " ".join(part for part in (problem.shard, problem.key) if part)
            print_line(console, f"{where or shards.root}: {problem.what}")
        if len(problems) > MAX_SHOWN:
            print_line(console, f"... and {len(problems) - MAX_SHOWN} more; --json lists all")
        result = {"shards": config.shards, "quick": config.quick, "problems": [asdict(problem) for problem in problems]}
        if problems:
            raise CheckFailedError(f"{config.shards}: {pluralize(len(problems), 'problem')}", result)
        print_line(
            console, f"{pluralize(len(shards.rows), 'sample')} in {pluralize(len(names), 'shard')}, all as written"
        )
        return result
