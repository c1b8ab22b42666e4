"""Scans under a URL give the same bytes as on a disk, and only changed ones are rendered again."""

import shutil
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.small_datasets import write_bp4d, write_folder
from helpers.trees import upload
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.data_dir import open_data_dir
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.reading import SourceReader
from smile_pipe.shards.errors import StorageError
from smile_pipe.shards.index import IndexRow, read_failures, read_index
from smile_pipe.shards.storage import StoragePath

OPTIONS = {"size": 32, "channels": ("rgb",), "samples_per_shard": 4}


@pytest.fixture(scope="module")
def scans(faces_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six good scans of one subject, and a damaged one."""
    root = tmp_path_factory.mktemp("scans")
    subject = next(path for path in sorted(faces_dir.iterdir()) if path.is_dir())
    shutil.copytree(subject, root / subject.name)
    mesh = sorted(root.rglob("*.wrl"))[2]
    mesh.write_bytes(mesh.read_bytes()[:2000])
    return root


@pytest.fixture(scope="module")
def on_disk(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of these scans, rendered from a disk."""
    out = tmp_path_factory.mktemp("on-disk") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_in_process", lambda config: True)
        render.run(RenderConfig(data_dir=scans, out=out, **OPTIONS))
    return out


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render in this process, which is faster, and in which tests can make the storage fail."""
    monkeypatch.setattr(render, "_in_process", lambda config: True)


def shards_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").iterdir()} | {
        "manifest": (out / "manifest.json").read_bytes()
    }


def timeless(rows: list[IndexRow]) -> list[IndexRow]:
    return [replace(row, sources=tuple(replace(file, mtime_ns=0) for file in row.sources)) for row in rows]


def are_equal(out: Path, other: Path) -> bool:
    """Whether two outputs are equal except for the times of source files."""
    failures = [
        [
            row.model_copy(update={"sources": tuple(replace(f, mtime_ns=0) for f in row.sources)})
            for row in read_failures(root / "failures.parquet")
        ]
        for root in (out, other)
    ]
    rows = [timeless(read_index(root / "index.parquet", "index")) for root in (out, other)]
    return shards_of(out) == shards_of(other) and failures[0] == failures[1] and rows[0] == rows[1]


def test_workers_read_an_object_store_like_a_disk(scans, on_disk, ray_cluster, s3_url, tmp_path):
    data = upload(scans, f"{s3_url}/data")
    manifest = render.run(RenderConfig(data_dir=str(data), out=tmp_path / "out", **OPTIONS))
    assert (manifest.num_samples, manifest.num_failures) == (6, 1)
    assert are_equal(tmp_path / "out", on_disk)


def test_memory_storage_is_read_in_this_process(scans, on_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "ray_session", lambda address: pytest.fail("Ray was started"))
    data = upload(scans, f"memory://{uuid.uuid4().hex}")
    render.run(RenderConfig(data_dir=str(data), out=tmp_path / "out", **OPTIONS))
    assert are_equal(tmp_path / "out", on_disk)


@pytest.mark.usefixtures("in_process")
class TestSecondRun:
    """Changes are found from one listing."""

    @pytest.fixture
    def data(self, scans: Path, s3_url: str) -> StoragePath:
        return upload(scans, f"{s3_url}/data")

    @pytest.fixture
    def config(self, data: StoragePath, tmp_path: Path) -> RenderConfig:
        config = RenderConfig(data_dir=data, out=tmp_path / "out", **OPTIONS)
        render.run(config)
        return config

    def test_unchanged_data_needs_no_rendering_and_no_file_request(self, config, data, monkeypatch):
        monkeypatch.setattr(render, "_job", lambda *_: pytest.fail("something was rendered"))
        for method in ("info", "get_file", "cat_file"):
            monkeypatch.setattr(data.fs, method, lambda *_, **__: pytest.fail("a file was asked for"))
        assert render.plan(config).is_done

    def test_a_file_with_a_new_time_is_read_and_nothing_is_rendered(self, config, data):
        path = next(path for path in data.fs.find(data.path) if path.endswith(".wrl"))
        time.sleep(1.1)  # the store counts in seconds
        data.fs.pipe_file(path, data.fs.cat_file(path))
        plan = render.plan(config)
        assert plan.is_done and plan.touched

    @pytest.mark.parametrize("kind", [".wrl", "F2D.png", ".bnd"])
    def test_a_changed_file_rerenders_only_its_scans(self, config, data, kind):
        path = sorted(path for path in data.fs.find(data.path) if path.endswith(kind))[-1]
        data.fs.pipe_file(path, data.fs.cat_file(path) + b"\n")
        plan = render.plan(config)
        assert plan.num_to_render == 1
        assert [task.samples[0].key for task in plan.tasks] == [path.rpartition("/")[2].partition("_F")[0]]

    def test_a_deleted_file_is_noticed(self, config, data):
        path = next(path for path in data.fs.find(data.path) if path.endswith(".wrl"))
        data.fs.rm(path)
        assert render.plan(config).reasons == {"source files are gone: removed": 1}


@pytest.mark.usefixtures("in_process")
def test_a_file_deleted_between_listing_and_reading_is_a_failure(scans, s3_url, tmp_path):
    data = upload(scans, f"{s3_url}/data")
    plan = render._plan
    gone = sorted(path for path in data.fs.find(data.path) if path.endswith(".wrl"))[0]

    def plan_and_remove(*arguments: object) -> object:
        work = plan(*arguments)
        data.fs.rm(gone)
        return work

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(render, "_plan", plan_and_remove)
        manifest = render.run(RenderConfig(data_dir=data, out=tmp_path / "out", **OPTIONS))
    assert (manifest.num_samples, manifest.num_failures) == (5, 2)
    failure = next(row for row in read_failures(tmp_path / "out/failures.parquet") if gone.endswith(row.source))
    assert failure.reason == f"{failure.source}: cannot be read: No such file or directory"
    assert failure.sources[0].size == -1


@pytest.mark.slow
class TestFailingStorage:
    """A storage failure ends the job, keeps finished shards, and makes no scan a failure."""

    @pytest.mark.usefixtures("in_process")
    def test_temporary_faults_are_retried(self, scans, on_disk, s3_url, faulty, tmp_path):
        data = upload(scans, f"{s3_url}/data")
        faulty.fault, faulty.every = "503", 4
        render.run(RenderConfig(data_dir=data, out=tmp_path / "out", **OPTIONS))
        assert faulty.num_faults > 5 and are_equal(tmp_path / "out", on_disk)

    @pytest.mark.usefixtures("in_process")
    @pytest.mark.parametrize("fault", ["503", "reset"])
    def test_permanent_faults_end_the_job(self, scans, on_disk, s3_url, faulty, tmp_path, monkeypatch, fault):
        data = upload(scans, f"{s3_url}/data")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 2)
        config = RenderConfig(data_dir=data, out=tmp_path / "out", **OPTIONS)

        def fail_later(progress: render.RenderProgress) -> None:
            if progress.num_done >= 4:
                faulty.fault, faulty.every = fault, 1

        with pytest.raises(StorageError, match=rf"{data}/\S+: the storage failed .*; run the same command to go on"):
            render.run(config, fail_later)
        assert not (tmp_path / "out/manifest.json").exists()
        faulty.every = 0
        render.run(config)
        assert are_equal(tmp_path / "out", on_disk)

    def test_a_storage_failure_in_a_worker_ends_the_job(self, scans, ray_cluster, s3_url, tmp_path):
        data = upload(scans, f"{s3_url}/data")
        # A storage that cannot be reached; the workers are the first to access it.
        away = StoragePath("ftp://127.0.0.1:9/data")
        with pytest.MonkeyPatch.context() as patch:
            absolute = StoragePath.absolute
            patch.setattr(StoragePath, "absolute", lambda self: away if self == data else absolute(self))
            with pytest.raises(StorageError, match=r"ftp://\S+\.\w+: the storage failed .* to go on"):
                render.run(RenderConfig(data_dir=data, out=tmp_path / "out", **OPTIONS))
        assert not (tmp_path / "out/manifest.json").exists()


class TestTables:
    """Layouts read their tables under a URL."""

    @pytest.fixture(params=["memory", "s3"])
    def url(self, request: pytest.FixtureRequest) -> str:
        return request.getfixturevalue("s3_url") if request.param == "s3" else f"memory://{uuid.uuid4().hex}"

    @pytest.mark.parametrize("write", [write_bp4d, write_folder])
    def test_samples_are_the_same_as_on_disk(self, write, url, tmp_path):
        write(tmp_path, subjects=1)
        there, here = find_samples(upload(tmp_path, f"{url}/data"), "auto"), find_samples(tmp_path, "auto")
        assert here.samples and replace(there, stats=None) == here

    def test_a_parquet_table_is_read(self, url, tmp_path):
        (tmp_path / "a.obj").write_text("v 0 0 0\n")
        pq.write_table(
            pa.table({"path": ["a.obj", "b.obj"], "subject": ["s", "s"], "expression": ["HA", "SA"]}),
            tmp_path / "labels.parquet",
        )
        there = find_samples(upload(tmp_path, f"{url}/data"), "auto")
        assert there.samples == find_samples(tmp_path, "auto").samples and len(there.samples) == 2

    def test_a_folder_without_meshes_is_rejected_as_on_disk(self, url, tmp_path):
        (tmp_path / "deep/er").mkdir(parents=True)
        (tmp_path / "deep/er/a.obj").write_text("v 0 0 0\n")
        (tmp_path / "labels.csv").write_text("path,subject,expression\ndeep,s,HA\n")
        for root in (tmp_path, upload(tmp_path, f"{url}/data")):
            with pytest.raises(ValueError, match="the folder 'deep' holds no mesh itself"):
                find_samples(root, "auto")

    def test_the_error_of_a_damaged_table_has_its_url(self, url, tmp_path):
        (tmp_path / "labels.csv").write_bytes(b"path,subject\n\xff\xff,s\n")
        data = upload(tmp_path, f"{url}/data")
        with pytest.raises(ValueError, match=rf"{data}/labels\.csv: cannot be read as a CSV table"):
            find_samples(data, "auto")


def test_scans_are_downloaded_for_each_read_and_deleted_after_it(scans, tmp_path):
    data = upload(scans, f"memory://{uuid.uuid4().hex}")
    (first, second) = find_samples(data, "auto").samples[:2]
    with open_data_dir(data) as files:
        reader = SourceReader(files)
        for scan in (first.frames[0], second.frames[0], first.frames[0]):
            reader.read(scan)
            reader.read_shape(scan)
            assert list(files.root.iterdir()) == []
        reader.record(*find_samples(data, "auto").samples[3].paths)
        assert list(files.root.iterdir()) == []
    assert all(file.size > 0 and file.blake3 for file in reader.sources.values())
