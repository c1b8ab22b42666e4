"""The reader: forms of a spec, invalid specs, damage, storage failures, and no unpickling."""

import errno
import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from botocore.exceptions import EndpointConnectionError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from helpers.faulty_server import failing
from helpers.samples import write_shard_set
from smile_pipe.shards import reader
from smile_pipe.shards.errors import StorageError, UsageError
from smile_pipe.shards.index import read_index, write_index
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import MAX_SAMPLE_BYTES, ShardError, ShardSet, read_members
from smile_pipe.shards.sample import Sample, SampleError
from smile_pipe.shards.storage import StoragePath
from smile_pipe.shards.writer import digest_of


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[Sample]]:
    """Nine samples in shards of four, four and one."""
    root = tmp_path_factory.mktemp("shards")
    return root, write_shard_set(root, num_subjects=3, samples_per_shard=4)


@pytest.fixture
def copy(written, tmp_path) -> Path:
    """A copy of the shard set that a test may change."""
    return shutil.copytree(written[0], tmp_path / "copy")


def read_all(spec: str) -> list[Sample]:
    shards = ShardSet.open(spec)
    return [shards.read(row) for row in shards.rows]


class TestSpecs:
    @pytest.mark.parametrize("form", ["{}", "{}/", "{}/manifest.json", "{}/shards/*.tar", "file://{}", "{}/shards/0*"])
    def test_all_forms_of_the_whole_set_give_all_samples(self, written, form):
        root, samples = written
        assert read_all(form.format(root)) == samples

    @pytest.mark.parametrize("form", ["{root}", "{root}/manifest.json", "{root}/shards/{{000000..000002}}.tar"])
    def test_relative_path_is_relative_to_the_working_directory(self, written, form, monkeypatch):
        root, samples = written
        monkeypatch.chdir(root.parent)
        assert read_all(form.format(root=root.name)) == samples

    def test_the_working_directory_itself(self, written, monkeypatch):
        monkeypatch.chdir(written[0])
        assert read_all(".") == read_all("manifest.json") == read_all("shards/*.tar") == written[1]

    @pytest.mark.parametrize(
        "pattern",
        ["00000{0,2}.tar", "{000000,000002}.tar", "{000000.tar,000002.tar}", "00000[02].tar", "00000{0,[2-9]}.tar"],
    )
    def test_pattern_gives_the_samples_of_matching_shards(self, written, pattern):
        root, samples = written
        assert read_all(f"{root}/shards/{pattern}") == samples[:4] + samples[8:]

    def test_one_shard_by_its_name(self, written):
        root, samples = written
        assert read_all(f"{root}/shards/000001.tar") == samples[4:8]

    @pytest.mark.parametrize("form", ["", "/", "/manifest.json", "/shards/*.tar", "/shards/{000000..000002}.tar"])
    def test_a_url_of_another_filesystem(self, written, form):
        root, samples = written
        memory = fsspec.filesystem("memory")
        memory.put(str(root), "/bucket/faces", recursive=True)
        try:
            assert read_all(f"memory://bucket/faces{form}") == samples
        finally:
            memory.rm("/bucket", recursive=True)

    @pytest.mark.parametrize("name", ["run[1]", "a{b}c", "50% {of", "what?", "with space", "ends in .json"])
    def test_directory_with_wildcard_characters_in_its_name_is_opened(self, written, tmp_path, name):
        root = shutil.copytree(written[0], tmp_path / name)
        assert read_all(str(root)) == read_all(f"{root}/manifest.json") == written[1]

    def test_subjects_and_their_samples(self, written):
        shards = ShardSet.open(str(written[0]))
        assert shards.subjects == ("F0001", "F0002", "F0003")
        assert {row.subject for row in shards.of_subjects(["F0003", "F0001"])} == {"F0001", "F0003"}
        assert [row.key for row in shards.of_subjects(["F0002"])] == [
            sample.record.key for sample in written[1] if sample.record.subject == "F0002"
        ]


class TestRefused:
    @pytest.mark.parametrize(
        ("form", "reason"),
        [
            ("{}/nowhere", "matches nothing; name a directory"),
            ("{}/shards/9*.tar", "matches nothing"),
            ("{}/shards/{{000000..000009}}.tar", "000003.tar: matches nothing"),
            ("{}/shards/{{000000.tar", "unbalanced|Unbalanced"),
            ("{}/shards", "no manifest.json"),
            ("{}/elsewhere/manifest.json", "no manifest.json"),
            ("nothing://bucket/x", "nothing"),
        ],
    )
    def test_spec_without_shards_is_refused(self, written, form, reason):
        with pytest.raises(UsageError, match=reason) as error:
            ShardSet.open(form.format(written[0]))
        assert str(error.value).startswith("shards ") and "\n" not in str(error.value)

    def test_shards_of_two_sets_at_once(self, written, copy):
        with pytest.raises(UsageError, match="several shard sets"):
            ShardSet.open(f"{{{written[0]},{copy}}}/shards/000000.tar")

    def test_shard_that_is_not_in_the_manifest(self, copy):
        shutil.copy(copy / "shards/000000.tar", copy / "shards/000007.tar")
        with pytest.raises(UsageError, match=r"000007\.tar is not in the manifest"):
            ShardSet.open(f"{copy}/shards/*.tar")
        assert len(ShardSet.open(str(copy)).rows) == 9

    def test_shards_of_an_unfinished_render(self, copy):
        (copy / "manifest.json").unlink()
        for spec in (str(copy), f"{copy}/shards/*.tar", f"{copy}/manifest.json"):
            with pytest.raises(UsageError, match=r"no manifest\.json.*smile-pipe render"):
                ShardSet.open(spec)

    def test_a_set_without_its_index(self, copy):
        (copy / "index.parquet").unlink()
        with pytest.raises(UsageError, match=r"no index\.parquet"):
            ShardSet.open(str(copy))

    def test_a_damaged_index(self, copy):
        (copy / "index.parquet").write_bytes(b"PAR1 and then nothing")
        with pytest.raises(UsageError, match=r"index\.parquet: not a readable table"):
            ShardSet.open(str(copy))

    def test_set_without_samples(self, copy):
        write_index(copy / "index.parquet", [])
        manifest = ShardManifest.read(copy / "manifest.json")
        manifest.model_copy(update={"num_samples": 0, "shards": ()}).write(copy / "manifest.json")
        with pytest.raises(UsageError, match="contains no samples"):
            ShardSet.open(str(copy))

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"shard": "000009.tar"}, "do not match"),
            ({"shard": "../manifest.json"}, r"index\.parquet: invalid shard name '\.\./manifest\.json'"),
            (None, "do not match"),
        ],
    )
    def test_index_that_does_not_match_the_manifest(self, copy, change, problem):
        rows = read_index(copy / "index.parquet")
        write_index(copy / "index.parquet", [*rows[:-1], *([replace(rows[-1], **change)] if change else [])])
        with pytest.raises(UsageError, match=problem):
            ShardSet.open(str(copy))


class TestDamage:
    def test_missing_shard_is_named(self, copy):
        shards = ShardSet.open(str(copy))
        (copy / "shards/000001.tar").unlink()
        with pytest.raises(ShardError, match=r"000001\.tar: listed in the manifest but missing in"):
            shards.read(shards.rows[4])
        shards.read(shards.rows[0])

    @pytest.mark.parametrize("kept", [0, 100, 512, 1024, 0.5, -1])
    def test_a_truncated_shard_is_named(self, copy, kept):
        shards = ShardSet.open(str(copy))
        row, path = shards.rows[3], copy / "shards/000000.tar"
        size = int(kept * row.bytes) if kept == 0.5 else kept % row.bytes
        path.write_bytes(path.read_bytes()[: row.offset + size])
        with pytest.raises(ShardError, match=r"000000\.tar: ends before the end of F0002_HA04WH"):
            shards.read(row)
        shards.read(shards.rows[2])

    @pytest.mark.parametrize("number", [errno.EIO, errno.EISDIR, errno.ELOOP])
    def test_read_error_of_a_local_file_is_a_damaged_shard(self, written, monkeypatch, number):
        shards = ShardSet.open(str(written[0]))
        monkeypatch.setattr(shards.filesystem, "cat_file", failing(OSError(number, "odd blocks")))
        with pytest.raises(ShardError, match=r"000000\.tar: F0001_HA04WH at 0 cannot be read: .*odd blocks"):
            shards.read(shards.rows[0])

    @pytest.mark.parametrize("number", [errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.ESTALE])
    def test_other_local_errors_are_storage_errors(self, written, monkeypatch, number):
        shards = ShardSet.open(str(written[0]))
        monkeypatch.setattr(shards.filesystem, "cat_file", failing(OSError(number, "not now")))
        with pytest.raises(StorageError, match=r"000000\.tar: the storage failed \(.*not now\)"):
            shards.read(shards.rows[0])

    @pytest.mark.parametrize(
        "lie",
        [
            {"offset": 512},
            {"offset": -512},
            {"offset": 1 << 40},
            {"bytes": 512},
            {"bytes": 0},
            {"bytes": -1},
            {"bytes": MAX_SAMPLE_BYTES + 1},
            {"key": "F0009_HA04WH"},
            {"shard": "000001.tar"},
        ],
    )
    def test_wrong_index_entry_is_detected(self, written, lie):
        shards = ShardSet.open(str(written[0]))
        with pytest.raises((ShardError, SampleError)):
            shards.read(replace(shards.rows[0], **lie))

    def test_range_of_two_samples_is_refused(self, written):
        shards = ShardSet.open(str(written[0]))
        first, second = shards.rows[:2]
        both = (written[0] / "shards" / first.shard).read_bytes()[: first.bytes + second.bytes]
        with pytest.raises(SampleError, match="not one sample"):
            shards.read(replace(first, bytes=len(both), digest=digest_of(both)))

    @settings(max_examples=60)
    @given(st.data())
    def test_any_flipped_bit_in_a_sample_is_detected(self, written, data):
        shards = ShardSet.open(str(written[0]))
        row = shards.rows[1]
        content = bytearray((written[0] / "shards" / row.shard).read_bytes())
        content[row.offset + data.draw(st.integers(0, row.bytes - 1))] ^= 1 << data.draw(st.integers(0, 7))
        (filesystem := fsspec.filesystem("memory")).pipe("/flipped/shards/" + row.shard, bytes(content))
        with pytest.raises(ShardError, match=f"{row.key} is damaged"):
            replace(shards, filesystem=filesystem, root="/flipped").read(row)

    @pytest.mark.parametrize("num_bytes", [-1, 0, MAX_SAMPLE_BYTES + 1])
    def test_invalid_size_is_refused_before_reading(self, written, monkeypatch, num_bytes):
        shards = ShardSet.open(str(written[0]))
        monkeypatch.setattr(type(shards.filesystem), "cat_file", lambda *args, **options: pytest.fail("read"))
        with pytest.raises(ShardError, match=f"invalid index entry for .*: {num_bytes} bytes"):
            shards.read(replace(shards.rows[0], bytes=num_bytes))

    def test_only_the_bytes_of_the_sample_are_read(self, written, monkeypatch):
        shards = ShardSet.open(str(written[0]))
        asked = []
        cat_file = shards.filesystem.cat_file

        def spy(path, start=None, end=None, **options):
            asked.append((path.rpartition("/")[2], start, end))
            return cat_file(path, start=start, end=end, **options)

        monkeypatch.setattr(shards.filesystem, "cat_file", spy)
        row = shards.rows[5]
        shards.read(row)
        assert asked == [(row.shard, row.offset, row.offset + row.bytes)]

    def test_range_that_ends_inside_a_member_is_refused(self):
        piece = self.header_and_content("a.json", b"x" * 600)
        for end in range(1, 512 + 600):
            with pytest.raises(ShardError, match="here: "):
                read_members(piece[:end], "here")

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_damaged_bytes_give_members_or_a_shard_error(self, data):
        content = bytearray(b"".join(self.header_and_content(name, b"x" * 10) for name in ("a.json", "a.txt")))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        try:
            assert all(isinstance(member, bytes) for member in read_members(bytes(content), "here").values())
        except ShardError as error:
            assert str(error).startswith("here: ")

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=2000))
    @example(b"")
    def test_bytes_that_are_not_a_tar_are_refused(self, content):
        try:
            assert not read_members(content, "here")
        except ShardError as error:
            assert str(error).startswith("here: ")

    @pytest.mark.parametrize(
        ("located", "damage"),
        [
            (0, b"\xc3\xa4.json\0"),
            (0, b"\xc3.json\0"),
            (0, b"\0" * 8),
            (0, b"a\0b"),
            (0, b"a/b"),
            (100, b"x"),
            (100, b"0000755"),
            (124, b" 12"),
            (124, b"-1"),
            (124, b"\x80"),
            (124, b"00000000012 "),
            (136, b"what"),
            (156, b"5"),
            (156, b"x"),
            (257, b"ustar  \0"),
            (345, b"folder"),
            (500, b"x"),
        ],
    )
    def test_unusual_headers_are_read_like_tarfile_reads_them(self, located, damage):
        content = bytearray(b"".join(self.header_and_content(name, b"x" * 10) for name in ("a.json", "a.txt")))
        content[located : located + len(damage)] = damage
        self.correct_checksum(content)
        assert self.outcome(lambda: read_members(bytes(content), "here")) == self.outcome(
            lambda: self.with_tarfile(bytes(content))
        )

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_damaged_bytes_are_read_like_tarfile_reads_them(self, data):
        content = bytearray(b"".join(self.header_and_content(name, b"x" * 10) for name in ("a.json", "a.txt")))
        for _ in range(data.draw(st.integers(0, 3))):
            # Most of the damage is done to a header, and there to what tells members apart.
            located = data.draw(
                st.sampled_from((*range(0, 8), *range(100, 157), *range(257, 265), 345, *range(512, 522)))
            )
            content[located + data.draw(st.sampled_from((0, 1024)))] = data.draw(
                st.sampled_from((*b"\0 0178ax/", 0xC3))
            )
        if data.draw(st.booleans()):
            self.correct_checksum(content)
        piece = bytes(content[: data.draw(st.sampled_from((512, 1000, 1024, 1536, 2000, 2048)))])
        assert self.outcome(lambda: read_members(piece, "here")) == self.outcome(lambda: self.with_tarfile(piece))

    @staticmethod
    def correct_checksum(content: bytearray) -> None:
        content[148:156] = b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])

    @staticmethod
    def outcome(read: Callable[[], dict[str, bytes]]) -> object:
        try:
            return read()
        except ShardError as error:
            return str(error)

    @staticmethod
    def with_tarfile(content: bytes) -> dict[str, bytes]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reader, "_read_own_members", lambda content: None)
            return read_members(content, "here")

    @pytest.mark.parametrize("size", [b"-1", b"\x80", b"\x80" + b"\xff" * 11])
    def test_member_of_an_impossible_size_is_refused(self, size):
        content = bytearray(self.header_and_content("a.json", b"x" * 10))
        content[124 : 124 + len(size)] = size
        self.correct_checksum(content)
        with pytest.raises(ShardError, match="here: "):
            read_members(bytes(content), "here")

    @pytest.mark.parametrize(
        "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
    )
    def test_member_that_is_not_a_regular_file_is_refused(self, kind):
        info = tarfile.TarInfo("a.json")
        info.type, info.linkname = kind, "/etc/passwd"
        with pytest.raises(ShardError, match="not a regular file"):
            read_members(info.tobuf(), "here")

    @staticmethod
    def header_and_content(name: str, content: bytes) -> bytes:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        return info.tobuf() + content + bytes(-len(content) % 512)


class TestReadingUrl:
    """Damaged shards and storage failures under a URL."""

    @pytest.fixture(params=["memory", "s3"])
    def shards(self, written, request, tmp_path) -> ShardSet:
        top = request.getfixturevalue("s3_url") if request.param == "s3" else f"memory://{tmp_path.name}"
        root = StoragePath(f"{top}/faces")
        for file in ("manifest.json", "index.parquet", *(f"shards/00000{n}.tar" for n in range(3))):
            root.fs.pipe_file(f"{root.path}/{file}", (written[0] / file).read_bytes())
        return ShardSet.open(str(root))

    @pytest.mark.parametrize(
        "error",
        [
            PermissionError("ExpiredToken"),
            OSError(errno.EBUSY, "SlowDown"),
            OSError(errno.EREMOTEIO, "InternalError"),
            OSError(errno.EIO, "another code"),
            OSError(errno.EINVAL, "InvalidToken"),
            TimeoutError("RequestTimeout"),
            EndpointConnectionError(endpoint_url="nowhere"),
        ],
    )
    @pytest.mark.parametrize("fails", [("cat_file",), ("cat_file", "size")])
    def test_storage_failure_is_not_damage(self, shards, monkeypatch, error, fails):
        for method in fails:
            monkeypatch.setattr(shards.filesystem, method, failing(error))
        with pytest.raises(StorageError, match=r"faces/shards/000000\.tar: the storage failed"):
            shards.read(shards.rows[1])

    def test_missing_shard_is_damage(self, shards):
        shards.filesystem.rm_file(f"{shards.root}/shards/000001.tar")
        with pytest.raises(ShardError, match=r"000001\.tar: listed in the manifest but missing in"):
            shards.read(shards.rows[4])

    @pytest.mark.parametrize("left", [-512, 0, 512])
    def test_truncated_shard_is_damage(self, shards, left):
        row, path = shards.rows[3], f"{shards.root}/shards/000000.tar"
        shards.filesystem.pipe_file(path, shards.filesystem.cat_file(path)[: row.offset + left])
        with pytest.raises(ShardError, match=rf"000000\.tar: ends before the end of {row.key}"):
            shards.read(row)


class TestHeaders:
    def test_headers_of_our_writer_are_read_without_tarfile(self, written, monkeypatch):
        monkeypatch.setattr(tarfile, "open", lambda *given, **options: pytest.fail("asked tarfile"))
        assert read_all(str(written[0])) == written[1]

    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    @pytest.mark.parametrize("name", ["a.json", "A-b_c.json", "ä.json", "x" * 100, "x" * 101 + "/a.json", "a b.json"])
    def test_headers_of_other_writers_are_read(self, form, name):
        buffer, info = io.BytesIO(), tarfile.TarInfo(name)
        info.size, info.mtime, info.mode, info.uname = 700, 1_700_000_000, 0o600, "me"
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            tar.addfile(info, io.BytesIO(b"x" * 700))
        assert read_members(buffer.getvalue(), "here") == {name: b"x" * 700}

    def test_last_of_two_members_with_the_same_name_wins(self):
        piece = b"".join(TestDamage.header_and_content("a.txt", content) for content in (b"one", b"two"))
        assert read_members(piece, "here") == TestDamage.with_tarfile(piece) == {"a.txt": b"two"}
