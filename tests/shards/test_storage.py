"""Places on a disk, in memory and in an object store: used in one way, published in whole, free of credentials."""

import os
import pickle
from pathlib import Path

import pytest
from pydantic import BaseModel

from smile_pipe.shards import storage
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request, tmp_path) -> StoragePath:
    """A new folder of each kind."""
    if request.param == "disk":
        return StoragePath(tmp_path)
    if request.param == "memory":
        return StoragePath(f"memory://{tmp_path.name}")
    return StoragePath(request.getfixturevalue("s3_url")) / "deep" / "er"


def names(folder: StoragePath) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_there_and_replaced_in_whole(folder):
    (folder / "a.bin").write_atomically(b"old")
    (folder / "a.bin").write_atomically(b"the new")
    assert (folder / "a.bin").read_bytes() == b"the new"
    assert names(folder) == ["a.bin"]


def test_what_fails_on_the_way_leaves_what_was_there(folder):
    (folder / "a.bin").write_atomically(b"old")
    with pytest.raises(KeyError), (folder / "a.bin").replacing() as temporary:
        temporary.write_bytes(b"half of the n")
        raise KeyError
    assert (folder / "a.bin").read_bytes() == b"old"
    assert names(folder) == ["a.bin"]


def test_an_upload_that_fails_leaves_what_was_there(s3_url, monkeypatch):
    path = StoragePath(s3_url) / "a.bin"
    path.write_atomically(b"old")

    def fail(*_, **__):
        raise ConnectionError("reset")

    monkeypatch.setattr(path.fs, "put_file", fail)
    with pytest.raises(ConnectionError):
        path.write_atomically(b"new")
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("breaks", [False, True])
def test_where_files_grow_under_their_name_another_name_comes_first(monkeypatch, tmp_path, breaks):
    """As on many servers of files; memory:// stands for one here."""
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


def test_two_writers_of_one_name_do_not_meet(folder):
    """One that was thought dead, and is not, ends before the one that took its place."""
    with (folder / "a.bin").replacing() as late:
        late.write_bytes(b"late" * 1000)
        with (folder / "a.bin").replacing() as early:
            early.write_bytes(b"early")
        assert (folder / "a.bin").read_bytes() == b"early"
    assert (folder / "a.bin").read_bytes() == b"late" * 1000
    assert names(folder) == ["a.bin"]


def test_leftovers_of_writers_that_were_killed_are_removed(folder):
    for name in (".a.bin.0123.tmp", "a.bin", ".hidden", "b.tmp"):
        (folder / name).write_atomically(b"1")
    folder.remove_leftovers()
    assert names(folder) == [".hidden", "a.bin", "b.tmp"]


def test_ranges_are_read(folder):
    (folder / "a.bin").write_atomically(b"0123456789")
    assert (folder / "a.bin").read_range(2, 3) == b"234"
    assert (folder / "a.bin").read_range(8, 30) == b"89"
    assert (folder / "a.bin").read_range(10, 30) == b""


def test_a_tree_is_removed_and_one_that_is_not_there_is_no_error(folder):
    (folder / "tree" / "inner").mkdir(parents=True, exist_ok=True)
    (folder / "tree" / "inner" / "a").write_atomically(b"1")
    (folder / "tree.txt").write_atomically(b"2")
    (folder / "tree").remove_tree()
    (folder / "tree").remove_tree()
    assert names(folder) == ["tree.txt"]


def test_signs_of_a_pattern_in_a_name_are_none(folder):
    for name in ("run[1]", "run1"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "a.bin").write_atomically(b"1")
        (folder / name / "b.txt").write_atomically(b"1")
    assert [path.name for path in (folder / "run[1]").files("*.bin")] == ["a.bin"]
    (folder / "run[1]").remove_tree()
    assert (folder / "run[1]").files("*") == []
    assert [path.name for path in (folder / "run1").files("*")] == ["a.bin", "b.txt"]


def test_sizes_are_told_of_files_in_the_folder_itself(folder):
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    for name, content in (("a", b"123"), ("b", b""), ("inner/c", b"1")):
        (folder / name).write_atomically(content)
    assert folder.file_sizes() == {"a": 3, "b": 0}
    assert (folder / "nothing").file_sizes() == (folder / "a" / "file").file_sizes() == {}


def test_what_another_process_wrote_is_seen(s3_url):
    """Listings are not remembered."""
    mine = StoragePath(s3_url) / "x"
    (mine / "a.bin").write_atomically(b"1")
    assert names(mine) == ["a.bin"]
    theirs = type(mine.fs)(use_listings_cache=False, skip_instance_cache=True)
    theirs.pipe_file((mine / "b.bin").path, b"1")
    assert names(mine) == ["a.bin", "b.bin"]


class TestHome:
    """A shell writes the home out only where it begins a word, which it does not in `--out=~/x` or in a file."""

    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch) -> Path:
        monkeypatch.setenv("HOME", str(tmp_path))
        return tmp_path

    @pytest.mark.parametrize(("text", "path"), [("~", ""), ("~/x", "x"), ("~/x/../~", "x/../~")])
    def test_is_where_a_path_begins_that_begins_with_its_sign(self, home, text, path):
        assert StoragePath(text) == home / path

    @pytest.mark.parametrize("text", ["./~/x", "x/~", "x~", "/~/x", "~nobody-of-this-name/x"])
    def test_is_not_meant_by_a_sign_elsewhere_or_for_somebody_unknown(self, text):
        assert StoragePath(text) == Path(text)

    @pytest.mark.parametrize("text", ["file:///~/x", "memory://~/x"])
    def test_is_not_meant_in_a_url(self, home, text):
        assert "~/x" in str(StoragePath(text)) and str(home) not in str(StoragePath(text))

    def test_is_meant_in_the_options_of_a_config(self, home):
        class Config(BaseModel):
            out: StoragePath

        assert Config(out="~/x").model_dump(mode="json") == {"out": f"{home}/x"}


class TestUrls:
    def test_paths_stay_paths(self):
        assert StoragePath("a/b") == Path("a/b")
        assert StoragePath("file:///a/b") == Path("/a/b")
        assert StoragePath("a/b").is_local and StoragePath("a/b").local == Path("a/b")

    def test_a_config_takes_and_shows_them_as_text(self):
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
    def test_what_only_looks_like_it_is_not(self, url):
        storage.check_no_credentials(url)

    def test_an_unknown_scheme_is_a_usage_error(self):
        with pytest.raises(UsageError, match=r"floppy://a.*floppy"):
            StoragePath("floppy://a/b")

    def test_a_scheme_whose_library_is_missing_names_it(self, monkeypatch):
        def missing(protocol):
            raise ImportError(f"please install {protocol}fs")

        monkeypatch.setattr(storage, "get_filesystem_class", missing)
        with pytest.raises(UsageError, match="gs://a/b: please install gsfs"):
            StoragePath("gs://a/b")

    def test_what_other_processes_cannot_see(self, tmp_path):
        assert StoragePath("memory://a").is_in_memory
        assert not StoragePath("s3://a/b").is_in_memory
        assert not StoragePath(tmp_path).is_in_memory


def test_no_place_knows_the_keys_that_it_is_reached_with(s3_url):
    url = StoragePath(s3_url) / "x"
    url.exists()
    secret = os.environ["AWS_SECRET_ACCESS_KEY"]
    assert secret not in repr(url) + str(url) and secret.encode() not in pickle.dumps(url)
