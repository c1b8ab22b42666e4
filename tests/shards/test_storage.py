"""`StoragePath` on a local disk, in memory and in an object store."""

import os
import pickle
from pathlib import Path

import pytest
from pydantic import BaseModel

from smile_pipe.shards import storage, urls
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request, tmp_path) -> StoragePath:
    """A new folder on each kind of storage."""
    if request.param == "disk":
        return StoragePath(tmp_path)
    if request.param == "memory":
        return StoragePath(f"memory://{tmp_path.name}")
    return StoragePath(request.getfixturevalue("s3_url")) / "deep" / "er"


def names(folder: StoragePath) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_file_is_complete_and_replaced_atomically(folder):
    (folder / "a.bin").write_atomically(b"old")
    (folder / "a.bin").write_atomically(b"the new")
    assert (folder / "a.bin").read_bytes() == b"the new"
    assert names(folder) == ["a.bin"]


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt])
def test_failed_write_keeps_the_old_content(folder, error):
    (folder / "a.bin").write_atomically(b"old")
    with pytest.raises(error), (folder / "a.bin").replacing() as temporary:
        temporary.write_bytes(b"half of the n")
        assert (folder / "a.bin").read_bytes() == b"old"
        raise error
    assert (folder / "a.bin").read_bytes() == b"old"
    assert names(folder) == ["a.bin"]


def test_failed_upload_keeps_the_old_content(s3_url, monkeypatch):
    path = StoragePath(s3_url) / "a.bin"
    path.write_atomically(b"old")

    def fail(*_, **__):
        raise ConnectionError("reset")

    monkeypatch.setattr(path.fs, "put_file", fail)
    with pytest.raises(ConnectionError):
        path.write_atomically(b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("breaks", [False, True])
def test_non_atomic_storage_gets_a_temporary_name_first(monkeypatch, tmp_path, breaks):
    """As on many file servers; here memory:// represents one."""
    monkeypatch.setattr(storage, "ATOMIC_PUT_SCHEMES", frozenset())
    path = StoragePath(f"memory://{tmp_path.name}") / "a.bin"
    path.write_atomically(b"old")
    put = path.fs.put_file
    seen = []

    def put_and_look(source, target):
        put(source, target)
        seen.append((target.rpartition("/")[2], path.read_bytes()))
        if breaks:
            raise ConnectionError

    monkeypatch.setattr(path.fs, "put_file", put_and_look)
    if breaks:
        with pytest.raises(ConnectionError):
            path.write_atomically(b"new")
    else:
        path.write_atomically(b"new")
    assert [(name[:7], name[-4:], content) for name, content in seen] == [(".a.bin.", ".tmp", b"old")]
    assert path.read_bytes() == (b"old" if breaks else b"new")
    assert names(path.parent) == ["a.bin"]


def test_two_writers_of_one_file_do_not_interfere(folder):
    """As when a writer was taken for dead, but is alive."""
    with (folder / "a.bin").replacing() as late:
        late.write_bytes(b"late" * 1000)
        with (folder / "a.bin").replacing() as early:
            early.write_bytes(b"early")
        assert (folder / "a.bin").read_bytes() == b"early"
    assert (folder / "a.bin").read_bytes() == b"late" * 1000
    assert names(folder) == ["a.bin"]


def test_leftovers_of_killed_writers_are_removed(folder):
    for name in (".a.bin.0123.tmp", "a.bin", ".hidden", "b.tmp"):
        (folder / name).write_atomically(b"1")
    folder.remove_leftovers()
    assert names(folder) == [".hidden", "a.bin", "b.tmp"]


def test_ranges_are_read(folder):
    (folder / "a.bin").write_atomically(b"0123456789")
    assert (folder / "a.bin").read_range(2, 3) == b"234"
    assert (folder / "a.bin").read_range(8, 30) == b"89"
    assert (folder / "a.bin").read_range(10, 30) == b""


def test_tree_is_removed_and_a_missing_tree_is_no_error(folder):
    (folder / "tree" / "inner").mkdir(parents=True, exist_ok=True)
    (folder / "tree" / "inner" / "a").write_atomically(b"1")
    (folder / "tree.txt").write_atomically(b"2")
    (folder / "tree").remove_tree()
    (folder / "tree").remove_tree()
    assert names(folder) == ["tree.txt"]


def test_wildcard_characters_in_a_folder_name_are_literal(folder):
    for name in ("run[1]", "run1"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "a.bin").write_atomically(b"1")
    assert (folder / "run[1]").file_sizes() == {"a.bin": 1}
    (folder / "run[1]").remove_tree()
    assert (folder / "run[1]").file_sizes() == {} and (folder / "run1").file_sizes() == {"a.bin": 1}


def test_file_sizes_of_the_folder_itself(folder):
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    for name, content in (("a", b"123"), ("b", b""), ("inner/c", b"1")):
        (folder / name).write_atomically(content)
    assert folder.file_sizes() == {"a": 3, "b": 0}
    assert (folder / "nothing").file_sizes() == (folder / "a" / "file").file_sizes() == {}


def test_files_of_another_process_are_visible(s3_url):
    """Listings are not cached."""
    mine = StoragePath(s3_url) / "x"
    (mine / "a.bin").write_atomically(b"1")
    assert names(mine) == ["a.bin"]
    theirs = type(mine.fs)(use_listings_cache=False, skip_instance_cache=True)
    theirs.pipe_file((mine / "b.bin").path, b"1")
    assert names(mine) == ["a.bin", "b.bin"]


class TestHome:
    """A shell expands `~` only at the start of a word, so not in `--out=~/x` or in a config file."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    @pytest.mark.parametrize(("text", "path"), [("~", ""), ("~/x", "x"), ("~/x/../~", "x/../~")])
    def test_tilde_at_the_start_is_the_home_directory(self, home, text, path):
        assert StoragePath(text) == home / path

    @pytest.mark.parametrize("text", ["./~/x", "x/~", "x~", "/~/x", "~nobody-of-this-name/x"])
    def test_other_tildes_and_unknown_users_are_literal(self, text):
        assert StoragePath(text) == Path(text)

    @pytest.mark.parametrize("text", ["file:///~/x", "memory://~/x"])
    def test_tilde_in_a_url_is_literal(self, home, text):
        assert "~/x" in str(StoragePath(text)) and str(home) not in str(StoragePath(text))

    def test_tilde_in_a_config_field_is_the_home_directory(self, home):
        class Config(BaseModel):
            out: StoragePath

        assert Config(out="~/x").model_dump(mode="json") == {"out": f"{home}/x"}


class TestUrls:
    def test_local_paths_are_kept(self):
        assert StoragePath("a/b") == Path("a/b")
        assert StoragePath("file:///a/b") == Path("/a/b")
        assert StoragePath("a/b").is_local and StoragePath("a/b").local == Path("a/b")

    def test_config_field_accepts_text_and_path_and_dumps_text(self):
        class Config(BaseModel):
            out: StoragePath

        assert Config(out="memory://x/y").model_dump(mode="json") == {"out": "memory://x/y"}
        assert Config(out=Path("x/y")).model_dump_json() == '{"out":"x/y"}'

    @pytest.mark.parametrize(
        "url",
        [
            "s3://name:hunter2@bucket/x",
            "sftp://name:hunter2@host/x",
            "simplecache::s3://name:hunter2@bucket/x",
            "https://host/x.tar?X-Amz-Signature=hunter2",
            "https://host/x?sig=hunter2",
            "https://host/x?a=1&access_token=hunter2",
        ],
    )
    def test_credentials_are_refused_and_not_repeated(self, url):
        with pytest.raises(UsageError, match="credentials do not belong in a URL") as error:
            StoragePath(url)
        assert "hunter2" not in str(error.value)

    @pytest.mark.parametrize("url", ["s3://bucket/0000?.tar", "sftp://name@host/x", "https://host/x?version=3"])
    def test_urls_without_credentials_are_accepted(self, url):
        urls.check_no_credentials(url)

    def test_an_unknown_scheme_is_a_usage_error(self):
        with pytest.raises(UsageError, match=r"floppy://a.*floppy"):
            StoragePath("floppy://a/b")

    def test_a_scheme_whose_library_is_missing_names_it(self, monkeypatch):
        def missing(protocol):
            raise ImportError(f"please install {protocol}fs")

        monkeypatch.setattr(urls, "get_filesystem_class", missing)
        with pytest.raises(UsageError, match="gs://a/b: please install gsfs"):
            StoragePath("gs://a/b")

    def test_is_in_memory(self, tmp_path):
        assert StoragePath("memory://a").is_in_memory
        assert not StoragePath("s3://a/b").is_in_memory
        assert not StoragePath(tmp_path).is_in_memory


def test_paths_contain_no_credentials(s3_url):
    url = StoragePath(s3_url) / "x"
    url.exists()
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in repr(url) + str(url) and secret.encode() not in pickle.dumps(url)
