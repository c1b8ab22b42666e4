"""The synth stage: labelled face scans without a download, laid out on disk as BU-3DFE lays out its own.

Goes in: a number of subjects, a seed, and which face model. Comes out: for each subject a folder with one neutral scan
and the six basic expressions at each level (`.wrl`, texture `.png`, landmarks), and `synth.json`, written last.
Promised: equal settings give equal bytes, and a subject does not depend on how many others there are. The labels are
mixes of action units by construction, not human ratings; sex letter and ancestry code are nominal.
"""

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from pipeline.expressions import EXPRESSIONS
from pipeline.faces.acting import Manner, act
from pipeline.faces.capture import scan
from pipeline.faces.ict import IctFace
from pipeline.faces.model import FaceModel, Identity
from pipeline.faces.parametric import ParametricFace
from pipeline.meshes.landmarks import write_bnd
from pipeline.meshes.wrl import write_wrl
from pipeline.options import CommaSeparated
from shards.errors import UsageError
from shards.manifest import Frozen, Manifest, fingerprint

ANCESTRY = "WH"
Level = Annotated[int, Field(ge=1, le=4)]


class SynthConfig(Frozen):
    """What to make."""

    out: Path = Field(description="Folder to write; new, empty, or an earlier run of the same settings.")
    subjects: int = Field(8, description="Number of subjects.")
    seed: int = Field(0, ge=0, description="Another seed gives other subjects.")
    face_model: Path | None = Field(
        None, description="ICT-FaceKit, packed (.npz) or checked out; without it the built-in parametric face is used."
    )
    levels: Annotated[tuple[Level, ...], CommaSeparated] = Field(
        (1, 2, 3, 4), description="Levels of intensity of each expression, from 1 to 4."
    )
    texture_size: int = Field(512, ge=64, le=4096, description="Height and width of the textures in pixels.")


class SynthManifest(Manifest):
    """What a synth run made."""

    stage: Literal["synth"] = "synth"
    layout: Literal["bu3dfe"] = "bu3dfe"
    face_model: str
    seed: int
    levels: tuple[int, ...]
    texture_size: int
    expressions: tuple[str, ...]
    num_subjects: int
    num_scans: int


@dataclass(frozen=True)
class _Subject:
    number: int
    name: str
    identity: Identity
    manner: Manner


def run(config: SynthConfig, on_progress: Callable[[int, int], None] | None = None) -> SynthManifest:
    """Write the data set; `on_progress(done, total)` is called after each scan.

    Raises:
        UsageError: no subjects or levels are asked for, `face_model` is not a face model, or `out` cannot be written
            or holds files of something else.
    """
    if config.subjects < 1 or not config.levels:
        raise UsageError(f"subjects {config.subjects}, levels {list(config.levels)}: at least one of each is needed")
    model: FaceModel = ParametricFace() if config.face_model is None else IctFace(config.face_model)
    subjects = [_subject(model, config.seed, number) for number in range(1, config.subjects + 1)]
    takes = [("NE", 0), *product((code for code in EXPRESSIONS if code != "NE"), sorted(set(config.levels)))]
    manifest_path = config.out / "synth.json"
    _prepare(config.out, {path for s, take in product(subjects, takes) for path in _paths(config.out, model, s, *take)})
    manifest_path.unlink(missing_ok=True)
    num_scans = len(subjects) * len(takes)
    for i, subject in enumerate(subjects):
        (config.out / subject.name).mkdir(exist_ok=True)
        png = _png(model.texture(subject.identity, config.texture_size))
        for j, (code, level) in enumerate(takes, start=1):
            _write_scan(config, model, subject, png, code, level)
            if on_progress:
                on_progress(i * len(takes) + j, num_scans)
    manifest = _manifest(config, model, num_scans)
    manifest.write(manifest_path)
    return manifest


def _subject(model: FaceModel, seed: int, number: int) -> _Subject:
    rng = np.random.default_rng([seed, number])
    identity = model.identity(rng)
    # Nominal, but a beard on an F would puzzle whoever looks at the scans.
    name = f"{'M' if identity.look.stubble else 'F'}{number:04d}"
    return _Subject(number, name, identity, Manner.sample(rng))


def _paths(out: Path, model: FaceModel, subject: _Subject, code: str, level: int) -> tuple[Path, Path, Path]:
    """Mesh, texture and landmarks of one scan."""
    stem = f"{subject.name}_{code}{level:02d}{ANCESTRY}"
    landmarks = f"{stem}_F3D.bnd" if len(model.landmarks) == 83 else f"{stem}_F3D_lmk68.txt"
    folder = out / subject.name
    return folder / f"{stem}_F3D.wrl", folder / f"{stem}_F2D.png", folder / landmarks


def _write_scan(config: SynthConfig, model: FaceModel, subject: _Subject, png: bytes, code: str, level: int) -> None:
    mesh_path, texture_path, landmark_path = _paths(config.out, model, subject, code, level)
    rng = np.random.default_rng([config.seed, subject.number, list(EXPRESSIONS).index(code), level])
    mesh = scan(model.mesh(subject.identity, act(code, level, subject.manner, rng)), rng)
    write_wrl(mesh_path, mesh, texture_path.name)
    texture_path.write_bytes(png)
    points = mesh.vertices[model.landmarks]
    if landmark_path.suffix == ".bnd":
        write_bnd(landmark_path, model.landmarks, points)
    else:
        rows = "".join(f"{x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in points.tolist())
        landmark_path.write_text(rows, encoding="ascii", newline="\n")


def _png(texture: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(texture).save(buffer, "png")
    return buffer.getvalue()


def _prepare(out: Path, expected: set[Path]) -> None:
    """Make the folder, and refuse one in which files that this run would not write pose as its own."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        strangers = {path for path in out.rglob("*") if not path.is_dir()} - expected - {out / "synth.json"}
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be a folder ({error.strerror})") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise UsageError(f"--out {out}: is not writable")
    if strangers:
        raise UsageError(
            f"--out {out}: holds {min(strangers).relative_to(out)}, which is not of this run; name a new folder"
        )


def _manifest(config: SynthConfig, model: FaceModel, num_scans: int) -> SynthManifest:
    settings = config.model_dump(mode="json", exclude={"out", "face_model"})
    return SynthManifest(
        fingerprint=fingerprint(settings, model.name),
        face_model=model.name,
        seed=config.seed,
        levels=tuple(sorted(set(config.levels))),
        texture_size=config.texture_size,
        expressions=tuple(EXPRESSIONS),
        num_subjects=config.subjects,
        num_scans=num_scans,
    )
