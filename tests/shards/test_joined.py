"""Several shard sets as one: what it contains, what is refused, and how texts name the sets."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from helpers.processes import wait_until
from helpers.samples import VIEWS, make_timeline, spoil, write_shard_set
from smile_pipe.pipeline.rendering.cameras import View
from smile_pipe.shards.cache import request_ahead
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import SampleRow
from smile_pipe.shards.joined import JoinedShardSet, open_sets
from smile_pipe.shards.manifest import joined_fingerprint
from smile_pipe.shards.reader import ShardError, ShardSet
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.urls import absolute_sets, schemes_of, split_sets


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sets; both have the subjects F0001 and F0002."""
    root = tmp_path_factory.mktemp("joined")
    write_shard_set(root / "a", 3, channels=("rgb", "depth"))
    write_shard_set(root / "b", 2, ("SU", "HA"), channels=("depth",), prompts={"SU": ("wow",), "HA": ("a smile",)})
    return root


def join(root: Path, *names: str) -> JoinedShardSet:
    joined = open_sets("::".join(str(root / name) for name in names))
    assert isinstance(joined, JoinedShardSet)
    return joined


class TestContents:
    def test_samples_of_both_sets_are_read_under_keys_with_their_number(self, pair):
        joined, own = join(pair, "a", "b"), [ShardSet.open(str(pair / name)) for name in "ab"]
        expected = [(f"{number}:{row.key}", each.read(row)) for number, each in enumerate(own, 1) for row in each.rows]
        assert len(expected) == len(joined.rows) == 13
        for row, (key, sample) in zip(joined.rows, expected, strict=True):
            read = joined.read(row)
            assert row.key == read.record.key == key
            assert (read.images, read.text) == (sample.images, sample.text)
            assert read.record.model_copy(update={"key": sample.record.key}) == sample.record
            assert joined.read_bytes(row)

    def test_persons_of_one_name_are_one(self, pair):
        joined = join(pair, "a", "b")
        assert joined.subjects == ("F0001", "F0002", "F0003")
        assert joined.manifest.num_subjects == 3
        assert {row.key[:2] for row in joined.of_subjects(["F0002"])} == {"1:", "2:"}

    def test_manifest_has_what_they_have_in_common_and_their_sums(self, pair):
        joined = join(pair, "a", "b")
        manifest, parts = joined.manifest, [each.manifest for each in joined.sets]
        assert manifest.settings["channels"] == ["depth"]
        assert manifest.channels == ("depth",) and manifest.views == parts[0].views
        assert (manifest.num_samples, manifest.num_sequences) == (13, 0)
        assert set(manifest.expressions) == {"HA", "SA", "NE", "SU"} and len(manifest.expressions) == 4
        assert manifest.prompts["HA"] == (*parts[0].prompts["HA"], "a smile") and manifest.prompts["SU"] == ("wow",)
        assert manifest.fingerprint == joined_fingerprint([each.fingerprint for each in parts])
        assert manifest.fingerprint not in [each.fingerprint for each in parts]

    def test_order_of_the_sets_matters(self, pair):
        assert join(pair, "a", "b").manifest.fingerprint != join(pair, "b", "a").manifest.fingerprint

    def test_shards_of_both_are_distinct_and_found(self, pair):
        joined = join(pair, "a", "b")
        assert len(set(joined.rows.codes("shard").tolist())) == sum(len(each.manifest.shards) for each in joined.sets)
        assert joined.shard_path("2:000000.tar") == joined.sets[1].shard_path("000000.tar")

    def test_set_numbers_of_a_selection(self, pair):
        joined = join(
            pair,
            "a",
            "b",
        )
        rows = joined.rows.where("expression", ["HA"])
        assert joined.set_numbers(rows).tolist() == [int(row.key[0]) - 1 for row in rows] == [0, 0, 0, 1, 1]
        assert joined.set_numbers(joined.rows).tolist() == [0] * 9 + [1] * 4

    def test_parts_of_sets_are_joined(self, pair):
        joined = open_sets(f"{pair}/a/shards/000001.tar::{pair}/b")
        assert [row.shard for row in joined.rows] == ["1:000001.tar"] * 4 + ["2:000000.tar"] * 4
        assert [joined.read(row).record.key for row in joined.rows] == [row.key for row in joined.rows]

    def test_one_set_is_itself(self, pair):
        alone = open_sets(str(pair / "a"))
        assert not isinstance(alone, JoinedShardSet) and alone.parts == (alone,)

    def test_damage_is_reported_as_of_one_set(self, pair, tmp_path):
        write_shard_set(tmp_path / "c", 4, channels=("depth",))
        spoil(tmp_path / "c", list(ShardSet.open(str(tmp_path / "c")).rows)[:1])  # type: ignore[arg-type]
        joined = open_sets(f"{pair / 'a'}::{tmp_path / 'c'}")
        damaged = joined.rows[9]
        with pytest.raises(ShardError, match="is damaged"):
            joined.read(damaged)
        assert joined.read(joined.rows[10]).record.key == joined.rows[10].key


class TestCopies:
    def test_shards_of_remote_sets_are_requested_and_copied(self, pair, tmp_path):
        memory = fsspec.filesystem("memory")
        memory.put(str(pair / "b"), f"/{tmp_path.name}/b", recursive=True)
        joined = open_sets(f"{pair / 'a'}::memory://{tmp_path.name}/b")
        assert joined.copies is None and not joined.is_near
        cached = joined.with_cache(tmp_path / "copies", 1 << 20)
        assert cached.is_near
        groups = [[row] for row in cached.rows]
        read = [cached.read(row).record.key for (row,) in request_ahead(cached.copies, groups)]
        assert read == [row.key for row in joined.rows]
        copied = {path.stem for path in (tmp_path / "copies").glob("*.tar")}
        assert copied == {entry.sha256 for each in joined.sets for entry in each.manifest.shards}
        memory.rm(f"/{tmp_path.name}", recursive=True)
        assert [cached.read(row).record.key for row in cached.rows] == read

    def test_requests_reach_the_set_of_each_shard(self, pair, tmp_path):
        cached = join(pair, "a", "b").with_cache(tmp_path / "copies", 1 << 20)
        assert cached.copies is not None and cached.copies.num_ahead >= 1
        cached.copies.request(["2:000000.tar"])
        wait_until(lambda: [path.stem for path in (tmp_path / "copies").glob("*.tar")])
        (copied,) = (path.stem for path in (tmp_path / "copies").glob("*.tar"))
        assert copied == cached.sets[1].manifest.shards[0].sha256

    def test_sets_without_a_cache_need_no_requests(self, pair, tmp_path):
        memory = fsspec.filesystem("memory")
        memory.put(str(pair / "b"), f"/{tmp_path.name}/b", recursive=True)
        mixed = open_sets(f"{pair / 'a'}::memory://{tmp_path.name}/b").with_cache(None, 1 << 20)
        assert mixed.copies is None
        half = replace(mixed, sets=(mixed.sets[0], mixed.sets[1].with_cache(tmp_path / "copies", 1 << 20)))
        assert half.copies is not None
        half.copies.request(["1:000000.tar", "2:000000.tar"])
        wait_until(lambda: [path for path in (tmp_path / "copies").glob("*.tar")])
        memory.rm(f"/{tmp_path.name}", recursive=True)

    def test_local_sets_are_near_without_copies(self, pair, tmp_path):
        joined = join(pair, "a", "b")
        assert joined.is_near and joined.with_cache(None, 1 << 20).copies is None


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"size": 24}, r"differ in image size \(16 and 24\)"),
            ({"views": VIEWS[:2]}, "differ in views"),
            ({"views": (VIEWS[0], View(name="left", yaw=20), VIEWS[2])}, "differ in views .*left:30:0.*left:20:0"),
            ({"channels": ("normal",)}, "have no channel in common"),
            ({"text_source": "geometry"}, r"differ in the source of their text \(label and geometry\)"),
        ],
    )
    def test_sets_that_show_other_things(self, pair, tmp_path, options: dict[str, Any], message):
        write_shard_set(tmp_path / "c", 4, **{"channels": ("rgb",)} | options)
        with pytest.raises(UsageError, match=message):
            open_sets(f"{pair / 'a'}::{tmp_path / 'c'}")

    @pytest.mark.parametrize(
        ("name", "value"), [("projection", "orthographic"), ("jitter_deg", 5.0), ("neutral", "estimate")]
    )
    def test_sets_of_other_cameras_or_captions(self, pair, tmp_path, name, value):
        write_shard_set(tmp_path / "c", 4, channels=("rgb",))
        path = tmp_path / "c" / "manifest.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"settings": record["settings"] | {name: value}}))
        with pytest.raises(UsageError, match=r"differ in (projection|camera jitter|choice of the neutral scan)"):
            open_sets(f"{pair / 'a'}::{tmp_path / 'c'}")

    def test_settings_of_older_shards_have_their_defaults(self, pair, tmp_path):
        write_shard_set(tmp_path / "c", 4, channels=("rgb",))
        path = tmp_path / "c" / "manifest.json"
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"settings": record["settings"] | {"projection": "perspective"}}))
        assert len(open_sets(f"{pair / 'a'}::{tmp_path / 'c'}").rows) == 9 + 12

    def test_sequences_with_other_frames(self, tmp_path):
        for name, frames in (("a", 2), ("b", 3)):
            write_shard_set(tmp_path / name, frames, channels=("rgb",), timelines=(make_timeline(channels=("rgb",)),))
            path = tmp_path / name / "manifest.json"
            record = json.loads(path.read_text())
            record["settings"]["sequences"] = {"num_frames": frames}
            path.write_text(json.dumps(record))
        with pytest.raises(UsageError, match="store different frames of sequences"):
            open_sets(f"{tmp_path / 'a'}::{tmp_path / 'b'}")

    def test_the_same_set_twice(self, pair):
        with pytest.raises(UsageError, match="is a part of a set that is named before"):
            join(pair, "a", "b", "a")

    def test_several_sets_where_one_is_needed(self, pair):
        with pytest.raises(UsageError, match="names several shard sets; name one"):
            ShardSet.open(f"{pair / 'a'}::{pair / 'b'}")

    def test_missing_set_is_named(self, pair):
        with pytest.raises(UsageError) as error:
            open_sets(f"{pair / 'a'}::{pair / 'gone'}")
        assert error.value.value == str(pair / "gone")


class TestNames:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a", ["a"]),
            ("a::b", ["a", "b"]),
            ("a::b::s3://x/c", ["a", "b", "s3://x/c"]),
            ("simplecache::s3://x/c", ["simplecache::s3://x/c"]),
            ("a::simplecache::s3://x/c::b", ["a", "simplecache::s3://x/c", "b"]),
            ("filecache::s3://x/c::blockcache::gs://y", ["filecache::s3://x/c", "blockcache::gs://y"]),
            ("zip://inner::s3://x/c.zip::b", ["zip://inner::s3://x/c.zip", "b"]),
            ("zip::b", ["zip", "b"]),
            ("memory://x::tar", ["memory://x", "tar"]),
            ("simplecache", ["simplecache"]),
            ("a::simplecache", ["a", "simplecache"]),
        ],
    )
    def test_text_is_split_into_sets_but_not_within_chained_urls(self, text, expected):
        assert split_sets(text) == expected

    def test_absolute_and_schemes_are_of_each_set(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert absolute_sets("a::simplecache::s3://x/b") == f"{tmp_path / 'a'}::simplecache::s3://x/b"
        assert schemes_of("a::memory://b") == {"", "memory"}


def test_joined_tables_have_the_values_of_each(pair):
    tables = [ShardSet.open(str(pair / name)).rows for name in "ab"]
    joined = SampleTable.joined([tables[0].where("expression", ["HA"]), tables[1]])
    rows = [row for table in (tables[0].where("expression", ["HA"]), tables[1]) for row in table]
    fields = [name for name in SampleRow.__dataclass_fields__ if name not in ("key", "shard")]
    for name in fields:
        assert [getattr(row, name) for row in joined] == [getattr(row, name) for row in rows], name
    assert np.array_equal(joined.codes("subject"), np.unique([row.subject for row in rows], return_inverse=True)[1])
