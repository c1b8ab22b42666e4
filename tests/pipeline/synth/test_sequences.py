"""The synth stage with sequences: written files, and their agreement with `synth.json`."""

import os
import re
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.paths import REPOSITORY
from helpers.trees import contents
from smile_pipe.cli.main import app
from smile_pipe.pipeline.face_model.actor import Subject
from smile_pipe.pipeline.face_model.parametric import ParametricFace
from smile_pipe.pipeline.landmarks.landmark_fit import fit_similarity
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.layouts import SequenceLayout
from smile_pipe.pipeline.synth.stage import SynthManifest, run
from smile_pipe.shards.errors import UsageError

FOLDERS = {"Angry": "AN", "Disgust": "DI", "Fear": "FE", "Happy": "HA", "Sad": "SA", "Surprise": "SU"}
FRAMES = 9


def _config(out: Path, **changes) -> SynthConfig:
    settings = {"out": out, "kind": "sequences", "subjects": 2, "frames": FRAMES, "texture_size": 64}
    return SynthConfig(**settings | changes)


def _fields(wrl: Path) -> dict[str, np.ndarray]:
    """The bracketed numbers of a scan by field name."""
    found = re.findall(r"(Coordinate|TextureCoordinate|coordIndex|texCoordIndex)[^\[]*\[([^\]]*)\]", wrl.read_text())
    return {name: np.array(body.replace(",", " ").split(), float) for name, body in found}


def _points(wrl: Path) -> np.ndarray:
    body = wrl.read_text().partition("Coordinate {")[2].partition("[")[2].partition("]")[0]
    return np.fromstring(body.replace(",", " "), sep=" ").reshape(-1, 3)


def _motion(points: np.ndarray, neutral: np.ndarray) -> float:
    """Mean displacement of a face from neutral, in millimetres, without head motion."""
    scale, R, T = fit_similarity(points, neutral)
    return float(np.linalg.norm(scale * points @ R + T - neutral, axis=1).mean())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "faces"
    ticks: list[tuple[int, int]] = []
    manifest = run(_config(out), lambda done, total: ticks.append((done, total)))
    return out, manifest, ticks


@pytest.fixture
def no_writing(monkeypatch):
    """Fail the test at the first scan, before the disk is full of them."""
    monkeypatch.setattr("smile_pipe.pipeline.synth.stage.write_scan", lambda *_: pytest.fail("wrote a scan"))


def test_files_are_exactly_the_bu4dfe_layout_and_a_manifest(dataset):
    out, manifest, ticks = dataset
    subjects = sorted(path.name for path in out.iterdir() if re.fullmatch("[FM][0-9]{3}", path.name))
    assert sorted(name[1:] for name in subjects) == ["001", "002"]
    stems = [f"{name}/{folder}/{frame:03d}" for name in subjects for folder in FOLDERS for frame in range(FRAMES)]
    scans = {f"{stem}{end}" for stem in stems for end in (".wrl", ".jpg")}
    assert set(contents(out)) == scans | {f"BU4DFE_BND_V1.1/{stem}.bnd" for stem in stems} | {"synth.json"}
    assert SynthManifest.read(out / "synth.json") == manifest
    assert (manifest.layout, manifest.kind, manifest.frames, manifest.levels) == ("bu4dfe", "sequences", FRAMES, ())
    assert manifest.num_scans == len(stems) == 108 and manifest.expressions == tuple(FOLDERS.values())
    names = [(f"{name}/{folder}", code) for name in subjects for folder, code in FOLDERS.items()]
    assert sorted((entry.name, entry.expression) for entry in manifest.sequences) == sorted(names)
    assert ticks == [(done, 108) for done in range(1, 109)]


def test_frames_of_a_sequence_are_in_correspondence(dataset):
    out, _, _ = dataset
    frames = [_fields(path) for path in sorted(out.glob("*001/Happy/*.wrl"))]
    for name in ("coordIndex", "texCoordIndex", "TextureCoordinate"):
        assert len(frames[0][name]) > 20_000 and all(np.array_equal(frames[0][name], f[name]) for f in frames)
    steps = [np.abs(b["Coordinate"] - a["Coordinate"]).max() for a, b in pairwise(frames)]
    assert len(frames) == FRAMES and min(steps) > 0 and max(steps) < 20


def test_motion_follows_the_timing_in_the_manifest(dataset):
    out, manifest, _ = dataset
    assert len({(e.onset, e.apex, e.offset, e.end) for e in manifest.sequences}) > 3
    for entry in manifest.sequences[:6]:
        points = [_points(path) for path in sorted((out / entry.name).glob("*.wrl"))]
        motion = np.array([_motion(frame, points[0]) for frame in points])
        is_neutral = np.r_[: entry.onset + 1, entry.end : FRAMES]
        assert motion[is_neutral].max() < 0.15, entry
        assert motion[entry.apex : entry.offset + 1].min() > 0.9 * motion.max() > 0.5, entry
        assert (np.diff(motion[entry.onset : entry.apex + 1]) > -0.05).all(), entry
        assert (np.diff(motion[entry.offset : entry.end + 1]) < 0.05).all(), entry


def test_head_moves_slightly_while_the_face_is_neutral(dataset):
    out, manifest, _ = dataset
    still = next(e for e in manifest.sequences if e.onset >= 1)
    first, second = (_points(out / still.name / f"{frame:03d}.wrl") for frame in (0, still.onset))
    assert np.linalg.norm((second - first).mean(axis=0)) > 0.02
    assert _motion(second, first) < 0.15


def test_frame_references_its_texture_and_landmarks_are_vertices(dataset):
    out, manifest, _ = dataset
    for entry in manifest.sequences[::5]:
        wrl = out / entry.name / f"{entry.apex:03d}.wrl"
        assert f'url "{wrl.stem}.jpg"' in wrl.read_text()
        with Image.open(wrl.with_suffix(".jpg")) as image:
            assert (image.format, image.size) == ("JPEG", (64, 64))
        rows = np.loadtxt(out / "BU4DFE_BND_V1.1" / entry.name / f"{wrl.stem}.bnd")
        assert rows.shape == (83, 4)
        np.testing.assert_allclose(_points(wrl)[rows[:, 0].astype(int)], rows[:, 1:], atol=2e-4)


def test_all_frames_of_a_subject_share_one_texture(dataset):
    digests = {name: digest for name, digest in contents(dataset[0]).items() if name.endswith(".jpg")}
    by_subject = [{digest for name, digest in digests.items() if name[1:4] == number} for number in ("001", "002")]
    assert [len(found) for found in by_subject] == [1, 1] and by_subject[0] != by_subject[1]


def test_equal_seeds_give_equal_bytes_and_other_seeds_or_lengths_do_not(tmp_path):
    changes = {"once": {}, "again": {}, "other": {"seed": 1}, "longer": {"frames": 6}}
    runs = {name: run(_config(tmp_path / name, **{"subjects": 1, "frames": 5} | c)) for name, c in changes.items()}
    once, again, other, _ = (contents(tmp_path / name) for name in changes)
    assert once == again and len(set(once.values())) > 30
    meshes = {digest for name, digest in once.items() if name.endswith("wrl")}
    assert not meshes & set(other.values())
    assert len({manifest.fingerprint for manifest in runs.values()}) == 3


def test_subject_does_not_depend_on_number_of_subjects(dataset, tmp_path):
    run(_config(tmp_path, subjects=1))
    few, many = contents(tmp_path), contents(dataset[0])
    assert all(many[name] == digest for name, digest in few.items() if name != "synth.json")


def test_scans_and_sequences_of_a_seed_have_the_same_subjects(dataset, tmp_path):
    run(_config(tmp_path, kind="scans", frames=30, subjects=2, levels=(4,)))
    scans = sorted(tmp_path.glob("*/*_NE00WH_F3D.wrl"), key=lambda path: path.name[1:])
    sequences = sorted(dataset[0].glob("*/Sad/000.wrl"), key=lambda path: path.parts[-3][1:])
    for scan, first in zip(scans, sequences, strict=True):
        assert scan.name[0] == first.parts[-3][0]
        assert _motion(_points(first), _points(scan)) < 0.3
    assert _motion(_points(sequences[0]), _points(scans[1])) > 1


def test_apex_is_as_strong_as_the_strongest_scan(dataset, tmp_path):
    run(_config(tmp_path, kind="scans", frames=30, subjects=1, levels=(1, 4)))
    neutral, weak, strong = (_points(next(tmp_path.glob(f"*/*_{take}*.wrl"))) for take in ("NE00", "HA01", "HA04"))
    happy = next(entry for entry in dataset[1].sequences if entry.name.endswith("001/Happy"))
    apex = _motion(_points(dataset[0] / happy.name / f"{happy.apex:03d}.wrl"), neutral)
    assert apex == pytest.approx(_motion(strong, neutral), rel=0.15)
    assert apex > 1.5 * _motion(weak, neutral)


def test_performance_depends_on_seed_subject_and_expression():
    model = ParametricFace()
    subject_1 = Subject.create(model, 0, 1)
    cases = [
        (SequenceLayout(0, 99), subject_1),
        (SequenceLayout(1, 99), subject_1),
        (SequenceLayout(0, 99), replace(subject_1, number=2)),
    ]
    assert len({sequences.timing(subject, code) for sequences, subject in cases for code in FOLDERS.values()}) == 18
    first = [next(sequences.meshes(model, subject)).vertices for sequences, subject in cases]
    assert not any(np.allclose(a, b, atol=1) for a, b in combinations(first, 2))


def test_68_landmarks_are_written_next_to_the_mesh():
    subject_1 = replace(Subject.create(ParametricFace(), 0, 1), sex="F")
    paths = SequenceLayout(0, 5).paths(Path("out"), subject_1, num_landmarks=68)
    assert paths[17].landmarks == Path("out/F001/Happy/002_lmk68.txt")
    assert paths[17].mesh == Path("out/F001/Happy/002.wrl")


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"subjects": 1000}, "^subjects 1000: .*BU-4DFE allow 999"),
        ({"levels": (4,)}, "`levels` has no effect with `kind=sequences`"),
        ({"kind": "scans", "frames": 30, "subjects": 10_000}, "^subjects 10000: .*BU-3DFE allow 9999"),
        ({"kind": "scans"}, "`frames` has no effect with `kind=scans`"),
        ({"subjects": 0}, "at least one"),
    ],
)
def test_invalid_options_are_usage_errors_and_write_nothing(tmp_path, no_writing, changes, match):
    with pytest.raises(UsageError, match=match):
        run(_config(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_scans_are_rejected_in_a_folder_of_sequences(dataset):
    before = contents(dataset[0])
    with pytest.raises(UsageError, match="not of this run"):
        run(SynthConfig(out=dataset[0], subjects=2, texture_size=64))
    assert contents(dataset[0]) == before


@pytest.mark.parametrize("frames", ["4", "1001"])
def test_command_rejects_invalid_numbers_of_frames(tmp_path, no_writing, frames):
    result = CliRunner().invoke(app, ["synth", str(tmp_path), "--kind", "sequences", "--frames", frames])
    assert result.exit_code == 2 and "--frames" in result.output


def test_command_prints_a_summary(tmp_path):
    options = ["--kind", "sequences", "--subjects", "1", "--frames", "5", "--texture-size", "64"]
    result = CliRunner().invoke(app, ["synth", str(tmp_path), *options])
    assert result.exit_code == 0, result.output
    assert "6 sequences of 5 frames each, of 1 subject in" in " ".join(result.output.split())
    assert len(list(tmp_path.glob("?001/*/*.wrl"))) == 30


def test_landmarks_of_ict_faces_are_vertices(tmp_path):
    folder = os.environ.get("SMILE_PIPE_FACES") or REPOSITORY.parent / "shared" / "faces"
    path = Path(folder) / "ict_facekit.npz"
    if not path.is_file():
        pytest.skip(f"ICT-FaceKit is not at {path}; name its folder in SMILE_PIPE_FACES")
    manifest = run(_config(tmp_path, subjects=1, frames=5, face_model=path))
    assert manifest.face_model == "ict-facekit" and not (tmp_path / "BU4DFE_BND_V1.1").exists()
    rows = np.loadtxt(next(tmp_path.glob("*/Happy/002_lmk68.txt")))
    assert rows.shape == (68, 3)
    points = _points(next(tmp_path.glob("*/Happy/002.wrl")))
    assert max(np.abs(points - row).sum(axis=1).min() for row in rows) < 3e-4
