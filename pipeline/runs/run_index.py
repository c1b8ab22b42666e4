"""Find the outputs of stages in a folder: shard sets, runs and cross-validations, with their manifests.

Safe on foreign folders: no path from a file is followed, at most `MAX_BYTES` of a file are read, and a file that cannot
be read becomes `StageOutput.problem`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from smile_pipe.pipeline.runs.crossval_manifest import CrossvalManifest
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Manifest, ShardManifest
from smile_pipe.shards.storage import StoragePath

MAX_DEPTH = 2
# Far above what a stage writes: one shard takes 200 bytes of a manifest.
MAX_BYTES = 64 << 20

M = TypeVar("M", bound=Manifest)


@dataclass(frozen=True)
class StageOutput:
    """The output directory of a stage.

    Attributes:
        kind: which stage wrote it.
        path: the directory.
        manifest: its manifest; None where the stage has not finished, or where it cannot be read.
        problem: why the manifest cannot be read, or "".
        options: the readable part of `config.json`, of a run or a cross-validation.
    """

    kind: Literal["shards", "run", "crossval", "unknown"]
    path: StoragePath
    manifest: Any = None
    problem: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the output, "" where it has none yet."""
        return self.manifest.fingerprint if self.manifest else ""

    @property
    def shards_fingerprint(self) -> str:
        """Fingerprint of the training shards, "" where it is not known."""
        known = self.manifest.shards_fingerprint if self.manifest else self.options.get("shards_fingerprint")
        return known if isinstance(known, str) else ""


def find_stage_outputs(root: StoragePath) -> Iterator[StageOutput]:
    """Yield all outputs down to `MAX_DEPTH` levels below `root`, upper levels first.

    Folders within an output, such as the folds of a cross-validation, are part of it and are not yielded.
    """
    level = [root]
    for depth in range(MAX_DEPTH + 1):
        outputs = {path: output for path in level if (output := _inspect(path)) is not None}
        yield from outputs.values()
        if depth < MAX_DEPTH:
            level = [child for path in level if path not in outputs for child in folders_in(path)]


def read_manifest(kind: type[M], path: StoragePath) -> tuple[M | None, str]:
    """Read a manifest.

    Returns:
        The manifest and what is wrong with it; None and "" where there is no file.
    """
    content, problem = _read(path)
    if problem or not content:
        return None, problem
    try:
        return kind.parse(content, path.name), ""
    except (UsageError, RecursionError) as error:
        return None, str(error)


def folders_in(path: StoragePath) -> list[StoragePath]:
    """List the folders in a folder, sorted by name; none where it cannot be read."""
    try:
        return sorted((entry for entry in path.iterdir() if entry.is_dir()), key=str)
    except OSError:
        return []


def _inspect(path: StoragePath) -> StageOutput | None:
    text, problem = _read(path / "manifest.json")
    options, stage = _parse_object(_read(path / "config.json")[0]), _parse_object(text).get("stage")
    if stage == "train" or isinstance(options.get("train"), dict):
        return StageOutput("run", path, *read_manifest(RunManifest, path / "manifest.json"), options)
    if stage == "crossval" or isinstance(options.get("crossval"), dict):
        return StageOutput("crossval", path, *read_manifest(CrossvalManifest, path / "manifest.json"), options)
    if stage == "render" or (path / ".progress").is_dir() or (path / "index.parquet").is_file():
        return StageOutput("shards", path, *read_manifest(ShardManifest, path / "manifest.json"))
    if text or problem:
        return StageOutput("unknown", path, None, problem or "manifest.json is of no stage of this release")
    return None


def _read(path: StoragePath) -> tuple[bytes, str]:
    """Return the content of a file and what is wrong with it; b"" and "" where there is no file."""
    try:
        if not path.exists():
            return b"", ""
        if not path.is_file():
            return b"", f"{path.name} is no file"
        # An object store refuses a range of an empty object.
        content = path.read_range(0, MAX_BYTES + 1) if path.size() else b""
    except OSError as error:
        return b"", f"{path.name} cannot be read ({error.strerror or error})"
    if len(content) > MAX_BYTES:
        return b"", f"{path.name} has over {MAX_BYTES >> 20} MiB, which no stage writes"
    return content, "" if content else f"{path.name} is empty"


def _parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object; empty where the content is anything else."""
    try:
        loaded = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
