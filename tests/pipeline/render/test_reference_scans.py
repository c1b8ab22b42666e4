"""What captions are measured relative to: the labelled neutral scan, an estimated one, or the population."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.render import reading
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.reference_scans import add_least_active_scans
from smile_pipe.shards.errors import StorageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(autouse=True)
def in_process(monkeypatch) -> None:
    """Render in this process."""
    monkeypatch.setattr(render, "_in_process", lambda config: True)


def config(data: Path, out: Path, **options: object) -> RenderConfig:
    given = {"data_dir": data, "out": out, "size": 32, "rig": "3", "channels": ("normal",), "text": "geometry"}
    return RenderConfig.model_validate(given | options)


def captions(shards: Path) -> dict[str, tuple[str, str]]:
    """Text and reference of each sample."""
    shard_set = ShardSet.open(str(shards))
    samples = [shard_set.read(row) for row in shard_set.rows]
    return {sample.record.key: (sample.text, sample.record.caption.reference) for sample in samples}


def samples_and_references(data: Path, relabel: bool = False, in_process: bool = True) -> dict[str, str]:
    """The mesh that each sample refers to with `estimate`."""
    samples = find_samples(StoragePath(data), "auto", neutrals=False).samples
    if relabel:
        samples = [relabelled(sample) for sample in samples]
    settings, limits = config(data, data / "out").resolve(), config(data, data / "out").limits
    chosen = add_least_active_scans(samples, samples, StoragePath(data), settings, limits, in_process)
    return {sample.key: "" if sample.neutral is None else sample.neutral.mesh for sample in chosen}


def relabelled(sample):
    codes = list(EXPRESSIONS)
    return replace(sample, expression=codes[(codes.index(sample.expression) + sum(map(ord, sample.key))) % 7])


def test_the_choice_decides_the_captions_and_renders_no_image_again(faces_dir, tmp_path):
    out, texts, fingerprints = tmp_path / "shards", {}, {}
    for choice in ("label", "estimate", "none"):
        plans = []
        manifest = render.run(config(faces_dir, out, neutral=choice), on_plan=plans.append)
        assert (plans[0].num_to_render > 0) == (choice == "label")
        assert manifest.settings.get("neutral", "label") == choice
        fingerprints[choice] = manifest.fingerprint
        texts[choice] = captions(out)
    # Fingerprints are of contents, and the estimates may be the neutral scans.
    assert (fingerprints["label"] == fingerprints["estimate"]) == (texts["label"] == texts["estimate"])
    assert fingerprints["none"] != fingerprints["label"]
    references = {choice: [reference for _, reference in found.values()] for choice, found in texts.items()}
    assert references["label"].count("population") == references["estimate"].count("population") == 5
    assert set(references["none"]) == {"population"}
    assert texts["none"] != texts["label"]
    first = render.run(config(faces_dir, tmp_path / "first", neutral="estimate"))
    again = render.run(config(faces_dir, out, neutral="estimate"))
    assert first == again and captions(out) == captions(tmp_path / "first") == texts["estimate"]


def test_no_label_of_an_expression_is_read_for_the_estimate(faces_dir, tmp_path, monkeypatch):
    true = samples_and_references(faces_dir)
    assert samples_and_references(faces_dir, relabel=True) == true
    render.run(config(faces_dir, tmp_path / "true", neutral="estimate"))

    def exchanged(*arguments):
        found = find_samples(*arguments)
        return replace(found, samples=[relabelled(sample) for sample in found.samples])

    monkeypatch.setattr(render, "find_samples", exchanged)
    render.run(config(faces_dir, tmp_path / "exchanged", neutral="estimate"))
    assert captions(tmp_path / "true") == captions(tmp_path / "exchanged")


def test_most_estimates_are_neutral_scans(faces_dir):
    references = samples_and_references(faces_dir)
    own = {key for key, mesh in references.items() if not mesh}
    assert len(own) == 5 and len({key[:5] for key in own}) == 5
    assert sum("_NE" in key for key in own) >= 4
    for key, mesh in references.items():
        assert not mesh or (key[:5] in mesh and any(other in mesh for other in own))


@pytest.mark.parametrize("in_process", [True, False])
def test_progress_is_reported_in_tenths(faces_dir, tmp_path, monkeypatch, in_process):
    monkeypatch.setattr(render, "_in_process", lambda config: in_process)
    lines: list[str] = []
    render.plan(config(faces_dir, tmp_path / "shards", neutral="estimate"), lines.append)
    total = len(samples_and_references(faces_dir))
    assert lines[0] == f"measuring scans for `neutral=estimate`: 1 of {total}"
    assert lines[-1] == f"measuring scans for `neutral=estimate`: {total} of {total}"
    assert len(lines) == len(set(lines)) == 11
    quiet: list[str] = []
    render.plan(config(faces_dir, tmp_path / "shards"), quiet.append)
    assert quiet == []


def test_processes_with_limits_choose_the_same(faces_dir):
    assert samples_and_references(faces_dir, in_process=False) == samples_and_references(faces_dir)


def test_unreadable_scans_and_small_subjects_are_left_out(faces_dir, tmp_path):
    shutil.copytree(faces_dir, tmp_path / "faces")
    true = samples_and_references(tmp_path / "faces")
    meshes = sorted(path for path in (tmp_path / "faces").rglob("*") if path.suffix in (".wrl", ".ply", ".obj"))
    first, second = sorted({path.name[:5] for path in meshes})[:2]
    broken = next(path for path in meshes if path.name.startswith(f"{first}_SU"))
    broken.write_bytes(b"not a mesh")
    # Four scans are too few for an estimate.
    for path in [path for path in meshes if path.name.startswith(second)][4:]:
        path.unlink()
    found = samples_and_references(tmp_path / "faces")
    assert all(mesh == "" for key, mesh in found.items() if key.startswith(second))
    assert any(found[key] for key in found if key.startswith(first))
    others = [key for key in found if not key.startswith((first, second))]
    assert [found[key] for key in others] == [true[key] for key in others]


@pytest.mark.parametrize("error", [ValueError, StorageError])
def test_an_unexpected_error_of_a_scan_leaves_it_out_and_one_of_the_storage_ends_the_job(faces_dir, monkeypatch, error):
    def fail_for_surprise(reader, scan, settings):
        if "_SU" in scan.mesh:
            raise error("unexpected")
        return measure(reader, scan, settings)

    measure = reading.measure_aligned
    monkeypatch.setattr(reading, "measure_aligned", fail_for_surprise)
    if error is StorageError:
        with pytest.raises(StorageError):
            samples_and_references(faces_dir)
    else:
        found = samples_and_references(faces_dir)
        assert any(found.values()) and not any("_SU" in mesh for mesh in found.values())


@pytest.mark.parametrize("options", [{"text": "label"}, {"channels": ("flow",)}])
def test_the_choice_is_refused_where_it_has_no_effect(tmp_path, options):
    with pytest.raises(ValidationError, match="is for `text=geometry`, without the channel flow"):
        config(tmp_path, tmp_path / "out", neutral="none", **options)
