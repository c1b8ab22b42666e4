"""The synth stage with scans: written files, their consistency, and seeds."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.trees import contents
from smile_pipe.pipeline.face_model.actor import MIN_FRAMES
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import SynthManifest, run
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

SCANS = ["NE00", *(f"{code}{level:02d}" for code in ("AN", "DI", "FE", "HA", "SA", "SU") for level in (2, 4))]


def _config(out: Path | str, **changes) -> SynthConfig:
    return SynthConfig(**{"out": out, "subjects": 2, "levels": (2, 4), "texture_size": 64} | changes)


def _points(wrl: Path) -> np.ndarray:
    body = re.search(r"Coordinate \{\s*point \[([^\]]*)\]", wrl.read_text())
    return np.array(body[1].replace(",", " ").split(), float).reshape(-1, 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "faces"
    ticks: list[tuple[int, int]] = []
    manifest = run(_config(out), lambda done, total: ticks.append((done, total)))
    return out, manifest, ticks


def test_files_are_exactly_the_bu3dfe_layout_and_a_manifest(dataset):
    out, manifest, _ = dataset
    subjects = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert all(re.fullmatch("[FM][0-9]{4}", name) for name in subjects)
    assert sorted(name[1:] for name in subjects) == ["0001", "0002"]
    stems = [f"{name}/{name}_{scan}WH" for name in subjects for scan in SCANS]
    expected = {stem + end for stem in stems for end in ("_F3D.wrl", "_F3D.bnd", "_F2D.png")} | {"synth.json"}
    assert set(contents(out)) == expected
    assert manifest.num_subjects == 2 and manifest.num_scans == len(stems) == 26
    assert SynthManifest.read(out / "synth.json") == manifest
    assert manifest.face_model == "parametric" and manifest.levels == (2, 4)


def test_default_subject_has_25_scans(tmp_path):
    manifest = run(SynthConfig(out=tmp_path, subjects=1, texture_size=64))
    assert manifest.num_scans == 25 == len(list(tmp_path.glob("*/*.wrl")))


def test_progress_counts_every_scan_once(dataset):
    assert dataset[2] == [(done, 26) for done in range(1, 27)]


def test_scan_references_its_texture_and_landmarks_are_vertices(dataset):
    out, _, _ = dataset
    for wrl in sorted(out.glob("*/*_F3D.wrl"))[:4]:
        texture = wrl.name.replace("_F3D.wrl", "_F2D.png")
        assert f'url "{texture}"' in wrl.read_text()
        assert Image.open(wrl.parent / texture).size == (64, 64)
        rows = np.loadtxt(wrl.with_suffix(".bnd"))
        assert rows.shape == (83, 4)
        np.testing.assert_allclose(_points(wrl)[rows[:, 0].astype(int)], rows[:, 1:], atol=2e-4)


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(dataset, tmp_path):
    out, _, _ = dataset
    run(_config(tmp_path / "again"))
    assert contents(tmp_path / "again") == contents(out)
    run(_config(tmp_path / "other", seed=1, subjects=1))
    meshes = {digest for name, digest in contents(out).items() if name.endswith("wrl")}
    assert not meshes & set(contents(tmp_path / "other").values())


def test_subject_does_not_depend_on_number_of_subjects_or_other_levels(dataset, tmp_path):
    out, _, _ = dataset
    run(_config(tmp_path, subjects=1, levels=(4,)))
    few, many = contents(tmp_path), contents(out)
    assert all(many[name] == digest for name, digest in few.items() if name != "synth.json")


def test_interrupted_run_is_completed(dataset, tmp_path):
    out, manifest, _ = dataset
    run(_config(tmp_path))
    (tmp_path / "synth.json").unlink()
    next(tmp_path.glob("*/*HA04*.wrl")).write_text("half a fi")
    assert run(_config(tmp_path)) == manifest
    assert contents(tmp_path) == contents(out)


def test_manifest_is_absent_during_a_run(tmp_path):
    run(_config(tmp_path, subjects=1))
    manifest_exists = []
    run(_config(tmp_path, subjects=1), lambda *_: manifest_exists.append((tmp_path / "synth.json").exists()))
    assert manifest_exists and not any(manifest_exists)


def test_folder_of_another_run_is_rejected_unchanged(dataset, tmp_path):
    run(_config(tmp_path))
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="not of this run"):
        run(_config(tmp_path, subjects=1))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("changes", [{"subjects": 0}, {"subjects": -1}, {"levels": ()}])
def test_empty_request_is_a_usage_error(tmp_path, changes):
    with pytest.raises(UsageError, match="at least one"):
        run(_config(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_output_path_of_a_file_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"^out "):
            run(_config(out))
    assert (tmp_path / "file").read_text() == "mine"


def test_read_only_output_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # permissions do not bind a root user
    with pytest.raises(UsageError, match="not writable"):
        run(_config(tmp_path))


def test_invalid_face_model_is_a_usage_error_and_writes_nothing(tmp_path):
    with pytest.raises(UsageError, match=r"^face_model "):
        run(_config(tmp_path / "out", face_model=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


class TestUrlOutput:
    @pytest.fixture(params=["s3", "memory"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        return f"{request.getfixturevalue('s3_url') if request.param == 's3' else f'memory://{tmp_path.name}'}/faces"

    def test_bytes_equal_local_files_also_when_repeated(self, url, tmp_path):
        run(_config(tmp_path / "faces", subjects=1, levels=(4,)))
        for _ in range(2):
            run(_config(url, subjects=1, levels=(4,)))
            assert contents(url) == contents(tmp_path / "faces")

    def test_sequence_bytes_equal_local_files(self, tmp_path):
        options = {"kind": "sequences", "subjects": 1, "frames": MIN_FRAMES, "texture_size": 64}
        run(SynthConfig(out=tmp_path / "faces", **options))
        run(SynthConfig(out=f"memory://{tmp_path.name}/faces", **options))
        assert contents(f"memory://{tmp_path.name}/faces") == contents(tmp_path / "faces")

    def test_folder_with_other_files_is_rejected(self, url):
        (StoragePath(url) / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"contains notes\.txt, which is not of this run"):
            run(SynthConfig(out=url, subjects=1, texture_size=64))
