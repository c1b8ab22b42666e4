"""Samples through a pipeline of webdataset: equal to random access, in order, with damage reported by sample."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import webdataset

from helpers.samples import spoil, write_shard_set
from smile_pipe.shards.reader import ShardError, ShardSet
from smile_pipe.shards.streaming import sample_pipeline
from smile_pipe.shards.writer import digest_of


@pytest.fixture
def shards(tmp_path: Path) -> ShardSet:
    write_shard_set(tmp_path / "shards")
    return ShardSet.open(str(tmp_path / "shards"))


def test_samples_are_those_of_random_access_in_the_given_order(shards):
    rows = shards.rows.at([5, 1, 7, 0, 3])
    assert list(sample_pipeline(shards, rows)) == [shards.read(row) for row in rows]


def test_stages_can_be_added(shards):
    pipeline = sample_pipeline(shards, shards.rows).compose(webdataset.map(lambda sample: sample.record.key))
    assert list(webdataset.WebLoader(pipeline, batch_size=None, num_workers=0)) == shards.rows.values("key")


def test_damaged_samples_are_reported_and_left_out(shards, tmp_path):
    rows = shards.rows.at(slice(None))
    spoil(tmp_path / "shards", rows[2:4])
    bad = []
    found = list(sample_pipeline(shards, rows, lambda row, error: bad.append((row.key, type(error)))))
    assert bad == [(row.key, ShardError) for row in rows[2:4]]
    assert [sample.record.key for sample in found] == [row.key for row in [*rows[:2], *rows[4:]]]
    with pytest.raises(ShardError, match=f"{rows[2].key} is damaged"):
        list(sample_pipeline(shards, rows))


def test_sample_under_the_key_of_another_is_damage(shards):
    first, second = shards.rows.at([0, 1])
    lie, bad = replace(second, key=first.key), []
    assert list(sample_pipeline(shards, [lie], lambda row, error: bad.append((row, str(error))))) == []
    assert bad == [(lie, f"000000.tar at {second.offset}: contains {second.key} instead of {first.key}; render again")]


def test_every_row_is_read_or_reported_whatever_its_members_are_called(shards, tmp_path):
    def tar(*names: str) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as file:
            for name in names:
                file.addfile(tarfile.TarInfo(name))
            return buffer.getvalue()[: file.offset]

    rows = shards.rows.at([0, 1, 2, 3])
    pieces = [tar("nodot"), tar("k.json", "other.txt"), tar("k.__key__"), tar("k.json", "k.txt")]
    content, lies = b"".join(pieces), []
    for row, piece in zip(rows, pieces, strict=True):
        start = sum(lie.bytes for lie in lies)
        lies.append(replace(row, offset=start, bytes=len(piece), digest=digest_of(piece)))
    (tmp_path / "shards" / "shards" / "000000.tar").write_bytes(content)
    reported = []
    assert list(sample_pipeline(shards, lies, lambda row, error: reported.append(row))) == []
    assert reported == lies


def test_failure_of_the_storage_is_not_damage(shards, monkeypatch):
    def fail(*given: object, **options: object) -> bytes:
        raise PermissionError("ExpiredToken")

    monkeypatch.setattr(type(shards.filesystem), "cat_file", fail)
    with pytest.raises(ConnectionError, match="ExpiredToken"):
        list(sample_pipeline(shards, shards.rows.at([0]), lambda row, error: pytest.fail("reported as damage")))
