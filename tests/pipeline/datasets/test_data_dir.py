"""Data directories on a disk, in an object store and in memory: listing, fetching, and refused paths."""

import os
import uuid
from pathlib import Path

import pytest

from helpers.faulty_server import failing
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.data_dir import MISSING, DataDir, RemoteDir, open_data_dir
from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.render.fingerprints import SourceFiles, read_source
from smile_pipe.shards.errors import StorageError, UsageError
from smile_pipe.shards.storage import StoragePath

FILES = {"a.obj": b"v 0 0 0\n", "deep/er/b.png": b"image", "labels.csv": b"path\n"}


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> StoragePath:
    """A folder under a URL that contains `FILES`."""
    top = request.getfixturevalue("s3_url") if request.param == "s3" else f"memory://{uuid.uuid4().hex}"
    put(StoragePath(f"{top}/data"), FILES)
    return StoragePath(f"{top}/data")


def put(root: StoragePath, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        root.fs.pipe_file(f"{root.path.rstrip('/')}/{path}", content)


class TestListing:
    def test_all_files_with_their_sizes_and_times(self, url):
        listing = FileIndex.scan(url)
        assert listing.files == FILES.keys()
        assert {path: size for path, (size, _) in listing.stats.items()} == {k: len(v) for k, v in FILES.items()}
        assert all(time_ns > 10**18 for _, time_ns in listing.stats.values())

    def test_trailing_slash_is_ignored(self, url):
        assert FileIndex.scan(StoragePath(f"{url}/")).stats == FileIndex.scan(url).stats

    def test_placeholder_object_of_an_empty_folder_is_not_a_file(self, s3_url):
        put(StoragePath(s3_url), {"data/": b"", "data/empty/": b"", "data/a.obj": b"1"})
        assert FileIndex.scan(StoragePath(s3_url) / "data").files == {"a.obj"}

    def test_times_of_a_listing_are_rounded_like_those_of_one_object(self, s3_url, monkeypatch):
        root = StoragePath(s3_url)
        put(root, {"a.obj": b"1"})
        found = root.fs.find(root.path, detail=True)
        for info in found.values():
            info["LastModified"] = info["LastModified"].replace(microsecond=123_000)
        monkeypatch.setattr(root.fs, "find", lambda *_, **__: found)
        with open_data_dir(root) as files:
            assert FileIndex.scan(root).stats == {"a.obj": files.fetch("a.obj")}

    def test_siblings_with_the_same_prefix_are_not_listed(self, url):
        put(url.parent, {"data2/c.obj": b"1", "data.obj": b"1"})
        assert FileIndex.scan(url).files == FILES.keys()

    @pytest.mark.parametrize("path", ["a//b.obj", "../b.obj", "x/../../b.obj", "./b.obj"])
    def test_invalid_object_names_are_refused(self, s3_url, path, monkeypatch):
        root = StoragePath(s3_url) / "data"
        monkeypatch.setattr(root.fs, "find", lambda *_, **__: {f"{root.path}/{path}": {"size": 1, "type": "file"}})
        with pytest.raises(UsageError, match="is not a valid file path; rename it"):
            FileIndex.scan(root)

    def test_object_name_with_an_empty_part_is_refused_on_a_real_store(self, s3_url):
        put(StoragePath(s3_url), {"data//b.obj": b"1"})
        with pytest.raises(UsageError, match=r"the name of the object '/b\.obj'"):
            FileIndex.scan(StoragePath(s3_url) / "data")

    @pytest.mark.parametrize("below", ["/nowhere", "/data/a.obj", "-that-is-no-bucket"])
    def test_missing_directory_is_an_error(self, s3_url, below):
        put(StoragePath(s3_url), {"data/a.obj": b"1"})
        with pytest.raises(UsageError, match="no files at this URL"):
            find_samples(StoragePath(s3_url + below), "auto")

    def test_unreadable_storage_is_an_error(self, s3_url, monkeypatch):
        root = StoragePath(s3_url)
        monkeypatch.setattr(root.fs, "find", failing(PermissionError("Access Denied")))
        with pytest.raises(UsageError, match=r"cannot be listed: Access Denied; check your read permission"):
            FileIndex.scan(root)


class TestLocal:
    def test_files_are_neither_copied_nor_removed(self, tmp_path):
        (tmp_path / "a.obj").write_bytes(b"123")
        with open_data_dir(tmp_path) as files:
            assert type(files) is DataDir and files.root == tmp_path
            size, mtime_ns = files.fetch("a.obj")
            files.clear()
        assert (size, mtime_ns) == (3, (tmp_path / "a.obj").stat().st_mtime_ns)
        assert files.fetch("b.obj") == MISSING and (tmp_path / "a.obj").exists()

    def test_local_listing_has_names_only(self, tmp_path):
        (tmp_path / "a.obj").touch()
        assert FileIndex.scan(tmp_path).stats is None


class TestFetching:
    def test_fetched_file_is_at_its_path_until_cleared(self, url):
        with open_data_dir(url) as files:
            assert isinstance(files, RemoteDir)
            assert files.fetch("deep/er/b.png") == FileIndex.scan(url).stats["deep/er/b.png"]
            assert (files.root / "deep/er/b.png").read_bytes() == b"image" and files.has("deep/er/b.png")
            files.clear()
            assert list(files.root.iterdir()) == [] and not files.has("deep/er/b.png")
            files.fetch("a.obj")
        assert not files.root.exists()

    @pytest.mark.parametrize("path", ["gone.obj", "deep", "deep/er", "a.obj/x"])
    def test_path_that_is_not_a_file_is_missing(self, url, path):
        with open_data_dir(url) as files:
            assert files.fetch(path) == MISSING
            assert [entry for entry in files.root.rglob("*") if entry.is_file()] == []

    @pytest.mark.parametrize("path", ["../out.obj", "deep/../../out.obj", "/out.obj", "a\0b", "", ".", "deep//b"])
    def test_no_path_leads_out_of_the_scratch_folder(self, url, path, monkeypatch):
        monkeypatch.setattr(url.fs, "info", failing(AssertionError("was asked for it")))
        with open_data_dir(url) as files:
            assert files.fetch(path) == MISSING
            assert list(files.root.iterdir()) == []
            assert not (files.root.parent / "out.obj").exists()

    def test_too_large_file_is_refused_without_download(self, url, tmp_path, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.datasets.data_dir.MAX_BYTES", 5)
        monkeypatch.setattr("smile_pipe.pipeline.meshes.paths.MAX_BYTES", 5)
        monkeypatch.setattr(url.fs, "get_file", failing(AssertionError("was fetched")))
        (tmp_path / "a.obj").write_bytes(FILES["a.obj"])
        with open_data_dir(url) as files:
            assert files.fetch("a.obj")[0] == 8
            with pytest.raises(MeshError) as error:
                read_mesh(files.root / "a.obj")
            assert (files.root / "a.obj").stat().st_blocks == 0
            problem = str(error.value).replace(str(files.root), "")
        with pytest.raises(MeshError) as error:
            read_mesh(tmp_path / "a.obj")
        assert problem == str(error.value).replace(str(tmp_path), "")

    @pytest.mark.parametrize("name", ["x" * 300, "a.obj/below", "a.obj"])
    def test_name_that_a_disk_cannot_store_exists_but_is_unreadable(self, s3_url, name):
        root = StoragePath(s3_url)
        put(root, {name: b"1", "a.obj": b"1", "a.obj/below": b"2"})
        with open_data_dir(root) as files:
            for path in {"a.obj/below": ["a.obj"], "a.obj": ["a.obj/below"]}.get(name, []):
                files.fetch(path)
            assert files.fetch(name)[0] == 1
            assert not os.path.isfile(files.root / name)
        assert read_source(root, name).size == 1

    def test_file_removed_during_the_download_is_missing(self, url, monkeypatch):
        def vanish(source: str, target: str) -> None:
            Path(target).write_bytes(b"half")
            raise FileNotFoundError(source)

        monkeypatch.setattr(url.fs, "get_file", vanish)
        with open_data_dir(url) as files:
            assert files.fetch("a.obj") == MISSING and not (files.root / "a.obj").exists()

    @pytest.mark.parametrize("method", ["info", "get_file"])
    @pytest.mark.parametrize(
        "error", [OSError(16, "Please reduce your request rate."), PermissionError("ExpiredToken"), TimeoutError()]
    )
    def test_storage_failure_differs_from_a_missing_file(self, url, monkeypatch, method, error):
        monkeypatch.setattr(url.fs, method, failing(error))
        with open_data_dir(url) as files, pytest.raises(StorageError, match=r"a\.obj: the storage failed .*to go on"):
            files.fetch("a.obj")


class TestPlanning:
    def test_source_equals_that_on_a_disk_except_for_its_time(self, url, tmp_path):
        (tmp_path / "a.obj").write_bytes(FILES["a.obj"])
        there, here = read_source(url, "a.obj"), read_source(tmp_path, "a.obj")
        assert (there.path, there.size, there.blake3) == (here.path, here.size, here.blake3)
        assert there.mtime_ns == FileIndex.scan(url).stats["a.obj"][1]

    def test_unchanged_files_are_not_requested(self, url, monkeypatch):
        known = [read_source(url, path) for path in FILES]
        monkeypatch.setattr(url.fs, "info", failing(AssertionError("was asked for a file")))
        monkeypatch.setattr(url.fs, "get_file", failing(AssertionError("was fetched")))
        files = SourceFiles(url, listed=FileIndex.scan(url).stats)
        files.load(FILES, known)
        assert [files[path] for path in FILES] == known

    def test_listing_is_created_if_none_is_given(self, url):
        known = [read_source(url, path) for path in FILES]
        put(url, {"a.obj": b"changed it is"})
        url.fs.rm(f"{url.path}/labels.csv")
        files = SourceFiles(url)
        files.load(FILES, known)
        assert files["deep/er/b.png"] == known[1]
        assert (files["a.obj"].size, files["labels.csv"].size) == (13, -1)
        assert files["a.obj"].blake3 not in ("", known[0].blake3)


def test_no_temporary_files_remain(url, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    read_source(url, "deep/er/b.png")
    with pytest.raises(RuntimeError), open_data_dir(url) as files:
        files.fetch("a.obj")
        assert os.listdir(tmp_path) != []
        raise RuntimeError
    assert os.listdir(tmp_path) == []
