"""`smile-pipe verify`: is a shard set what was written?"""

from dataclasses import asdict

import typer
from pydantic import Field
from rich.console import Console

from cli.console import say
from cli.options import CheckFailedError, Result, command
from cli.progress import StageProgress
from shards.manifest import Frozen
from shards.reader import ShardSet
from shards.verify import Problem, verify_shards
from shards.words import counted

MAX_SHOWN = 20


class VerifyOptions(Frozen):
    """Options of `smile-pipe verify`."""

    shards: str = Field(description="Shards: a directory, manifest.json, glob, brace pattern or URL.")
    quick: bool = Field(False, description="Compare sizes and manifests only; without it every byte is read.")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, "verify", VerifyOptions, arguments=("shards",))
    def verify(config: VerifyOptions, console: Console) -> Result:
        """Check that SHARDS are whole: every shard, every sample, every image, against manifest and index."""
        shards = ShardSet.open(config.shards)
        names = {row.shard for row in shards.rows}
        problems: list[Problem] = []
        with StageProgress("verify") as progress:
            done = 0
            for name, found in verify_shards(shards, config.quick):
                problems += found
                # What is told of the set as a whole, and not of a part of it, has no name.
                done += bool(name)
                progress.update(done, len(names), counted(len(problems), "problem"))
        for problem in problems[:MAX_SHOWN]:
            where = " ".join(part for part in (problem.shard, problem.key) if part)
            say(console, f"{where or shards.root}: {problem.what}")
        if len(problems) > MAX_SHOWN:
            say(console, f"... and {len(problems) - MAX_SHOWN} more (all of them with --json)")
        result = {"shards": config.shards, "quick": config.quick, "problems": [asdict(problem) for problem in problems]}
        if problems:
            raise CheckFailedError(f"{config.shards}: {counted(len(problems), 'problem')}", result)
        say(console, f"{counted(len(shards.rows), 'sample')} in {counted(len(names), 'shard')}, all as written")
        return result
