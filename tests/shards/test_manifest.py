"""Manifests: canonical JSON, fingerprints, atomic writing, and invalid manifests."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.samples import write_shard_set
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import ShardEntry, ShardManifest, canonical_json, fingerprint
from smile_pipe.shards.storage import StoragePath

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)

ENTRY = {"name": "000000.tar", "num_samples": 1, "bytes": 1, "sha256": "0", "fingerprint": "f"}


def backwards(value):
    """The same value with the keys of every mapping in the opposite order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def manifest_path(tmp_path: Path) -> Path:
    write_shard_set(tmp_path, num_subjects=1)
    return tmp_path / "manifest.json"


class TestCanonicalJson:
    @given(JSON)
    def test_is_json_and_does_not_depend_on_the_order_of_keys(self, value):
        assert canonical_json(value) == canonical_json(backwards(value))
        assert json.loads(canonical_json(value)) == value
        assert json.loads(canonical_json(value, indent=None)) == value

    def test_is_readable_text_with_one_final_newline(self):
        assert canonical_json({"b": 1, "a": "é"}) == '{\n  "a": "é",\n  "b": 1\n}\n'

    def test_the_compact_form_is_one_line(self):
        assert canonical_json({"b": [1, 2], "a": "two\nlines"}, indent=None) == '{"a":"two\\nlines","b":[1,2]}\n'


class TestFingerprint:
    @given(JSON)
    def test_does_not_depend_on_the_order_of_keys(self, value):
        assert fingerprint(value) == fingerprint(backwards(value))

    @given(JSON, JSON)
    def test_differs_between_values_that_differ(self, one, other):
        assert (fingerprint(one) == fingerprint(other)) == (canonical_json(one) == canonical_json(other))

    @given(JSON, JSON)
    def test_differs_if_parts_are_divided_differently(self, one, other):
        assert len({fingerprint(one, other), fingerprint([one, other]), fingerprint(one)}) == 3

    @pytest.mark.parametrize(("field", "value"), [("bytes", 2), ("name", "b"), ("sha256", ""), ("fingerprint", "x")])
    def test_differs_when_any_field_of_a_record_changes(self, field, value):
        entry = ShardEntry.model_validate(ENTRY)
        assert fingerprint(entry) != fingerprint(entry.model_copy(update={field: value}))

    def test_is_the_same_in_every_release_on_every_machine(self):
        # A change here makes every shard and run that exists stale: it must be meant.
        assert fingerprint({"a": 1.5, "b": ["é", None]}) == "c1b5baf848098d830e6fa7ec37d14bd8"


class TestWritingAtomically:
    def test_the_content_is_on_the_disk_before_it_has_the_name(self, tmp_path, monkeypatch):
        path, synced = tmp_path / "file", []
        path.write_bytes(b"old")

        def fsync(descriptor: int) -> None:
            synced.append((os.pread(descriptor, 100, 0), path.read_bytes()))

        monkeypatch.setattr(os, "fsync", fsync)
        StoragePath(path).write_atomically(b"new")
        assert synced == [(b"new", b"old")]


class TestManifests:
    def test_round_trip(self, manifest_path, tmp_path):
        manifest = ShardManifest.read(manifest_path)
        manifest.write(tmp_path / "again.json")
        assert ShardManifest.read(tmp_path / "again.json") == manifest
        assert (tmp_path / "again.json").read_bytes() == manifest_path.read_bytes()

    @pytest.mark.parametrize("more", [{}, {"color": "red"}])
    def test_other_schema_versions_are_refused_in_one_line(self, manifest_path, more):
        content = json.loads(manifest_path.read_bytes()) | {"schema_version": 4} | more
        manifest_path.write_text(json.dumps(content))
        with pytest.raises(UsageError) as error:
            ShardManifest.read(manifest_path)
        assert str(error.value).startswith(f"{manifest_path}: unknown schema version 4, this release")
        assert "reads version 2 and 3;" in str(error.value) and "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"num_samples": "many"}, "num_samples"),
            ({"shards": [{"name": "000000.tar"}]}, "shards.0.num_samples"),
            ({"shards": [ENTRY | {"name": "../../victim"}]}, "shards.0.name"),
            ({"shards": [ENTRY | {"name": "/000000.tar"}]}, "shards.0.name"),
            ({"shards": [ENTRY | {"name": "000000.tar\n"}]}, "shards.0.name"),
            ({"color": "red"}, "color"),
            ({"stage": "train"}, "stage"),
        ],
    )
    def test_invalid_field_is_named(self, manifest_path, change, named):
        manifest_path.write_text(json.dumps(json.loads(manifest_path.read_bytes()) | change))
        with pytest.raises(UsageError) as error:
            ShardManifest.read(manifest_path)
        assert f"{manifest_path}: not a valid ShardManifest ({named}: " in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"stage": "render"}'])
    def test_other_content_is_refused(self, manifest_path, content):
        manifest_path.write_bytes(content)
        with pytest.raises(UsageError, match="not a valid ShardManifest"):
            ShardManifest.read(manifest_path)

    def test_is_immutable(self, manifest_path):
        with pytest.raises(ValueError, match="frozen"):
            ShardManifest.read(manifest_path).num_samples = 0
