"""Report the state of a chain of stages (render, train, evaluate, crossval) from the files in a folder.

Read-only: no file is written and no shard is opened. A file that cannot be read becomes a row with the state `damaged`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_directory import STATE, RunDirectory
from smile_pipe.pipeline.runs.run_index import StageOutput, find_stage_outputs, folders_in, read_manifest
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import MANIFEST_NAME, Frozen, ShardManifest, ShardSetPaths, joined_fingerprint
from smile_pipe.shards.storage import StoragePath
from smile_pipe.shards.urls import SEPARATOR, split_sets


class NextStep(Frozen):
    """What to run next.

    Attributes:
        stage: name of the stage, such as "train".
        inputs: positional inputs, in order.
        options: options by field name; capital letters stand for a name that the user chooses.
        recorded: the options of an earlier run by the names in its `config.json`, unchecked; to be given again.
        resume: whether to continue from the last checkpoint.
    """

    stage: str
    inputs: tuple[str, ...] = ()
    options: Mapping[str, str] = {}
    recorded: Mapping[str, Any] = {}
    resume: bool = False


class StatusRow(Frozen):
    """One shard set, run, evaluation or cross-validation.

    Attributes:
        kind: what it is.
        path: relative to the folder of the report, "." for the folder itself.
        state: `stale` is finished, but its input has changed since.
        finished: time of the manifest; None without one.
        about: reason for the state; "" where none is needed.
        counts: numbers of samples, steps and the like, by name.
        fingerprint: its fingerprint, "" where it has none yet.
        made_from: path of its input; "" where that is not in the folder.
        next: what to run next; None where nothing is left to do.
    """

    kind: Literal["shards", "run", "evaluation", "crossval", "unknown"]
    path: str
    state: Literal["finished", "unfinished", "stale", "damaged"]
    finished: datetime | None = None
    about: str = ""
    counts: Mapping[str, int] = {}
    fingerprint: str = ""
    made_from: str = ""
    next: NextStep | None = None


class StatusReport(Frozen):
    """The contents of a folder: shard sets, then each run with its evaluation, then cross-validations."""

    root: str
    rows: tuple[StatusRow, ...]


def status(root: StoragePath) -> StatusReport:
    """Report on a folder and on the folders in it, at most two levels deep.

    Args:
        root: a shard set, a run, or a folder that holds some.

    Raises:
        UsageError: it is not a directory.
    """
    root = StoragePath(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such directory; name one that is, or holds, shards or runs")
    outputs = list(find_stage_outputs(root))
    shard_sets, runs, crossvals = (
        [output for output in outputs if output.kind == kind] for kind in ("shards", "run", "crossval")
    )
    sources = {output.path: _source(output, shard_sets) for output in (*runs, *crossvals)}
    used = {each.path for source in sources.values() if source for each in source.sets}
    rows = [_shards_row(root, output, output.path in used) for output in shard_sets]
    for run in runs:
        rows += _run_rows(root, run, sources[run.path], shard_sets)
    rows += [_crossval_row(root, output, sources[output.path]) for output in crossvals]
    rows += [_row(root, output, "damaged", about=output.problem) for output in outputs if output.kind == "unknown"]
    return StatusReport(root=str(root), rows=tuple(rows))


@dataclass(frozen=True)
class _Source:
    """The shards of a run.

    Attributes:
        sets: the shard sets, one or several that are read as one.
    """

    sets: tuple[StageOutput, ...]

    @property
    def spec(self) -> str:
        """The text that names them as an option."""
        return SEPARATOR.join(str(each.path) for each in self.sets)

    @property
    def fingerprint(self) -> str:
        """Their fingerprint, "" where one of them is not finished."""
        each = [output.fingerprint for output in self.sets]
        return joined_fingerprint(each) if all(each) else ""

    def shown(self, root: StoragePath) -> str:
        """Their paths below `root`."""
        return SEPARATOR.join(str(each.path.relative_to(root)) for each in self.sets)


def _source(run: StageOutput, shard_sets: Sequence[StageOutput]) -> _Source | None:
    """Find the shards of a run or a cross-validation: at the recorded places, else with the recorded fingerprint."""
    recorded = run.options.get("shards")
    locations = _resolve_recorded(recorded, run.path) if isinstance(recorded, str) else []
    by_place = {str(output.path.resolve()): output for output in shard_sets}
    if locations and all(location in by_place for location in locations):
        return _Source(tuple(by_place[location] for location in locations))
    return _find_sets([run.shards_fingerprint], shard_sets) if run.shards_fingerprint else None


def _find_sets(fingerprints: Sequence[str], shard_sets: Sequence[StageOutput]) -> _Source | None:
    """Find the shard set of each fingerprint; None where one of them is not there."""
    # The first of several sets of the same content.
    by_content = {output.fingerprint: output for output in reversed(shard_sets)}
    if all(each in by_content for each in fingerprints):
        return _Source(tuple(by_content[each] for each in fingerprints))
    return None


def _resolve_recorded(recorded: str, run: StoragePath) -> list[str]:
    """Make the recorded location of each shard set absolute, without access to it; empty where one is invalid."""
    with suppress(ValueError):
        return [run.resolve_reference(each) for each in split_sets(recorded)]
    return []


def _shards_row(root: StoragePath, output: StageOutput, is_used: bool) -> StatusRow:
    render = NextStep(stage="render", inputs=("DATA",), options={"out": str(output.path)})
    if output.problem:
        return _row(root, output, "damaged", about=output.problem, next=render)
    if output.manifest is None:
        num_finished = sum(name.endswith(".json") for name in _file_sizes(ShardSetPaths(output.path).progress))
        about = f"unfinished, {pluralize(num_finished, 'shard')} so far"
        return _row(root, output, "unfinished", about=about, counts={"shards": num_finished}, next=render)
    manifest: ShardManifest = output.manifest
    counts = {
        "shards": len(manifest.shards),
        "samples": manifest.num_samples,
        "subjects": manifest.num_subjects,
        "failures": manifest.num_failures,
    }
    sizes = _file_sizes(ShardSetPaths(output.path).shards)
    if damaged := [entry.name for entry in manifest.shards if sizes.get(entry.name) != entry.bytes]:
        about = f"{pluralize(len(damaged), 'shard')} gone or of another size, {damaged[0]} first"
        verify = NextStep(stage="verify", inputs=(str(output.path),))
        return _row(root, output, "damaged", about=about, counts=counts, next=verify)
    train = None if is_used else NextStep(stage="train", options={"shards": str(output.path), "out": "RUN"})
    return _row(root, output, "finished", counts=counts, next=train)


def _run_rows(
    root: StoragePath, run: StageOutput, source: _Source | None, shard_sets: Sequence[StageOutput]
) -> list[StatusRow]:
    """The rows of a run and of its evaluation."""
    manifest, problem = read_manifest(EvaluationManifest, RunDirectory(run.path).evaluation_manifest_path)
    row = _run_row(root, run, source)
    if manifest is None and not problem:
        return [row]
    common: dict[str, Any] = {"made_from": row.path, "next": None if row.next else _evaluate_step(run, source)}
    output = StageOutput("unknown", RunDirectory(run.path).evaluation_path, manifest, problem)
    if manifest is None:
        return [row, _row(root, output, "damaged", kind="evaluation", about=problem, **common)]
    common["counts"] = {
        "subjects": manifest.num_subjects,
        "samples": manifest.num_scans + manifest.num_sequences,
        "skipped": manifest.num_skipped,
    }
    is_of_other_run = manifest.run_fingerprint != run.fingerprint
    on_own_shards = manifest.shards_fingerprint == run.shards_fingerprint
    if is_of_other_run or (on_own_shards and row.state != "finished"):
        about = f"of {'another run' if is_of_other_run else 'other shards'} than there is now"
        return [row, _row(root, output, "stale", kind="evaluation", about=about, **common)]
    scored = _find_sets(manifest.joined_fingerprints or (manifest.shards_fingerprint,), shard_sets)
    if scored is None and on_own_shards:
        scored = source
    missing = f"on shards {manifest.shards_fingerprint[:8]}, which are not here, or not any more"
    about = f"on {scored.shown(root)}" if scored else missing
    return [row, _row(root, output, "finished", kind="evaluation", about=about, **common | {"next": None})]


def _run_row(root: StoragePath, run: StageOutput, source: _Source | None) -> StatusRow:
    shards = source.spec if source else "SHARDS"
    common: dict[str, Any] = {"made_from": source.shown(root) if source else ""}
    resume = NextStep(
        stage="train",
        options={"out": str(run.path), "shards": shards},
        recorded=_recorded_options(run, "train"),
        resume=True,
    )
    if run.problem:
        return _row(root, run, "damaged", about=f"{run.problem}; remove it and go on", next=resume, **common)
    changed = source is not None and source.fingerprint != run.shards_fingerprint and bool(run.shards_fingerprint)
    is_finished = source is not None and source.fingerprint
    reason = "stale: the shards changed since" if is_finished else "stale: the shards are not finished"
    retrain = resume.model_copy(update={"options": {"out": "NEW_RUN", "shards": shards}, "resume": False})
    if run.manifest is None:
        step, num_steps = RunDirectory(run.path).progress()
        common["counts"] = {"step": step, "steps": num_steps}
        if changed:
            return _row(root, run, "stale", about=f"{reason}, and it was not finished", next=retrain, **common)
        return _row(root, run, "unfinished", about=f"unfinished, step {step} of {num_steps}", next=resume, **common)
    manifest = run.manifest
    common["counts"] = {
        "steps": manifest.num_steps,
        "samples": manifest.num_train_samples,
        "skipped": manifest.num_skipped,
    }
    if manifest.num_skipped_steps:
        common["counts"]["skipped steps"] = manifest.num_skipped_steps
    if not (RunDirectory(run.path).checkpoints_path / Path(manifest.checkpoint).name / STATE).exists():
        about = f"its checkpoint {manifest.checkpoint} is gone"
        return _row(root, run, "damaged", about=about, next=retrain, **common)
    if changed:
        return _row(root, run, "stale", about=reason, next=retrain, **common)
    about = "" if source else f"trained on shards {run.shards_fingerprint[:8]}, which are not here"
    is_evaluated = RunDirectory(run.path).evaluation_manifest_path.exists()
    step_after = None if is_evaluated else _evaluate_step(run, source)
    return _row(root, run, "finished", about=about, next=step_after, **common)


def _crossval_row(root: StoragePath, output: StageOutput, source: _Source | None) -> StatusRow:
    shards = source.spec if source else "SHARDS"
    scored_on = output.options.get("scored_on")
    inputs = {"shards": shards}
    if isinstance(scored_on, str) and scored_on != output.options.get("shards"):
        inputs = {"train_on": shards, "test_on": SEPARATOR.join(_resolve_recorded(scored_on, output.path))}
    recorded = _recorded_options(output, "crossval")
    resume = NextStep(stage="crossval", options={"out": str(output.path), **inputs}, recorded=recorded)
    folds = [RunDirectory(path).evaluation_manifest_path for path in folders_in(output.path / "folds")]
    common: dict[str, Any] = {
        "made_from": source.shown(root) if source else "",
        "counts": {"folds": sum(path.exists() for path in folds)},
    }
    if output.problem:
        return _row(root, output, "damaged", about=f"{output.problem}; remove it and go on", next=resume, **common)
    if source is not None and source.fingerprint != output.shards_fingerprint and output.shards_fingerprint:
        restart = resume.model_copy(update={"options": {"out": "NEW_CROSSVAL", **inputs}})
        return _row(root, output, "stale", about="stale: the shards changed since", next=restart, **common)
    if output.manifest is None:
        return _row(root, output, "unfinished", about="unfinished", next=resume, **common)
    about = "" if source else f"on shards {output.shards_fingerprint[:8]}, which are not here"
    return _row(root, output, "finished", about=about, **common)


def _evaluate_step(run: StageOutput, source: _Source | None) -> NextStep:
    shards = source.spec if source else "SHARDS"
    return NextStep(stage="evaluate", inputs=(str(run.path),), options={"shards": shards})


def _recorded_options(output: StageOutput, section: str) -> dict[str, Any]:
    recorded = output.options.get(section)
    return recorded if isinstance(recorded, dict) else {}


def _row(root: StoragePath, output: StageOutput, state: str, **fields: Any) -> StatusRow:
    finished = None
    if output.manifest:
        written = (output.path / MANIFEST_NAME).modified_time()
        # Some storages have no modification time.
        finished = datetime.fromtimestamp(written, UTC).replace(microsecond=0) if written else None
    known = {"kind": output.kind, "path": str(output.path.relative_to(root)), "fingerprint": output.fingerprint}
    return StatusRow.model_validate(known | {"state": state, "finished": finished} | fields)


def _file_sizes(folder: StoragePath) -> dict[str, int]:
    """Sizes of the files in a folder, by name; none where it cannot be read."""
    try:
        return folder.file_sizes()
    except OSError:
        return {}
