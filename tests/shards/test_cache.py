"""Copies of remote shards: the same bytes after any fault, a bounded folder, and processes that share it."""

import errno
import logging
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from filelock import FileLock

from helpers.processes import wait_until
from helpers.samples import write_shard_set
from smile_pipe.shards import cache as module
from smile_pipe.shards.cache import ShardCache, default_folder, local_folder
from smile_pipe.shards.errors import StorageError, UsageError
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.reader import ShardError, ShardSet

NAMES = ("000000.tar", "000001.tar", "000002.tar")
GIB = 1 << 30


class Storage:
    """A remote file system over the files of a disk: it counts reads, and may fail or answer with other bytes."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards = shards
        self.reads: Counter[str] = Counter()
        self.answer: Callable[[str, bytes], bytes] = lambda name, content: content

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        name = path.rpartition("/")[2]
        self.reads[name] += 1
        return self.answer(name, self.shards.filesystem.cat_file(path, start=start, end=end))

    def size(self, path: str) -> int:
        return self.shards.filesystem.size(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cache") / "shards"
    write_shard_set(root, num_subjects=4, channels=("rgb",))
    assert [path.name for path in sorted((root / "shards").iterdir())] == list(NAMES)
    return root


@pytest.fixture
def storage(written: Path) -> Storage:
    return Storage(ShardSet.open(str(written)))


def cached(storage: Storage, folder: Path, max_bytes: int = GIB) -> ShardSet:
    return replace(storage.shards, filesystem=storage).with_cache(folder, max_bytes)


def copies(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def assert_reads_all(shards: ShardSet, storage: Storage) -> None:
    for row in storage.shards.rows:
        assert shards.read(row) == storage.shards.read(row)


def first_row_of(storage: Storage, name: str) -> SampleRow:
    return next(row for row in storage.shards.rows if row.shard == name)


class TestCopies:
    def test_samples_are_equal_and_each_shard_is_read_once(self, storage, tmp_path):
        shards = cached(storage, tmp_path)
        assert_reads_all(shards, storage)
        assert_reads_all(shards, storage)
        assert storage.reads == dict.fromkeys(NAMES, 1)
        assert {path.stem for path in copies(tmp_path)} == {entry.sha256 for entry in shards.manifest.shards}

    def test_a_large_shard_is_read_in_parts(self, storage, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_PART_BYTES", 10_000)
        assert_reads_all(cached(storage, tmp_path), storage)
        expected = {entry.name: -(-entry.bytes // 10_000) for entry in storage.shards.manifest.shards}
        assert storage.reads == expected and max(expected.values()) > 1

    def test_a_second_process_finds_the_copies(self, storage, tmp_path):
        assert_reads_all(cached(storage, tmp_path), storage)
        storage.reads.clear()
        assert_reads_all(cached(storage, tmp_path), storage)
        assert not storage.reads

    def test_two_processes_that_start_together_read_each_shard_once(self, storage, tmp_path):
        opened = threading.Event()
        storage.answer = lambda name, content: content if opened.wait(20) else b""
        sets = [cached(storage, tmp_path), cached(storage, tmp_path)]
        for shards in sets:
            assert shards.cache is not None
            shards.cache.request(NAMES)
        opened.set()
        for shards in sets:
            assert_reads_all(shards, storage)
        assert storage.reads == dict.fromkeys(NAMES, 1)

    def test_requests_return_at_once_and_several_copies_are_made_at_a_time(self, storage, tmp_path):
        together, opened = threading.Barrier(3, timeout=20), threading.Event()

        def wait(name: str, content: bytes) -> bytes:
            together.wait()
            assert opened.wait(20)
            return content

        storage.answer = wait
        cache = cached(storage, tmp_path).cache
        assert cache is not None
        cache.request(NAMES)
        opened.set()
        assert cache.read("000002.tar", 0, 512)
        assert storage.reads == dict.fromkeys(NAMES, 1)

    @pytest.mark.parametrize(("num_that_fit", "expected"), [(1, 1), (8, 2), (100, 16)])
    def test_few_shards_are_requested_ahead_if_few_fit(self, storage, tmp_path, num_that_fit, expected):
        largest = max(entry.bytes for entry in storage.shards.manifest.shards)
        cache = cached(storage, tmp_path, num_that_fit * largest).cache
        assert cache is not None and cache.num_ahead == expected

    def test_local_shards_are_copied_only_to_a_folder_that_was_named(self, storage, tmp_path):
        assert storage.shards.with_cache(None, GIB).cache is None
        assert storage.shards.with_cache(tmp_path, GIB).cache is not None

    def test_no_copies_are_made_with_a_size_of_zero(self, storage, tmp_path):
        assert cached(storage, tmp_path, 0).cache is None

    def test_shards_that_fsspec_copies_are_not_copied_again(self, written, tmp_path):
        fsspec.filesystem("memory").put(str(written), f"/{tmp_path.name}/faces", recursive=True)
        shards = ShardSet.open(f"simplecache::memory://{tmp_path.name}/faces")
        assert shards.with_cache(None, GIB).cache is None and shards.read(shards.rows[1]).record.key

    @pytest.mark.parametrize("name", ["SMILE_PIPE_CACHE", "XDG_CACHE_HOME", "HOME"])
    def test_default_folder(self, tmp_path, monkeypatch, name):
        for unset in ("SMILE_PIPE_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(unset, raising=False)
        monkeypatch.setenv(name, str(tmp_path / "a"))
        below = {"SMILE_PIPE_CACHE": "", "XDG_CACHE_HOME": "smile-pipe/shards", "HOME": ".cache/smile-pipe/shards"}
        assert default_folder() == tmp_path / "a" / below[name] and default_folder().is_dir()

    def test_default_folder_without_a_home_is_one_for_all_processes(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("SMILE_PIPE_CACHE", str(tmp_path / "file" / "below"))
        assert default_folder() == default_folder() and default_folder().parent == tmp_path

    @pytest.mark.parametrize("name", ["file", "file/below", "/dev/null/below"])
    def test_folder_that_cannot_be_written_is_a_usage_error(self, tmp_path, name):
        (tmp_path / "file").write_text("")
        with pytest.raises(UsageError, match=r"^cache_dir .*: is not a folder that can be written"):
            local_folder(tmp_path / name)

    def test_folder_of_the_home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert local_folder("~/copies") == tmp_path / "copies"


class TestBoundedSize:
    def test_those_that_were_not_used_for_longest_are_removed(self, storage, tmp_path):
        sizes = {entry.name: entry.bytes for entry in storage.shards.manifest.shards}
        limit = sizes["000000.tar"] + max(sizes["000001.tar"], sizes["000002.tar"])
        cache = cached(storage, tmp_path, limit).cache
        assert cache is not None
        for name in ("000000.tar", "000001.tar", "000000.tar", "000002.tar"):
            assert cache.read(name, 0, 512) == storage.shards.filesystem.cat_file(
                storage.shards.shard_path(name), start=0, end=512
            )
            assert sum(path.stat().st_size for path in copies(tmp_path)) <= limit
        assert {path.stem for path in copies(tmp_path)} == {
            entry.sha256 for entry in storage.shards.manifest.shards if entry.name != "000001.tar"
        }

    def test_copies_that_are_made_at_the_same_time_do_not_take_the_same_room(self, storage, tmp_path):
        limit = sum(entry.bytes for entry in storage.shards.manifest.shards) - 1
        sizes: list[int] = []

        def answer(name: str, content: bytes) -> bytes:
            time.sleep(0.05)
            sizes.append(sum(path.stat().st_size for path in copies(tmp_path)))
            return content

        storage.answer = answer
        sets = [cached(storage, tmp_path, limit), cached(storage, tmp_path, limit)]
        for shards in sets:
            assert shards.cache is not None
            shards.cache.request(NAMES)
        for shards in sets:
            assert_reads_all(shards, storage)
        assert len(sizes) >= 3 and max(sizes) <= limit

    @pytest.mark.parametrize("number", [0, 2])
    def test_what_a_killed_process_was_copying_takes_no_room_for_ever(self, storage, tmp_path, number):
        largest = max(entry.bytes for entry in storage.shards.manifest.shards)
        shards = cached(storage, tmp_path, largest)
        entry = storage.shards.manifest.shards[number]
        (tmp_path / f".{entry.sha256}.12345678.tmp").write_bytes(bytes(largest))
        assert shards.read(first_row_of(storage, NAMES[0])) == storage.shards.read(first_row_of(storage, NAMES[0]))
        assert len(copies(tmp_path)) == 1

    def test_files_of_others_in_the_folder_stay(self, storage, tmp_path):
        others = [tmp_path / name for name in ("000000.tar", "backup.tar", ".note.tmp", f"{'a' * 64}.tar.gz")]
        for path in others:
            path.write_bytes(bytes(1 << 20))
        largest = max(entry.bytes for entry in storage.shards.manifest.shards)
        assert_reads_all(cached(storage, tmp_path, largest), storage)
        assert all(path.stat().st_size == 1 << 20 for path in others) and len(copies(tmp_path)) == 5

    def test_samples_are_equal_with_room_for_one_shard(self, storage, tmp_path):
        largest = max(entry.bytes for entry in storage.shards.manifest.shards)
        shards = cached(storage, tmp_path, largest)
        for row in [*storage.shards.rows[::3], *storage.shards.rows[::2]]:
            assert shards.read(row) == storage.shards.read(row)
            assert len(copies(tmp_path)) == 1

    def test_a_shard_larger_than_the_folder_is_read_from_the_storage(self, storage, tmp_path, caplog):
        caplog.set_level(logging.WARNING)
        assert_reads_all(cached(storage, tmp_path, 1000), storage)
        assert "too large ones are read by sample" in caplog.text
        assert not copies(tmp_path) and sum(storage.reads.values()) == len(storage.shards.rows)

    def test_a_copy_that_another_process_removed_is_made_again(self, storage, tmp_path):
        shards = cached(storage, tmp_path)
        assert_reads_all(shards, storage)
        for path in copies(tmp_path):
            path.unlink()
        assert_reads_all(shards, storage)
        assert storage.reads == dict.fromkeys(NAMES, 2)


class TestFaults:
    def test_damaged_copy_is_replaced(self, storage, tmp_path):
        shards = cached(storage, tmp_path)
        assert_reads_all(shards, storage)
        for path in copies(tmp_path):
            path.write_bytes(bytes(path.stat().st_size))
        assert_reads_all(shards, storage)
        # For each shard one sample was read from the storage; then the shard was copied again.
        assert storage.reads == dict.fromkeys(NAMES, 3)

    @pytest.mark.parametrize("fault", ["other bytes", "fewer bytes", "more bytes"])
    def test_wrong_answer_is_asked_for_again(self, storage, tmp_path, fault, caplog):
        caplog.set_level(logging.WARNING)
        change = {"other bytes": lambda c: bytes([c[0] ^ 1]) + c[1:], "fewer bytes": lambda c: c[:-1]}

        def answer(name: str, content: bytes) -> bytes:
            is_first = storage.reads[name] == 1
            return change.get(fault, lambda c: c + b"0")(content) if is_first else content

        storage.answer = answer
        assert_reads_all(cached(storage, tmp_path), storage)
        assert storage.reads == dict.fromkeys(NAMES, 2) and not caplog.records
        assert len(copies(tmp_path)) == 3

    @pytest.fixture
    def damaged(self, storage) -> Storage:
        """One byte of the second shard differs: within its second sample."""
        row = [row for row in storage.shards.rows if row.shard == NAMES[1]][1]
        read, at = storage.shards.filesystem.cat_file, row.offset + 600

        class Damaged:
            def cat_file(self, path: str, start: int, end: int) -> bytes:
                content = read(path, start=start, end=end)
                if not path.endswith(NAMES[1]) or not start <= at < end:
                    return content
                return content[: at - start] + bytes([content[at - start] ^ 1]) + content[at - start + 1 :]

        return Storage(replace(storage.shards, filesystem=Damaged()))

    def test_of_a_damaged_shard_the_intact_samples_are_read(self, storage, damaged, tmp_path, caplog):
        caplog.set_level(logging.WARNING)
        shards, bad = cached(damaged, tmp_path), []
        for row in storage.shards.rows:
            try:
                assert shards.read(row) == storage.shards.read(row)
            except ShardError as error:
                assert "is damaged" in str(error)
                bad.append(row)
        assert bad == [[row for row in storage.shards.rows if row.shard == NAMES[1]][1]]
        assert [record.message for record in caplog.records] == [
            "000001.tar cannot be read as a whole; its intact samples are read one by one"
        ]
        # Twice as a whole, then sample by sample.
        assert damaged.reads[NAMES[1]] == 2 + sum(row.shard == NAMES[1] for row in storage.shards.rows)
        assert len(copies(tmp_path)) == 2

    def test_missing_shard_is_missing(self, storage, tmp_path):
        def vanish(name: str, content: bytes) -> bytes:
            if name == NAMES[1]:
                raise FileNotFoundError(name)
            return content

        storage.answer = vanish
        shards = cached(storage, tmp_path)
        assert shards.read(first_row_of(storage, NAMES[0]))
        with pytest.raises(ShardError, match=r"^000001\.tar: listed in the manifest but missing"):
            shards.read(first_row_of(storage, NAMES[1]))

    def test_failure_of_the_storage_is_raised_and_the_next_read_tries_again(self, storage, tmp_path, caplog):
        def fail(name: str, content: bytes) -> bytes:
            raise PermissionError("ExpiredToken")

        storage.answer, shards = fail, cached(storage, tmp_path)
        for _ in range(2):
            with pytest.raises(StorageError, match="ExpiredToken"):
                shards.read(storage.shards.rows[0])
        assert not copies(tmp_path)
        storage.answer = lambda name, content: content
        assert_reads_all(shards, storage)

    @pytest.mark.parametrize("what", ["open", "replace", "reserve"])
    def test_full_disk_costs_speed_only(self, storage, tmp_path, monkeypatch, caplog, what):
        caplog.set_level(logging.WARNING)
        full = OSError(errno.ENOSPC, "No space left on device")

        def fail(*given: object, **options: object) -> None:
            raise full

        shards = cached(storage, tmp_path)
        monkeypatch.setattr(
            *{
                "open": (module, "open", fail),
                "replace": (Path, "replace", fail),
                "reserve": (ShardCache, "_reserve", fail),
            }[what],
            raising=False,
        )
        assert_reads_all(shards, storage)
        assert not copies(tmp_path)
        assert {record.message for record in caplog.records} == {
            f"the cache of shards in {tmp_path} cannot hold {name} (No space left on device)" for name in NAMES
        }

    @pytest.mark.parametrize("what", ["utime", "read"])
    def test_copies_that_cannot_be_read_or_marked_cost_speed_only(self, storage, tmp_path, monkeypatch, what):
        shards = cached(storage, tmp_path)
        assert_reads_all(shards, storage)
        broken = OSError(errno.EIO, "Input/output error") if what == "read" else PermissionError("of another user")

        def fail(path: Path, *given: object, **options: object) -> None:
            raise broken

        monkeypatch.setattr(*((module, "open", fail) if what == "read" else (os, "utime", fail)), raising=False)
        storage.reads.clear()
        assert_reads_all(cached(storage, tmp_path), storage)
        # Copies whose time cannot be set are still used.
        assert bool(storage.reads) is (what == "read")

    def test_copies_return_after_a_failure_of_the_storage(self, storage, tmp_path, monkeypatch):
        def fail(name: str, content: bytes) -> bytes:
            raise PermissionError("ExpiredToken")

        storage.answer, shards = fail, cached(storage, tmp_path)
        with pytest.raises(StorageError):
            shards.read(storage.shards.rows[0])
        storage.answer = lambda name, content: content
        shards.cache.request([NAMES[0]])
        assert shards.read(storage.shards.rows[0]) and not copies(tmp_path)
        now = time.monotonic()
        monkeypatch.setattr(module.time, "monotonic", lambda: now + module.RETRY_SECONDS + 1)
        shards.cache.request([NAMES[0]])
        assert shards.read(storage.shards.rows[0]) and len(copies(tmp_path)) == 1

    def test_copy_that_the_index_contradicts_is_kept(self, storage, tmp_path):
        shards = cached(storage, tmp_path)
        assert_reads_all(shards, storage)
        for row in storage.shards.rows.at([0, 1]):
            with pytest.raises(ShardError, match="is damaged"):
                shards.read(replace(row, digest="0" * 32))
        assert len(copies(tmp_path)) == 3

    def test_process_ends_while_shards_are_copied(self, written, tmp_path):
        script = f"""
import time
from pathlib import Path
from smile_pipe.shards.reader import ShardSet

shards = ShardSet.open({str(written)!r}).with_cache(Path({str(tmp_path)!r}), 1 << 30)

class Slow:
    def cat_file(self, path, start, end):
        time.sleep(3600)

shards.cache._filesystem = Slow()
shards.cache.request({NAMES!r})
time.sleep(0.5)
print("done")
"""
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")

    def test_temporary_files_of_killed_processes_are_removed_and_those_of_others_are_not(self, storage, tmp_path):
        entry, other = storage.shards.manifest.shards[:2]
        assert entry.sha256[:2] != other.sha256[:2]
        (tmp_path / "locks").mkdir()
        left = tmp_path / f".{entry.sha256}.12345678.tmp"
        left.write_bytes(b"half")
        in_use = tmp_path / f".{other.sha256}.12345678.tmp"
        in_use.write_bytes(b"half")
        with FileLock(tmp_path / "locks" / f"{other.sha256[:2]}.lock"):
            shards = cached(storage, tmp_path)
            assert not left.exists() and in_use.exists()
        assert_reads_all(shards, storage)
        cached(storage, tmp_path)
        assert not in_use.exists()

    def test_shard_that_is_replaced_while_it_is_read_gives_no_wrong_sample(self, storage, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "_PART_BYTES", 5_000)
        old, new = NAMES[0], storage.shards.filesystem.cat_file(storage.shards.shard_path(NAMES[1]))
        read = storage.cat_file

        def cat_file(path: str, start: int, end: int) -> bytes:
            content = read(path, start, end)
            # After the first part the storage has the content of another shard under this name.
            return new[start:end] if path.endswith(old) and storage.reads[old] > 1 else content

        monkeypatch.setattr(storage, "cat_file", cat_file)
        shards = cached(storage, tmp_path)
        for row in storage.shards.rows:
            if row.shard == old:
                with pytest.raises(ShardError, match=r"^000000\.tar"):
                    shards.read(row)
            else:
                assert shards.read(row) == storage.shards.read(row)

    def test_killed_process_leaves_nothing_that_counts(self, storage, written, tmp_path):
        script = f"""
import time
from pathlib import Path
from smile_pipe.shards import cache
from smile_pipe.shards.reader import ShardSet

shards = ShardSet.open({str(written)!r}).with_cache(Path({str(tmp_path)!r}), 1 << 30)
cache._PART_BYTES = 5_000

class Slow:
    def cat_file(self, path, start, end):
        time.sleep(3600 if start else 0)
        return shards.filesystem.cat_file(path, start=start, end=end)

shards.cache._filesystem = Slow()
shards.cache.request({NAMES!r})
time.sleep(3600)
"""
        process = subprocess.Popen([sys.executable, "-c", script])
        wait_until(lambda: len(list(tmp_path.glob("*.tmp"))) == 3)
        process.kill()
        process.wait()
        assert len(list(tmp_path.glob("*.tmp"))) == 3 and not list(tmp_path.glob("*.tar"))
        assert_reads_all(cached(storage, tmp_path), storage)
        assert len(copies(tmp_path)) == 3 and not list(tmp_path.glob("*.tmp"))

    def test_two_jobs_with_little_room_take_copies_from_each_other_and_read_the_same(self, storage, tmp_path):
        largest = max(entry.bytes for entry in storage.shards.manifest.shards)
        expected = {row.key: storage.shards.read(row) for row in storage.shards.rows}
        wrong: list[str] = []

        def job(seed: int) -> None:
            shards, rng = cached(storage, tmp_path, largest), random.Random(seed)
            for row in rng.choices(list(storage.shards.rows), k=60):
                if shards.read(row) != expected[row.key]:
                    wrong.append(row.key)

        threads = [threading.Thread(target=job, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong and sum(storage.reads.values()) > 20

    @pytest.mark.parametrize("name", ["../../outside", "a" * 63 + "/", "A" * 64, ""])
    def test_a_digest_that_is_none_is_no_file_name(self, storage, tmp_path, name):
        entries = tuple(entry.model_copy(update={"sha256": name}) for entry in storage.shards.manifest.shards)
        manifest = storage.shards.manifest.model_copy(update={"shards": entries})
        storage.shards = replace(storage.shards, manifest=manifest)
        folder = tmp_path / "one" / "two" / "cache"
        assert_reads_all(cached(storage, folder), storage)
        assert [path.name for path in tmp_path.rglob("*")] == ["one", "two", "cache", "locks"]
