"""What stages have written into a folder: finding shard sets, runs and cross-validations, and what they say.

Promised: no path from a file is followed, no more than `MAX_BYTES` of a file is read, and a file that cannot be read
makes a finding and no error.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import MANIFEST_NAME, Manifest, ShardManifest, ShardSetPaths
from smile_pipe.shards.storage import StoragePath

MAX_DEPTH = 2
# Far above what a stage writes: one shard takes 200 bytes of a manifest.
MAX_BYTES = 64 << 20

M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True)
class Output:
    """A folder that a stage writes to.

    Attributes:
        manifest: what it says of itself; None where the stage has not finished, or where it cannot be read.
        problem: why it cannot be read, or "".
        options: `config.json` of a run or a cross-validation, as far as it can be read.
    """

    kind: Literal["shards", "run", "crossval", "unknown"]
    path: StoragePath
    manifest: Any = None
    problem: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Its own, "" where it has none yet."""
        return self.manifest.fingerprint if self.manifest else ""

    @property
    def shards_fingerprint(self) -> str:
        """Of the shards that are learned from, "" where that is not known."""
        known = self.manifest.shards_fingerprint if self.manifest else self.options.get("shards_fingerprint")
        return known if isinstance(known, str) else ""


def find_outputs(root: StoragePath) -> Iterator[Output]:
    """All outputs down to `MAX_DEPTH` levels below `root`, the upper ones first; those inside of others are theirs."""
    level = [root]
    for depth in range(MAX_DEPTH + 1):
        outputs = {path: output for path in level if (output := _look(path)) is not None}
        yield from outputs.values()
        if depth < MAX_DEPTH:
            level = [child for path in level if path not in outputs for child in folders_in(path)]


def read_manifest(kind: type[M], path: StoragePath) -> tuple[M | None, str]:
    """The manifest at `path` and what is wrong with it; None and "" where there is none."""
    content, problem = _content(path)
    if problem or not content:
        return None, problem
    try:
        return kind.parse(content, path.name), ""
    except (UsageError, RecursionError) as error:
        return None, str(error)


def _look(path: StoragePath) -> Output | None:
    text, problem = _content(path / MANIFEST_NAME)
    options, stage = _json(_content(path / "config.json")[0]), _json(text).get("stage")
    if stage == "train" or isinstance(options.get("train"), dict):
        return Output("run", path, *read_manifest(RunManifest, path / MANIFEST_NAME), options)
    if stage == "crossval" or isinstance(options.get("crossval"), dict):
        return Output("crossval", path, *read_manifest(CrossvalManifest, path / MANIFEST_NAME), options)
    if stage == "render" or ShardSetPaths(path).progress.is_dir() or ShardSetPaths(path).index_path.is_file():
        return Output("shards", path, *read_manifest(ShardManifest, path / MANIFEST_NAME))
    if text or problem:
        return Output("unknown", path, None, problem or "manifest.json is of no stage of this release")
    return None


def folders_in(path: StoragePath) -> list[StoragePath]:
    """The folders in one, by name; none where it cannot be looked into."""
    try:
        return sorted((entry for entry in path.iterdir() if entry.is_dir()), key=str)
    except OSError:
        return []


def _content(path: StoragePath) -> tuple[bytes, str]:
    """What a file holds, and what is wrong with it; b"" and "" where there is none."""
    try:
        if not path.exists():
            return b"", ""
        if not path.is_file():
            return b"", f"{path.name} is no file"
        # An object store knows no range of an empty object.
        content = path.read_range(0, MAX_BYTES + 1) if path.size() else b""
    except OSError as error:
        return b"", f"{path.name} cannot be read ({error.strerror or error})"
    if len(content) > MAX_BYTES:
        return b"", f"{path.name} has over {MAX_BYTES >> 20} MiB, which no stage writes"
    return content, "" if content else f"{path.name} is empty"


def _json(content: bytes) -> dict[str, Any]:
    try:
        loaded = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
