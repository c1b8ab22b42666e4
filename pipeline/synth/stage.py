"""The synth stage: labelled face scans without a download, laid out on disk as BU-3DFE or BU-4DFE lay out their own.

Goes in: a number of subjects, a seed, and which face model. Comes out: for each subject one neutral scan and the six
basic expressions at each level, or a sequence of each expression (`.wrl`, texture, landmarks); and `synth.json`,
written last. Promised: equal settings give equal bytes, and a subject does not depend on how many others there are.
The labels are mixes of action units by construction, not human ratings; sex letter and ancestry code are nominal.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.common.option_types import CommaSeparated
from smile_pipe.pipeline.face_model.actor import MIN_FRAMES, Subject
from smile_pipe.pipeline.face_model.ict import IctFace
from smile_pipe.pipeline.face_model.interface import FaceModel
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.synth import scans
from smile_pipe.pipeline.synth import sequences as synth_sequences
from smile_pipe.pipeline.synth.files import write_scan
from smile_pipe.pipeline.synth.scans import Scans
from smile_pipe.pipeline.synth.sequences import FOLDERS, MAX_FRAMES, Sequences
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen, Manifest, fingerprint
from smile_pipe.shards.storage import StoragePath

Kind = Literal["scans", "sequences"]
Level = Annotated[int, Field(ge=1, le=4)]
Program = Scans | Sequences
# Whose names a kind has, and for how many subjects they have room.
_NAMES: Mapping[Kind, tuple[str, int]] = {
    "scans": ("BU-3DFE", scans.MAX_SUBJECTS),
    "sequences": ("BU-4DFE", synth_sequences.MAX_SUBJECTS),
}


class SynthConfig(Frozen):
    """What to make."""

    out: StoragePath = Field(description="Folder or URL to write; new, empty, or an earlier run of the same settings")
    kind: Kind = Field("scans", description="Static scans (as BU-3DFE has), or sequences (as BU-4DFE has).")
    subjects: int = Field(8, description="Number of subjects.")
    seed: int = Field(0, ge=0, description="Another seed gives other subjects.")
    face_model: Path | None = Field(
        None, description="ICT-FaceKit, packed (.npz) or checked out; without it the built-in parametric face is used."
    )
    levels: Annotated[tuple[Level, ...], CommaSeparated] = Field(
        (1, 2, 3, 4), description="Levels of intensity of each expression, from 1 to 4; of scans only."
    )
    frames: int = Field(30, ge=MIN_FRAMES, le=MAX_FRAMES, description="Frames of each sequence; of sequences only.")
    texture_size: int = Field(512, ge=64, le=4096, description="Height and width of the textures in pixels.")


class SequenceEntry(Frozen):
    """When the expression of one sequence comes and goes; frames are those of `actor.Timing`."""

    name: str
    expression: str
    onset: int
    apex: int
    offset: int
    end: int


class SynthManifest(Manifest):
    """What a synth run made; `levels` is empty for sequences, and `frames` 0 for scans."""

    schema_version: Literal[1] = 1
    stage: Literal["synth"] = "synth"
    layout: Literal["bu3dfe", "bu4dfe"] = "bu3dfe"
    kind: Kind = "scans"
    face_model: str
    seed: int
    levels: tuple[int, ...] = ()
    frames: int = 0
    texture_size: int
    expressions: tuple[str, ...]
    num_subjects: int
    num_scans: int
    sequences: tuple[SequenceEntry, ...] = ()


def run(config: SynthConfig, on_progress: Callable[[int, int], None] | None = None) -> SynthManifest:
    """Write the data set; `on_progress(done, total)` is called after each scan.

    Raises:
        UsageError: nothing is asked for, or more subjects than the layout can name, or an option of the other kind;
            `face_model` is not a face model; or `out` cannot be written or holds files of something else.
    """
    _check(config)
    model: FaceModel = ParametricFace() if config.face_model is None else IctFace(config.face_model)
    subjects = [Subject.cast(model, config.seed, number) for number in range(1, config.subjects + 1)]
    program = _program(config)
    paths = [program.paths(config.out, subject, len(model.landmarks)) for subject in subjects]
    manifest_path = config.out / "synth.json"
    _prepare(config.out, chain.from_iterable(scan.all for scan in chain(*paths)))
    manifest_path.unlink(missing_ok=True)
    done, total = 0, sum(map(len, paths))
    for subject, theirs in zip(subjects, paths, strict=True):
        texture = program.encode(model.texture(subject.identity, config.texture_size))
        for files, mesh in zip(theirs, program.meshes(model, subject), strict=True):
            write_scan(files, mesh, texture, model.landmarks)
            done += 1
            if on_progress:
                on_progress(done, total)
    manifest = _manifest(config, model, subjects, program, total)
    manifest.write(manifest_path)
    return manifest


def _check(config: SynthConfig) -> None:
    if config.subjects < 1 or not config.levels:
        raise UsageError(f"subjects {config.subjects}, levels {list(config.levels)}: at least one of each is needed")
    whose, room = _NAMES[config.kind]
    if config.subjects > room:
        raise UsageError(f"{whose}'s names have room for {room}", field="subjects", value=config.subjects)
    other = "levels" if config.kind == "sequences" else "frames"
    if getattr(config, other) != SynthConfig.model_fields[other].default:
        raise UsageError(f"`{other}` has no meaning for `kind={config.kind}`; leave it out")


def _program(config: SynthConfig) -> Program:
    if config.kind == "sequences":
        return Sequences(config.seed, config.frames)
    return Scans(config.seed, tuple(sorted(set(config.levels))))


def _prepare(out: StoragePath, expected: Iterable[StoragePath]) -> None:
    """Make the folder, and refuse one in which files that this run would not write pose as its own."""
    try:
        strangers = _names(out) - {path.relative_to(out) for path in expected} - {"synth.json"}
    except OSError as error:
        raise UsageError(f"cannot be a folder ({error.strerror or error})", field="out", value=out) from None
    if not out.is_writable():
        raise UsageError("is not writable", field="out", value=out)
    if strangers:
        raise UsageError(f"holds {min(strangers)}, which is not of this run; name a new folder", field="out", value=out)


def _names(out: StoragePath) -> set[str]:
    """The files in a folder, which is made if need be, and in those below it."""
    out.ensure_folder()
    return out.names_below()


def _manifest(
    config: SynthConfig, model: FaceModel, subjects: list[Subject], program: Program, num_scans: int
) -> SynthManifest:
    about: dict[str, Any]
    if isinstance(program, Sequences):
        foreign = {"levels"}
        entries = [_entry(program, subject, code) for subject in subjects for code in FOLDERS]
        about = {"layout": "bu4dfe", "expressions": tuple(FOLDERS), "frames": program.num_frames, "sequences": entries}
    else:
        foreign = {"kind", "frames"}
        about = {"layout": "bu3dfe", "expressions": tuple(EXPRESSIONS), "levels": program.levels}
    # What has no meaning for a kind is no part of its fingerprint.
    settings = config.model_dump(mode="json", exclude={"out", "face_model"} | foreign)
    return SynthManifest(
        fingerprint=fingerprint(settings, model.name),
        kind=config.kind,
        face_model=model.name,
        seed=config.seed,
        texture_size=config.texture_size,
        num_subjects=config.subjects,
        num_scans=num_scans,
        **about,
    )


def _entry(program: Sequences, subject: Subject, code: str) -> SequenceEntry:
    return SequenceEntry(name=program.name(subject, code), expression=code, **asdict(program.timing(subject, code)))
