"""The shard writer: deterministic bytes, atomic files, and byte ranges that are tars themselves."""

import hashlib
import subprocess
import sys
import tarfile
from dataclasses import replace

import pytest

from helpers.samples import make_sample, make_samples
from smile_pipe.pipeline.rendering.cameras import View
from smile_pipe.shards.reader import read_members
from smile_pipe.shards.sample import SampleError, from_members, to_members
from smile_pipe.shards.writer import digest_of, pack_members, write_shard


@pytest.fixture(scope="module")
def samples():
    return make_samples(num_subjects=2)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "000000.tar"


def test_the_same_samples_give_the_same_bytes_and_the_same_entry(samples, path, tmp_path):
    (tmp_path / "again").mkdir()
    first = write_shard(path, samples)
    again = write_shard(tmp_path / "again" / path.name, iter(samples))
    assert first == again
    assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_shard_contains_no_machine_name_or_time(samples, path):
    write_shard(path, samples)
    with tarfile.open(path) as tar:
        for member in tar:
            about = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
            assert about == (0, 0, 0, "", "", 0o644) and member.isreg()


def test_members_of_a_sample_are_adjacent_and_in_alphabetical_order(samples, path):
    write_shard(path, samples)
    with tarfile.open(path) as tar:
        assert tar.getnames() == [name for sample in samples for name in sorted(dict(to_members(sample)))]


def test_bytes_are_pinned_for_all_versions_of_webdataset_and_python():
    # A header of the extended form (PAX) for a long name, a view that webdataset could take for its own metadata, and
    # contents around the size of a block.
    names = ("json", "txt", "_left.rgb.jpg", "front.depth.png", f"{'v' * 40}.normal.dynamic.png")
    members = {f"{'k' * 60}.{name}": name.encode() * 103 for name in names}
    content = pack_members(members)
    assert read_members(content, "here") == members
    assert digest_of(content) == "d6d5b795e32c9b7a774e61e500a6814f"
    assert pack_members(dict(reversed(members.items()))) == content
    # Streams of webdataset have records of 20 blocks; the last one is cut off here.
    assert len(content) % tarfile.BLOCKSIZE == 0 != len(content) % tarfile.RECORDSIZE


@pytest.mark.parametrize("names", [(), ("a",), ("a.",), ("a.txt", "b.txt")])
def test_members_of_no_sample_or_of_two_are_not_packed(names):
    with pytest.raises(SampleError, match="are not one sample"):
        pack_members(dict.fromkeys(names, b""))


def test_images_of_every_valid_view_name_are_written(path):
    sample = make_sample("a", views=[View(name=name) for name in ("_left", "__key__", "-", "0")], size=4)
    _, (at,) = write_shard(path, [sample])
    assert from_members(read_members(path.read_bytes()[: at.bytes], "range")) == sample


def test_packing_does_not_import_pytorch():
    code = (
        "import sys; from smile_pipe.shards.writer import pack_members; "
        "assert pack_members({'a.txt': b'words'}); print({'torch', 'webdataset'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_entry_matches_the_file(samples, path):
    entry, _ = write_shard(path, samples)
    content = path.read_bytes()
    assert (entry.name, entry.num_samples, entry.bytes) == ("000000.tar", len(samples), len(content))
    assert entry.sha256 == hashlib.sha256(content).hexdigest()


def test_the_fingerprint_of_a_shard_changes_with_any_sample_and_with_their_order(samples, path):
    other = replace(samples[0], record=samples[0].record.model_copy(update={"fingerprint": "other"}))
    variants = [samples, samples[1:], samples[::-1], [other, *samples[1:]]]
    entries = [write_shard(path, variant)[0] for variant in variants]
    assert len({entry.fingerprint for entry in entries}) == len(variants)


def test_each_location_is_a_byte_range_that_parses_alone(samples, path):
    _, locations = write_shard(path, samples)
    content = path.read_bytes()
    for sample, at in zip(samples, locations, strict=True):
        assert from_members(read_members(content[at.offset : at.offset + at.bytes], "range")) == sample


def test_locations_follow_one_another_without_a_gap_and_leave_only_the_end_mark(samples, path):
    _, locations = write_shard(path, samples)
    ends = [0, *(at.offset + at.bytes for at in locations)]
    assert [at.offset for at in locations] == ends[:-1]
    assert not any(path.read_bytes()[ends[-1] :])


def test_name_longer_than_a_tar_header_is_kept(path):
    sample = make_sample("k" * 80, views=[View(name="v" * 40)])
    _, (at,) = write_shard(path, [sample])
    content = path.read_bytes()[: at.bytes]
    assert from_members(read_members(content, "range")) == sample
    with tarfile.open(path) as tar:
        assert max(map(len, tar.getnames())) == 80 + 40 + len("..landmarks.png")


class TestAfterAnError:
    def stream(self, samples, error):
        yield samples[0]
        raise error

    @pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
    def test_no_file_is_left(self, samples, path, error):
        with pytest.raises(type(error)):
            write_shard(path, self.stream(samples, error))
        assert list(path.parent.iterdir()) == []

    def test_invalid_key_leaves_no_file(self, samples, path):
        bad = replace(samples[1], record=samples[1].record.model_copy(update={"key": "a.b"}))
        with pytest.raises(SampleError):
            write_shard(path, [samples[0], bad])
        assert list(path.parent.iterdir()) == []

    def test_old_shard_is_unchanged(self, samples, path):
        write_shard(path, samples)
        before = path.read_bytes()
        with pytest.raises(OSError, match="full"):
            write_shard(path, self.stream(samples, OSError("full")))
        assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]

    def test_unfinished_shard_does_not_have_the_final_name(self, samples, path):
        def watched():
            for sample in samples:
                assert not path.exists() and not list(path.parent.glob("*.tar"))
                yield sample

        write_shard(path, watched())
        assert path.exists()
