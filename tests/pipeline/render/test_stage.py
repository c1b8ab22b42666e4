"""The render stage on a real Ray: its output, and what a second run does."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.trees import contents
from smile_pipe.pipeline.captions.bank import load_bank
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.files import read_scan
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.stage import RenderProgress, plan, run
from smile_pipe.pipeline.render.units import max_frames_per_batch
from smile_pipe.pipeline.rendering.cameras import project
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.images import decode_image
from smile_pipe.shards.index import read_failures, read_index
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.verify import verify_shards


def render(data_dir: Path, out: Path, **options) -> ShardManifest:
    return run(RenderConfig(data_dir=data_dir, out=out, **{"size": 32, "samples_per_shard": 8, **options}))


@pytest.fixture
def some_faces(faces_dir: Path, tmp_path: Path) -> Path:
    """A copy of two subjects of the shared faces, which a test may change."""
    for subject in sorted(path for path in faces_dir.iterdir() if path.is_dir())[:2]:
        shutil.copytree(subject, tmp_path / "faces" / subject.name)
    return tmp_path / "faces"


def first_mesh(folder: Path) -> Path:
    return min(folder.rglob("*.wrl"))


def test_the_directory_has_exactly_the_documented_files(shards_dir):
    tars = {f"shards/{number:06d}.tar" for number in range(5)}
    assert contents(shards_dir).keys() == {"README.md", "manifest.json", "index.parquet", "failures.parquet", *tars}


def test_the_manifest_counts_samples_subjects_and_failures(shards_dir):
    manifest = ShardManifest.read(shards_dir / "manifest.json")
    assert (manifest.num_samples, manifest.num_subjects, manifest.num_failures) == (35, 5, 0)
    assert manifest.expressions == ("AN", "DI", "FE", "HA", "SA", "SU", "NE")
    assert manifest.text_source == "label" and all(len(manifest.prompts[e]) >= 12 for e in manifest.expressions)
    assert [entry.num_samples for entry in manifest.shards] == [8, 8, 8, 8, 3]
    for entry in manifest.shards:
        content = (shards_dir / "shards" / entry.name).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.bytes, entry.sha256)


def test_each_sample_has_its_labels_prompt_and_views(shards_dir, faces_dir):
    shards = ShardSet.open(str(shards_dir))
    sources = {source.key: source for source in find_samples(faces_dir, "auto").samples}
    assert {row.key for row in shards.rows} == sources.keys()
    for row in read_index(shards_dir / "index.parquet")[::5]:
        sample, source = shards.read(row), sources[row.key]
        record = sample.record
        assert (record.subject, record.expression, record.level) == (source.subject, source.expression, source.level)
        assert sample.text == load_bank(None).prompt_for(row.key, source.expression)
        assert record.frame.method == "landmarks" and record.mesh.surface == "texture"
        assert [source.path for source in row.sources] == list(source.frames[0].paths)
        assert len(sample.images) == 9
        rgb = decode_image("rgb", sample.images["front", "rgb"])
        depth = decode_image("depth", sample.images["front", "depth"])
        normal = decode_image("normal", sample.images["front", "normal"])
        assert rgb.shape == normal.shape == (48, 48, 3) and depth.shape == (48, 48)
        face = depth > 0
        assert 0.2 < face.mean() < 0.9 and (normal[~face] == 128).all()


def test_cameras_and_depth_of_the_record_locate_a_landmark(shards_dir, faces_dir):
    shards = ShardSet.open(str(shards_dir))
    source = find_samples(faces_dir, "auto").samples[0]
    record = shards.read(next(row for row in shards.rows if row.key == source.key)).record
    scan = read_scan(faces_dir / source.frames[0].mesh, faces_dir / source.frames[0].landmarks)
    landmarks = apply_frame(scan, record.frame).landmarks
    # From the front, the landmark that stands out most is hidden by nothing.
    nose = landmarks[landmarks[:, 2].argmax()][None]
    assert canonical_frame(scan) == record.frame
    sample = shards.read(next(row for row in shards.rows if row.key == source.key))
    u, v, z = project(record.cameras[0], nose)[0]
    value = int(decode_image("depth", sample.images["front", "depth"])[int(v), int(u)])
    assert value > 0
    # A pixel is a twentieth of a unit here, and the flanks of the nose are steep.
    assert record.depth.near + (value - 1) * record.depth.step == pytest.approx(z, abs=0.1)


def test_bytes_do_not_depend_on_parallelism(faces_dir, ray_cluster, tmp_path, monkeypatch):
    render(faces_dir, tmp_path / "a")
    monkeypatch.setattr("smile_pipe.pipeline.render.units.MAX_FRAMES_PER_BATCH", 3)
    monkeypatch.setattr("smile_pipe.pipeline.render.job.MAX_PENDING_WRITES", 1)
    render(faces_dir, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_settings_of_the_job_do_not_reach_other_datasets_and_tasks(shards_dir):
    import ray

    context = ray.data.DataContext.get_current()
    assert (context.execution_options.preserve_order, context.raise_original_map_exception) == (False, False)
    assert "RAY_TASK_MAX_RETRIES" not in os.environ


def test_a_second_run_does_nothing_and_does_not_start_ray(shards_dir, faces_dir, monkeypatch):
    before = contents(shards_dir)
    monkeypatch.setattr("smile_pipe.pipeline.render.stage.ray_session", lambda address: pytest.fail("started Ray"))
    config = RenderConfig(data_dir=faces_dir, out=shards_dir, size=48, samples_per_shard=8)
    assert run(config) == ShardManifest.read(shards_dir / "manifest.json")
    assert contents(shards_dir) == before


def test_an_unreadable_scan_is_a_failure_and_the_others_are_rendered(some_faces, ray_cluster, tmp_path):
    broken = first_mesh(some_faces)
    broken.write_text("#VRML V2.0 utf8\nShape { geometry IndexedFaceSet { coord Coordinate { point [ 1 2")
    manifest = render(some_faces, tmp_path / "out")
    assert (manifest.num_samples, manifest.num_failures) == (13, 1)
    (failure,) = read_failures(tmp_path / "out" / "failures.parquet")
    assert failure.key == broken.stem.removesuffix("_F3D") and failure.stage == "read"
    assert failure.source == broken.relative_to(some_faces).as_posix()
    assert str(tmp_path) not in failure.reason and broken.name in failure.reason
    assert failure.key not in {row.key for row in ShardSet.open(str(tmp_path / "out")).rows}


def test_a_repaired_scan_is_rendered_by_the_next_run(some_faces, ray_cluster, tmp_path):
    mesh = first_mesh(some_faces)
    whole = mesh.read_text()
    mesh.write_text("no mesh at all")
    assert render(some_faces, tmp_path / "out").num_failures == 1
    mesh.write_text(whole)
    assert render(some_faces, tmp_path / "out").num_failures == 0
    render(some_faces, tmp_path / "fresh")
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_a_changed_texture_rerenders_only_its_own_shard(some_faces, ray_cluster, tmp_path):
    render(some_faces, tmp_path / "out")
    before = contents(tmp_path / "out")
    texture = min(some_faces.rglob("*.png"))
    from PIL import Image

    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(texture)
    render(some_faces, tmp_path / "out")
    after = contents(tmp_path / "out")
    assert {name for name in before if before[name] != after[name]} == {
        "shards/000000.tar",
        "manifest.json",
        "index.parquet",
        # It ends with the fingerprint.
        "README.md",
    }


def bytes_of(root: Path) -> dict[str, bytes]:
    shards = ShardSet.open(str(root))
    return {r.key: (root / "shards" / r.shard).read_bytes()[r.offset : r.offset + r.bytes] for r in shards.rows}


class TestIncrementalRun:
    @pytest.fixture
    def out(self, some_faces, ray_cluster, tmp_path) -> Path:
        render(some_faces, tmp_path / "out")
        return tmp_path / "out"

    @pytest.fixture
    def no_rendering(self, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.render.job.to_table", lambda units: pytest.fail("rendered"))

    def test_a_changed_scan_is_rendered_and_the_others_of_its_shard_are_copied(self, some_faces, out, tmp_path):
        before = bytes_of(out)
        mesh = first_mesh(some_faces)
        mesh.write_text(mesh.read_text() + "# changed\n")
        done = plan(RenderConfig(data_dir=some_faces, out=out, size=32, samples_per_shard=8))
        assert (done.num_to_render, done.num_to_copy, len(done.kept)) == (1, 7, 1)
        render(some_faces, out)
        after = bytes_of(out)
        changed = mesh.stem.removesuffix("_F3D")
        assert {key for key in before if before[key] != after[key]} == {changed}
        render(some_faces, tmp_path / "fresh")
        assert contents(out) == contents(tmp_path / "fresh")

    def test_a_touched_file_changes_only_the_index(self, some_faces, out, no_rendering):
        before = contents(out)
        mesh = first_mesh(some_faces)
        os.utime(mesh, ns=(1, 1))
        render(some_faces, out)
        after = contents(out)
        assert {name for name in before if before[name] != after[name]} == {"index.parquet"}

    def test_changed_prompts_rewrite_text_around_the_same_images(self, some_faces, out, tmp_path, no_rendering):
        before = {row.key: ShardSet.open(str(out)).read(row) for row in ShardSet.open(str(out)).rows}
        words = {code: [f"{code} face"] for code in ("AN", "DI", "FE", "HA", "SA", "SU", "NE")}
        (tmp_path / "bank.yaml").write_text(json.dumps(words))
        render(some_faces, out, prompts=tmp_path / "bank.yaml")
        shards = ShardSet.open(str(out))
        for row in shards.rows:
            sample = shards.read(row)
            assert sample.text == f"{row.expression} face" and sample.images == before[row.key].images
        assert list(verify_shards(shards)) == [(name, []) for name, _ in verify_shards(shards)]

    @pytest.mark.parametrize("text", ["geometry"])
    def test_another_text_source_gives_the_same_as_a_fresh_render(self, some_faces, out, tmp_path, text):
        render(some_faces, out, text=text)
        assert plan(RenderConfig(data_dir=some_faces, out=out, size=32, samples_per_shard=8, text=text)).is_done
        render(some_faces, tmp_path / "fresh", text=text)
        assert contents(out) == contents(tmp_path / "fresh")
        sample = ShardSet.open(str(out)).read(ShardSet.open(str(out)).rows[0])
        assert sample.record.caption.reference == "neutral" and sample.record.text_source == "geometry"

    def test_deleted_scans_are_removed_without_rendering(self, some_faces, out, no_rendering):
        before = bytes_of(out)
        mesh = first_mesh(some_faces)
        mesh.unlink()
        render(some_faces, out)
        gone = mesh.stem.removesuffix("_F3D")
        assert bytes_of(out) == {key: content for key, content in before.items() if key != gone}

    def test_a_damaged_shard_is_not_copied_from(self, some_faces, out):
        path = out / "shards/000000.tar"
        content = bytearray(path.read_bytes())
        content[-12_000] ^= 1
        path.write_bytes(content)
        mesh = first_mesh(some_faces)
        mesh.write_text(mesh.read_text() + "# changed\n")
        with pytest.raises(Exception, match="is damaged and cannot be used again; delete this shard"):
            render(some_faces, out)


def test_a_second_render_into_a_locked_directory_is_rejected(some_faces, ray_cluster, tmp_path):
    with directory_lock(tmp_path / "out"), pytest.raises(UsageError, match="is writing there"):
        render(some_faces, tmp_path / "out")
    assert render(some_faces, tmp_path / "out").num_samples == 14


def test_an_interrupted_run_keeps_its_finished_shards(some_faces, ray_cluster, tmp_path):
    class StopError(Exception):
        pass

    def stop_late(progress: RenderProgress) -> None:
        if list((tmp_path / "out" / ".progress").glob("*.json")):
            raise StopError

    config = RenderConfig(data_dir=some_faces, out=tmp_path / "out", size=32, samples_per_shard=2)
    with pytest.raises(StopError):
        run(config, stop_late)
    assert not (tmp_path / "out" / "manifest.json").exists()
    kept = plan(config).kept
    assert kept
    times = {r.name: (tmp_path / "out" / "shards" / r.name).stat().st_mtime_ns for r in kept}
    run(config)
    assert all((tmp_path / "out" / "shards" / n).stat().st_mtime_ns == t for n, t in times.items())
    render(some_faces, tmp_path / "fresh", samples_per_shard=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_progress_increases_to_the_total(some_faces, ray_cluster, tmp_path):
    seen: list[RenderProgress] = []
    run(RenderConfig(data_dir=some_faces, out=tmp_path / "out", size=32, limit=9, channels=("rgb",)), seen.append)
    done = [progress.num_done for progress in seen]
    assert done[0] == 0 and done[-1] == seen[-1].num_total == 9 and done == sorted(done)


def test_progress_has_the_utilization_of_workers(some_faces, ray_cluster, tmp_path):
    seen: list[RenderProgress] = []
    run(RenderConfig(data_dir=some_faces, out=tmp_path / "out", size=32), seen.append)
    first, last = seen[0].utilization, seen[-1].utilization
    assert first.cores == 0
    assert list(last.steps) == ["read", "render", "encode", "write"] and all(last.steps.values())
    assert 0 < last.cores < 1.2 and last.cores == pytest.approx(sum(last.steps.values())) and last.gpus is None


def test_shards_of_another_dataset_are_not_replaced(some_faces, shards_dir, tmp_path):
    (tmp_path / "other").mkdir()
    mesh = first_mesh(some_faces)
    (tmp_path / "other" / "face.wrl").write_bytes(mesh.read_bytes())
    (tmp_path / "other" / "labels.csv").write_text("path,subject,expression\nface.wrl,anna,happy\n")
    before = contents(shards_dir)
    with pytest.raises(UsageError, match="other scans"):
        render(tmp_path / "other", shards_dir)
    assert contents(shards_dir) == before


def test_a_batch_holds_fewer_frames_of_larger_images(faces_dir, tmp_path):
    def size_of(size: int, **options) -> int:
        return max_frames_per_batch(RenderConfig(data_dir=faces_dir, out=tmp_path, size=size, **options).resolve())

    # Three views of 1024 px are 24 MiB, or 9 MiB with `rgb` alone; the limit is 128 MiB.
    assert (size_of(224), size_of(1024), size_of(2048)) == (16, 5, 1)
    assert size_of(1024, supersample=4) == 5 and size_of(1024, channels=("rgb",)) == 14
