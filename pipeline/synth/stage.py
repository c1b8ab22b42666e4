"""The synth stage: generate labelled face scans without a download, in the layout of BU-3DFE or BU-4DFE.

Each subject has a neutral scan and the six basic expressions at each level, or one sequence of each expression. A scan
is a `.wrl` file, a texture and landmarks. `synth.json` is written last. Equal settings give equal bytes, and a subject
does not depend on the number of subjects. Labels are mixes of action units by construction, not human ratings; sex
letter and ancestry code are nominal.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import chain
from typing import Any, Literal

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.face_model.actor import Subject
from smile_pipe.pipeline.face_model.ict import IctFace
from smile_pipe.pipeline.face_model.interface import FaceModel
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.synth.config import Kind, SynthConfig
from smile_pipe.pipeline.synth.files import write_scan
from smile_pipe.pipeline.synth.layouts import SEQUENCE_FOLDERS, Layout, ScanLayout, SequenceLayout
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import Frozen, Manifest, fingerprint
from smile_pipe.shards.storage import StoragePath

# Data set whose file names each kind follows, and the largest number of subjects in them (four and three digits).
_NAMING: Mapping[Kind, tuple[str, int]] = {"scans": ("BU-3DFE", 9999), "sequences": ("BU-4DFE", 999)}


class SequenceEntry(Frozen):
    """Timing of the expression of one sequence; frame numbers as in `actor.Timing`."""

    name: str
    expression: str
    onset: int
    apex: int
    offset: int
    end: int


class SynthManifest(Manifest):
    """Result of the stage, `synth.json`; `levels` is empty for sequences, and `frames` is 0 for scans."""

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
    """Write the data set.

    Args:
        config: Options of the stage.
        on_progress: Called after each scan with the number of written scans and of all scans.

    Returns:
        The manifest, as written to `synth.json`.

    Raises:
        UsageError: There are no subjects or levels, or more subjects than the layout can name; an option of the other
            kind is set; `face_model` is not a face model; or `out` cannot be written or contains other files.
    """
    _check(config)
    model: FaceModel = ParametricFace() if config.face_model is None else IctFace(config.face_model)
    subjects = [Subject.create(model, config.seed, number) for number in range(1, config.subjects + 1)]
    layout = _build_layout(config)
    paths = [layout.paths(config.out, subject, len(model.landmarks)) for subject in subjects]
    manifest_path = config.out / "synth.json"
    _prepare_output(config.out, chain.from_iterable(scan.all for scan in chain(*paths)))
    manifest_path.unlink(missing_ok=True)
    done, total = 0, sum(map(len, paths))
    for subject, subject_paths in zip(subjects, paths, strict=True):
        texture = layout.encode_texture(model.texture(subject.identity, config.texture_size))
        for scan_paths, mesh in zip(subject_paths, layout.meshes(model, subject), strict=True):
            write_scan(scan_paths, mesh, texture, model.landmarks)
            done += 1
            if on_progress:
                on_progress(done, total)
    manifest = _build_manifest(config, model, subjects, layout, total)
    manifest.write(manifest_path)
    return manifest


def _check(config: SynthConfig) -> None:
    if config.subjects < 1 or not config.levels:
        raise UsageError(f"subjects {config.subjects}, levels {list(config.levels)}: at least one of each is needed")
    dataset, max_subjects = _NAMING[config.kind]
    if config.subjects > max_subjects:
        raise UsageError(
            f"the file names of {dataset} allow {max_subjects} subjects", field="subjects", value=config.subjects
        )
    other = "levels" if config.kind == "sequences" else "frames"
    if getattr(config, other) != SynthConfig.model_fields[other].default:
        raise UsageError(f"`{other}` has no effect with `kind={config.kind}`; omit it")


def _build_layout(config: SynthConfig) -> Layout:
    if config.kind == "sequences":
        return SequenceLayout(config.seed, config.frames)
    return ScanLayout(config.seed, tuple(sorted(set(config.levels))))


def _prepare_output(out: StoragePath, expected: Iterable[StoragePath]) -> None:
    """Create the folder; raise UsageError if it contains files that this run does not write."""
    try:
        out.ensure_folder()
        unexpected = out.names_below() - {str(path.relative_to(out)) for path in expected} - {"synth.json"}
    except OSError as error:
        raise UsageError(f"cannot be a folder ({error.strerror or error})", field="out", value=out) from None
    if not out.is_writable():
        raise UsageError("not writable", field="out", value=out)
    if unexpected:
        raise UsageError(
            f"contains {min(unexpected)}, which is not of this run; use a new folder", field="out", value=out
        )


def _build_manifest(
    config: SynthConfig, model: FaceModel, subjects: list[Subject], layout: Layout, num_scans: int
) -> SynthManifest:
    fields: dict[str, Any]
    if isinstance(layout, SequenceLayout):
        unused = {"levels"}
        entries = [
            SequenceEntry(
                name=layout.sequence_name(subject, code), expression=code, **asdict(layout.timing(subject, code))
            )
            for subject in subjects
            for code in SEQUENCE_FOLDERS
        ]
        fields = {"layout": "bu4dfe", "expressions": tuple(SEQUENCE_FOLDERS)}
        fields |= {"frames": layout.num_frames, "sequences": entries}
    else:
        unused = {"kind", "frames"}
        fields = {"layout": "bu3dfe", "expressions": tuple(EXPRESSIONS), "levels": layout.levels}
    # Options without an effect on this kind are not part of the fingerprint.
    settings = config.model_dump(mode="json", exclude={"out", "face_model"} | unused)
    return SynthManifest(
        fingerprint=fingerprint(settings, model.name),
        kind=config.kind,
        face_model=model.name,
        seed=config.seed,
        texture_size=config.texture_size,
        num_subjects=config.subjects,
        num_scans=num_scans,
        **fields,
    )
