"""Where a chain of stages stands: render -> train -> evaluate, told from what lies in a folder.

Goes in: a folder that is, or holds, shard sets and runs. Comes out: a report with a row for each of them and for each
evaluation: is it finished, what was it made from, has that changed since, and what to type next.
Promised: nothing is written and no shard is opened; a file that cannot be read makes a row that says so, and no error.
"""

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_directory import STATE, RunDirectory
from smile_pipe.pipeline.runs.run_index import Output, find_outputs, folders_in, read_manifest
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import pluralize
from smile_pipe.shards.manifest import Frozen, ShardManifest, ShardSetPaths
from smile_pipe.shards.storage import PathLike, StoragePath


class StatusRow(Frozen):
    """One shard set, run, evaluation or cross-validation.

    Attributes:
        path: relative to the folder of the report, "." for itself.
        state: `stale` is finished, but what it was made from has changed since.
        finished: when its manifest was written; None without one.
        about: why it is in that state; "" where the state says all.
        counts: how many there are of what.
        fingerprint: its own, "" where it has none yet.
        made_from: the path of what it was made from; "" where that is not in the folder.
        next: what to type now; "" where nothing is left to do.
    """

    kind: Literal["shards", "run", "evaluation", "crossval", "unknown"]
    path: str
    state: Literal["finished", "unfinished", "stale", "damaged"]
    finished: datetime | None = None
    about: str = ""
    counts: Mapping[str, int] = {}
    fingerprint: str = ""
    build_samples: str = ""
    next: str = ""


class StatusReport(Frozen):
    """All that was found in a folder: shard sets, then each run with its evaluation, then cross-validations."""

    root: str
    rows: tuple[StatusRow, ...]


def status(root: PathLike) -> StatusReport:
    """Look at `root` and at the folders in it, two levels deep.

    Raises:
        UsageError: it is no directory.
    """
    root = StoragePath(root)
    if not root.is_dir():
        raise UsageError(f"{root}: no such directory; name one that is, or holds, shards or runs")
    found = list(find_outputs(root))
    sets, runs, crossed = ([each for each in found if each.kind == kind] for kind in ("shards", "run", "crossval"))
    sources = {each.path: _source(each, sets) for each in (*runs, *crossed)}
    used = {source.path for source in sources.values() if source}
    rows = [_shards_row(root, each, each.path in used) for each in sets]
    for run in runs:
        rows += _run_rows(root, run, sources[run.path], sets)
    rows += [_crossval_row(root, each, sources[each.path]) for each in crossed]
    rows += [_row(root, each, "damaged", about=each.problem) for each in found if each.kind == "unknown"]
    return StatusReport(root=str(root), rows=tuple(rows))


def _source(run: Output, sets: Sequence[Output]) -> Output | None:
    """The shards that a run learns from: those that lie where it says, else some with the same fingerprint."""
    named = run.options.get("shards")
    where = _place_of(named, run.path) if isinstance(named, str) else ""
    same_place = [each for each in sets if str(each.path.resolve()) == where]
    same_content = [each for each in sets if each.fingerprint and each.fingerprint == run.shards_fingerprint]
    return next(iter(same_place + same_content), None)


def _place_of(named: str, run: StoragePath) -> str:
    """What a run says of where its shards lie, made whole without looking there."""
    with suppress(ValueError):
        return run.resolve_reference(named)
    return ""


def _shards_row(root: StoragePath, found: Output, is_used: bool) -> StatusRow:
    render = _type("render", "DATA", "--out", found.path)
    if found.problem:
        return _row(root, found, "damaged", about=found.problem, next=render)
    if found.manifest is None:
        num_made = sum(name.endswith(".json") for name in _sizes(ShardSetPaths(found.path).progress))
        about = f"unfinished, {pluralize(num_made, 'shard')} so far"
        return _row(root, found, "unfinished", about=about, counts={"shards": num_made}, next=render)
    manifest: ShardManifest = found.manifest
    counts = {
        "shards": len(manifest.shards),
        "samples": manifest.num_samples,
        "subjects": manifest.num_subjects,
        "failures": manifest.num_failures,
    }
    sizes = _sizes(ShardSetPaths(found.path).shards)
    if damaged := [entry.name for entry in manifest.shards if sizes.get(entry.name) != entry.bytes]:
        about = f"{pluralize(len(damaged), 'shard')} gone or of another size, {damaged[0]} first"
        return _row(root, found, "damaged", about=about, counts=counts, next=_type("verify", found.path))
    train = "" if is_used else _type("train", "--shards", found.path, "--out", "RUN")
    return _row(root, found, "finished", counts=counts, next=train)


def _run_rows(root: StoragePath, run: Output, source: Output | None, sets: Sequence[Output]) -> list[StatusRow]:
    """A run and its evaluation."""
    manifest, problem = read_manifest(EvaluationManifest, RunDirectory(run.path).evaluation_manifest_path)
    row = _run_row(root, run, source)
    if manifest is None and not problem:
        return [row]
    evaluate = "" if row.next else _evaluate(run, source)
    common: dict[str, Any] = {"made_from": row.path, "next": evaluate}
    output = Output("unknown", RunDirectory(run.path).evaluation_path, manifest, problem)
    if manifest is None:
        return [row, _row(root, output, "damaged", kind="evaluation", about=problem, **common)]
    common["counts"] = {
        "subjects": manifest.num_subjects,
        "samples": manifest.num_scans + manifest.num_sequences,
        "skipped": manifest.num_skipped,
    }
    on_own_shards = manifest.shards_fingerprint == run.shards_fingerprint
    if manifest.run_fingerprint != run.fingerprint or (on_own_shards and row.state != "finished"):
        about = (
            f"of {'another run' if manifest.run_fingerprint != run.fingerprint else 'other shards'} than there is now"
        )
        return [row, _row(root, output, "stale", kind="evaluation", about=about, **common)]
    here = next((each for each in sets if each.fingerprint == manifest.shards_fingerprint), None)
    elsewhere = f"on shards {manifest.shards_fingerprint[:8]}, which are not here, or not any more"
    about = f"on {_relative(root, here.path)}" if here else elsewhere
    return [row, _row(root, output, "finished", kind="evaluation", about=about, **common | {"next": ""})]


def _run_row(root: StoragePath, run: Output, source: Output | None) -> StatusRow:
    shards = source.path if source else "SHARDS"
    options = ["--shards", shards, *_options(run.options.get("train"), TrainConfig)]
    common: dict[str, Any] = {"made_from": _relative(root, source.path) if source else ""}
    resume = _type("train", "--out", run.path, *options, "--resume")
    if run.problem:
        return _row(root, run, "damaged", about=f"{run.problem}; remove it and go on", next=resume, **common)
    changed = source is not None and source.fingerprint != run.shards_fingerprint and bool(run.shards_fingerprint)
    why = "stale: the shards changed since" if source and source.manifest else "stale: the shards are not finished"
    anew = _type("train", "--out", "NEW_RUN", *options)
    if run.manifest is None:
        step, num_steps = RunDirectory(run.path).progress()
        common["counts"] = {"step": step, "steps": num_steps}
        if changed:
            return _row(root, run, "stale", about=f"{why}, and it was not finished", next=anew, **common)
        return _row(root, run, "unfinished", about=f"unfinished, step {step} of {num_steps}", next=resume, **common)
    manifest = run.manifest
    common["counts"] = {
        "steps": manifest.num_steps,
        "samples": manifest.num_train_samples,
        "skipped": manifest.num_skipped,
    }
    if not (RunDirectory(run.path).checkpoints_path / Path(manifest.checkpoint).name / STATE).exists():
        return _row(root, run, "damaged", about=f"its checkpoint {manifest.checkpoint} is gone", next=anew, **common)
    if changed:
        return _row(root, run, "stale", about=why, next=anew, **common)
    about = "" if source else f"trained on shards {run.shards_fingerprint[:8]}, which are not here"
    is_evaluated = RunDirectory(run.path).evaluation_manifest_path.exists()
    return _row(root, run, "finished", about=about, next="" if is_evaluated else _evaluate(run, source), **common)


def _crossval_row(root: StoragePath, found: Output, source: Output | None) -> StatusRow:
    shards = source.path if source else "SHARDS"
    scored_on = found.options.get("scored_on")
    inputs: list[object] = ["--shards", shards]
    if isinstance(scored_on, str) and scored_on != found.options.get("shards"):
        inputs = ["--train-on", shards, "--test-on", _place_of(scored_on, found.path)]
    options = [*inputs, *_options(found.options.get("crossval"), CrossvalConfig)]
    again = _type("crossval", "--out", found.path, *options)
    folds = [RunDirectory(path).evaluation_manifest_path for path in folders_in(found.path / "folds")]
    common: dict[str, Any] = {
        "made_from": _relative(root, source.path) if source else "",
        "counts": {"folds": sum(path.exists() for path in folds)},
    }
    if found.problem:
        return _row(root, found, "damaged", about=f"{found.problem}; remove it and go on", next=again, **common)
    if source is not None and source.fingerprint != found.shards_fingerprint and found.shards_fingerprint:
        anew = _type("crossval", "--out", "NEW_CROSSVAL", *options)
        return _row(root, found, "stale", about="stale: the shards changed since", next=anew, **common)
    if found.manifest is None:
        return _row(root, found, "unfinished", about="unfinished", next=again, **common)
    about = "" if source else f"on shards {found.shards_fingerprint[:8]}, which are not here"
    return _row(root, found, "finished", about=about, **common)


def _evaluate(run: Output, source: Output | None) -> str:
    return _type("evaluate", run.path, "--shards", source.path if source else "SHARDS")


def _row(root: StoragePath, output: Output, state: str, **fields: Any) -> StatusRow:
    finished = None
    if output.manifest:
        written = (output.path / "manifest.json").modified_time()
        # Not every storage knows.
        finished = datetime.fromtimestamp(written, UTC).replace(microsecond=0) if written else None
    known = {"kind": output.kind, "path": _relative(root, output.path), "fingerprint": output.fingerprint}
    return StatusRow.model_validate(known | {"state": state, "finished": finished} | fields)


def _options(given: object, config: type[Frozen]) -> list[str]:
    """What was asked for of a stage, but for what is so without asking."""
    fields = config.model_fields
    known = {name: value for name, value in given.items() if name in fields} if isinstance(given, dict) else {}
    plain = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
    asked = {name: value for name, value in plain.items() if value != fields[name].default and value is not None}
    return [part for name, value in asked.items() for part in _flag(name, value)]


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return [flag] * value if isinstance(value, bool) else [flag, shown]


def _type(*words: object) -> str:
    """A command line that a shell takes as it is; signs that a terminal would act on are left out."""
    plain = ("".join(sign for sign in str(word) if sign.isprintable()) for word in words)
    return shlex.join(["smile-pipe", *plain])


def _sizes(folder: StoragePath) -> dict[str, int]:
    """Sizes of the files in a folder, by name."""
    try:
        return folder.file_sizes()
    except OSError:
        return {}


def _relative(root: StoragePath, path: StoragePath) -> str:
    return path.relative_to(root)
