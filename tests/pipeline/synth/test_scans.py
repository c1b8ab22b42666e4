"""The synth stage: exactly which files it writes, that they agree, and that a seed means something."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smile_pipe.pipeline.face_model.actor import MIN_FRAMES
from smile_pipe.pipeline.synth.stage import SynthConfig, SynthManifest, run
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath

TAKES = ["NE00", *(f"{code}{level:02d}" for code in ("AN", "DI", "FE", "HA", "SA", "SU") for level in (2, 4))]


def _config(out: Path | str, **changes) -> SynthConfig:
    return SynthConfig(**{"out": out, "subjects": 2, "levels": (2, 4), "texture_size": 64} | changes)


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _points(wrl: Path) -> np.ndarray:
    body = re.search(r"Coordinate \{\s*point \[([^\]]*)\]", wrl.read_text())
    return np.array(body[1].replace(",", " ").split(), float).reshape(-1, 3)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("synth") / "faces"
    ticks: list[tuple[int, int]] = []
    manifest = run(_config(out), lambda done, total: ticks.append((done, total)))
    return out, manifest, ticks


def test_it_writes_exactly_the_layout_of_bu3dfe_and_a_manifest(made):
    out, manifest, _ = made
    subjects = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert all(re.fullmatch("[FM][0-9]{4}", name) for name in subjects)
    assert sorted(name[1:] for name in subjects) == ["0001", "0002"]
    stems = [f"{name}/{name}_{take}WH" for name in subjects for take in TAKES]
    expected = {stem + end for stem in stems for end in ("_F3D.wrl", "_F3D.bnd", "_F2D.png")} | {"synth.json"}
    assert set(_digests(out)) == expected
    assert manifest.num_subjects == 2 and manifest.num_scans == len(stems) == 26
    assert SynthManifest.read(out / "synth.json") == manifest
    assert manifest.face_model == "parametric" and manifest.levels == (2, 4)


def test_by_default_a_subject_has_25_scans(tmp_path):
    manifest = run(SynthConfig(out=tmp_path, subjects=1, texture_size=64))
    assert manifest.num_scans == 25 == len(list(tmp_path.glob("*/*.wrl")))


def test_progress_counts_every_scan_once(made):
    assert made[2] == [(done, 26) for done in range(1, 27)]


def test_a_scan_names_its_own_texture_and_its_landmarks_are_its_vertices(made):
    out, _, _ = made
    for wrl in sorted(out.glob("*/*_F3D.wrl"))[:4]:
        texture = wrl.name.replace("_F3D.wrl", "_F2D.png")
        assert f'url "{texture}"' in wrl.read_text()
        assert Image.open(wrl.parent / texture).size == (64, 64)
        rows = np.loadtxt(wrl.with_suffix(".bnd"))
        assert rows.shape == (83, 4)
        np.testing.assert_allclose(_points(wrl)[rows[:, 0].astype(int)], rows[:, 1:], atol=2e-4)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(made, tmp_path):
    out, _, _ = made
    run(_config(tmp_path / "again"))
    assert _digests(tmp_path / "again") == _digests(out)
    run(_config(tmp_path / "other", seed=1, subjects=1))
    ours = {digest for name, digest in _digests(out).items() if name.endswith("wrl")}
    assert not ours & set(_digests(tmp_path / "other").values())


def test_a_subject_does_not_depend_on_how_many_are_asked_for_nor_on_other_levels(made, tmp_path):
    out, _, _ = made
    run(_config(tmp_path, subjects=1, levels=(4,)))
    few, many = _digests(tmp_path), _digests(out)
    assert all(many[name] == digest for name, digest in few.items() if name != "synth.json")


def test_running_again_over_an_interrupted_run_completes_it(made, tmp_path):
    out, manifest, _ = made
    run(_config(tmp_path))
    (tmp_path / "synth.json").unlink()
    next(tmp_path.glob("*/*HA04*.wrl")).write_text("half a fi")
    assert run(_config(tmp_path)) == manifest
    assert _digests(tmp_path) == _digests(out)


def test_no_manifest_says_complete_while_a_run_is_under_way(tmp_path):
    run(_config(tmp_path, subjects=1))
    seen = []
    run(_config(tmp_path, subjects=1), lambda *_: seen.append((tmp_path / "synth.json").exists()))
    assert seen and not any(seen)


def test_a_folder_with_scans_of_another_run_is_refused_untouched(made, tmp_path):
    run(_config(tmp_path))
    before = _digests(tmp_path)
    with pytest.raises(UsageError, match="not of this run"):
        run(_config(tmp_path, subjects=1))
    assert _digests(tmp_path) == before


@pytest.mark.parametrize("changes", [{"subjects": 0}, {"subjects": -1}, {"levels": ()}])
def test_nothing_to_make_is_a_usage_error(tmp_path, changes):
    with pytest.raises(UsageError, match="at least one"):
        run(_config(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="--out"):
            run(_config(out))
    assert (tmp_path / "file").read_text() == "mine"


def test_an_out_that_cannot_be_written_is_a_usage_error(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # permissions do not bind a root user
    with pytest.raises(UsageError, match="not writable"):
        run(_config(tmp_path))


def test_a_bad_face_model_is_a_usage_error_and_writes_nothing(tmp_path):
    with pytest.raises(UsageError, match="--face-model"):
        run(_config(tmp_path / "out", face_model=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


class TestUnderAUrl:
    @pytest.fixture(params=["s3", "memory"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        return f"{request.getfixturevalue('s3_url') if request.param == 's3' else f'memory://{tmp_path.name}'}/faces"

    def remote_digests(self, url: str) -> dict[str, str]:
        root = StoragePath(url)
        files = {path.removeprefix(root.path).strip("/"): path for path in root.fs.find(root.path)}
        return {name: hashlib.sha256(root.fs.cat_file(path)).hexdigest() for name, path in files.items()}

    def test_the_same_bytes_are_written_as_on_a_disk_and_again_over_themselves(self, url, tmp_path):
        run(_config(tmp_path / "faces", subjects=1, levels=(4,)))
        for _ in range(2):
            run(_config(url, subjects=1, levels=(4,)))
            assert self.remote_digests(url) == _digests(tmp_path / "faces")

    def test_so_are_sequences(self, tmp_path):
        options = {"kind": "sequences", "subjects": 1, "frames": MIN_FRAMES, "texture_size": 64}
        run(SynthConfig(out=tmp_path / "faces", **options))
        run(SynthConfig(out=f"memory://{tmp_path.name}/faces", **options))
        assert self.remote_digests(f"memory://{tmp_path.name}/faces") == _digests(tmp_path / "faces")

    def test_a_folder_with_other_files_is_refused(self, url):
        (StoragePath(url) / "notes.txt").write_text("mine")
        with pytest.raises(UsageError, match=r"holds notes\.txt, which is not of this run"):
            run(SynthConfig(out=url, subjects=1, texture_size=64))
