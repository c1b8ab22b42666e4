"""Verification: unchanged sets pass, and any change is found and attributed."""

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from botocore.exceptions import EndpointConnectionError
from typer.testing import CliRunner

from helpers.samples import write_shard_set
from smile_pipe.cli.main import app
from smile_pipe.shards.images import encode_image
from smile_pipe.shards.index import read_index, write_index
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.verify import Problem, verify_shards
from smile_pipe.shards.writer import digest_of, write_shard

TRIALS = 1000


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine samples in shards of four, four and one."""
    root = tmp_path_factory.mktemp("shards")
    write_shard_set(root, num_subjects=3, samples_per_shard=4, channels=("rgb", "depth"), size=8)
    return root


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def problems(root: Path | str, quick: bool = False) -> list[Problem]:
    return [problem for _, found in verify_shards(ShardSet.open(str(root)), quick) for problem in found]


def change_manifest(root: Path, **changes) -> None:
    manifest = ShardManifest.read(root / "manifest.json")
    manifest.model_copy(update=changes).write(root / "manifest.json")


def rewrite(root: Path, name: str, samples: list) -> None:
    """Replace a shard by one of other samples, with matching manifest and index."""
    entry, locations = write_shard(root / "shards" / name, samples)
    manifest = ShardManifest.read(root / "manifest.json")
    change_manifest(root, shards=tuple(entry if old.name == name else old for old in manifest.shards))
    rows = read_index(root / "index.parquet")
    places = iter(locations)
    write_index(
        root / "index.parquet",
        [replace(row, **vars(next(places))) if row.shard == name else row for row in rows],
    )


def test_unchanged_set_passes(written):
    assert problems(written) == [] and problems(written, quick=True) == []


def test_a_part_of_a_set_can_be_verified_alone(written):
    names = [name for name, _ in verify_shards(ShardSet.open(f"{written}/shards/000001.tar"))]
    assert names == ["000001.tar"]
    assert problems(f"{written}/shards/00000[12].tar") == []


def test_any_flipped_bit_in_a_shard_is_found_and_attributed(copy):
    rng = np.random.default_rng(0)
    path, rows = copy / "shards/000002.tar", ShardSet.open(str(copy)).rows
    whole = path.read_bytes()
    (row,) = (row for row in rows if row.shard == "000002.tar")
    for _ in range(TRIALS):
        place = int(rng.integers(len(whole)))
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(content)
        (found,) = problems(f"{copy}/shards/000002.tar")
        inside = row.offset <= place < row.offset + row.bytes
        assert (found.shard, found.key) == ("000002.tar", row.key if inside else "")
        assert ("is damaged" if inside else "outside of its samples") in found.what


@pytest.mark.parametrize("quick", [False, True])
def test_a_missing_and_a_truncated_shard_are_found_even_quickly(copy, quick):
    (copy / "shards/000000.tar").unlink()
    path = copy / "shards/000001.tar"
    path.write_bytes(path.read_bytes()[:-700])
    found = problems(copy, quick)
    assert Problem("000000.tar", "", "is missing") in found
    assert any(p.shard == "000001.tar" and "bytes, expected" in p.what for p in found)


def test_a_foreign_shard_is_found(copy):
    shutil.copy(copy / "shards/000000.tar", copy / "shards/000009.tar")
    assert problems(copy) == [Problem("000009.tar", "", "is not in the manifest")]


@pytest.mark.parametrize(("name", "neighbour"), [("set[1]", "set1"), ("set*", "set 2"), ("set?", "set3")])
def test_foreign_shard_is_found_in_a_set_with_wildcard_characters_in_its_name(copy, name, neighbour):
    root = copy.rename(copy.parent / name)
    for folder, strange in ((root, "000009.tar"), (copy.parent / neighbour, "000010.tar")):
        (folder / "shards").mkdir(parents=True, exist_ok=True)
        (folder / "shards" / strange).touch()
    (root / "shards/notes.txt").touch()
    assert problems(root) == [Problem("000009.tar", "", "is not in the manifest")]


def test_missing_shards_folder_has_no_unlisted_shards(copy):
    shutil.rmtree(copy / "shards")
    assert {problem.what for problem in problems(copy)} == {"is missing"}


def test_invalid_image_with_valid_digests_is_found(copy):
    shards = ShardSet.open(str(copy))
    sample = shards.read(shards.rows[-1])
    for image, what in ((b"GIF89a", "rgb image"), (encode_image("rgb", np.zeros((4, 4, 3), np.uint8)), "4 x 4 pixels")):
        rewrite(copy, "000002.tar", [replace(sample, images={**sample.images, ("left", "rgb"): image})])
        (found,) = problems(copy)
        assert (found.shard, found.key) == ("000002.tar", sample.record.key)
        assert found.what.startswith("left.rgb") and what in found.what


def test_a_label_that_differs_between_record_and_index_is_found(copy):
    shards = ShardSet.open(str(copy))
    sample = shards.read(shards.rows[-1])
    rewrite(copy, "000002.tar", [replace(sample, record=sample.record.model_copy(update={"subject": "F0009"}))])
    (found,) = problems(copy)
    assert found.what == "the subject is 'F0009' in its record and 'F0003' in the index"


def test_sample_without_a_member_is_found(copy):
    *others, row = read_index(copy / "index.parquet")
    path = copy / "shards/000002.tar"
    with tarfile.open(path) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in list(members.items())[:-1]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        end = tar.offset
    path.write_bytes(buffer.getvalue())
    manifest = ShardManifest.read(copy / "manifest.json")
    entry = manifest.shards[-1].model_copy(
        update={"bytes": len(buffer.getvalue()), "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
    )
    change_manifest(copy, shards=(*manifest.shards[:-1], entry))
    changed = replace(row, bytes=end, digest=digest_of(buffer.getvalue()[:end]))
    write_index(copy / "index.parquet", [*others, changed])
    (found,) = problems(copy)
    assert found.key == row.key and "right.depth" in found.what


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"num_subjects": 7}, "has 7 subjects, the index 3"),
        ({"num_sequences": 1}, "has 1 sequences, the index 0"),
        ({"expressions": ("HA", "NE")}, "the expression 'SA', which is not in the manifest"),
        ({"views": ("front",)}, "its views differ"),
        ({"channels": ("rgb",)}, "its channels differ"),
    ],
)
def test_manifest_that_differs_from_the_shards_is_found(copy, changes, what):
    change_manifest(copy, **changes)
    assert any(what in problem.what for problem in problems(copy))


def test_duplicate_and_overlapping_index_rows_are_found(copy):
    rows = read_index(copy / "index.parquet")
    write_index(copy / "index.parquet", [rows[0], rows[0], *rows[2:]])
    found = problems(copy, quick=True)
    assert Problem("", rows[0].key, "is in the index 2 times") in found
    assert any("starts at 0 in the index" in p.what for p in found)


def test_links_are_followed_and_unlisted_ones_are_reported(copy):
    shard = copy / "shards" / "000001.tar"
    shard.rename(copy / "elsewhere")
    shard.symlink_to(copy / "elsewhere")
    assert problems(copy) == []
    (copy / "shards" / "000009.tar").symlink_to(copy / "elsewhere")
    assert problems(copy) == [Problem("000009.tar", "", "is not in the manifest")]


class TestStorageFailure:
    """The storage fails for one shard of three; the others are verified."""

    @pytest.fixture
    def shards(self, written: Path, tmp_path: Path) -> ShardSet:
        root = f"/{tmp_path.name}/faces"
        fsspec.filesystem("memory").put(str(written), root, recursive=True)
        return ShardSet.open(f"memory:/{root}")

    @pytest.mark.parametrize("method", ["cat_file", "open"])
    @pytest.mark.parametrize("error", [PermissionError("ExpiredToken"), EndpointConnectionError(endpoint_url="-")])
    def test_failure_is_a_problem_with_a_reason(self, shards, monkeypatch, method, error):
        self.let_fail(shards, monkeypatch, method, error)
        found = dict(verify_shards(shards))
        assert found.pop("000001.tar") == [Problem("000001.tar", "", f"cannot be read: {error}")]
        assert list(found.values()) == [[], [], []]

    @pytest.mark.parametrize("error", [PermissionError("Access Denied"), EndpointConnectionError(endpoint_url="-")])
    def test_shards_are_verified_if_the_folder_cannot_be_listed(self, shards, monkeypatch, error):
        self.let_fail(shards, monkeypatch, "ls", error, where="shards")
        assert list(dict(verify_shards(shards)).values()) == [[], [], [], []]

    @pytest.mark.parametrize("error", [PermissionError("ExpiredToken"), EndpointConnectionError(endpoint_url="-")])
    def test_sizes_are_asked_for_one_by_one_if_the_folder_cannot_be_listed(self, shards, monkeypatch, error):
        self.let_fail(shards, monkeypatch, "ls", error, where="shards")
        self.let_fail(shards, monkeypatch, "size", error)
        found = dict(verify_shards(shards, quick=True))
        assert found.pop("000001.tar") == [Problem("000001.tar", "", f"cannot be read: {error}")]
        assert list(found.values()) == [[], [], []]

    def test_sizes_come_from_one_listing(self, shards, monkeypatch):
        asked = []
        monkeypatch.setattr(shards.filesystem, "size", asked.append)
        assert not [found for _, found in verify_shards(shards, quick=True) if found] and not asked

    def test_shard_removed_during_verification_is_missing(self, shards, monkeypatch):
        def vanish(path: str, *_: object) -> None:
            raise FileNotFoundError(path)

        monkeypatch.setattr(shards.filesystem, "open", vanish)
        assert dict(verify_shards(shards))["000000.tar"] == [Problem("000000.tar", "", "is missing")]

    def test_command_lists_the_failure(self, shards, monkeypatch):
        self.let_fail(shards, monkeypatch, "cat_file", PermissionError("ExpiredToken"))
        result = CliRunner().invoke(app, ["verify", shards.spec])
        assert result.exit_code == 1 and "000001.tar: cannot be read: ExpiredToken" in result.output

    def let_fail(
        self,
        shards: ShardSet,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
        error: Exception,
        where: str = "000001.tar",
    ) -> None:
        """Let the storage fail for all paths that contain `where`: by default the second shard."""
        asked = getattr(shards.filesystem, method)

        def ask(path: str, *given: object, **options: object) -> object:
            if path.endswith(where):
                raise error
            return asked(path, *given, **options)

        monkeypatch.setattr(shards.filesystem, method, ask)


class TestCommand:
    def test_reports_a_valid_set(self, written):
        result = CliRunner().invoke(app, ["verify", str(written)])
        assert result.exit_code == 0 and "9 samples in 3 shards, all as written" in result.output

    def test_fails_and_lists_problems_as_text_and_json(self, copy):
        (copy / "shards/000001.tar").unlink()
        result = CliRunner().invoke(app, ["verify", str(copy), "--quick"])
        assert result.exit_code == 1 and "000001.tar: is missing" in result.output
        result = CliRunner().invoke(app, ["verify", str(copy), "--quick", "--json"])
        listed = json.loads(result.stdout)["problems"]
        assert result.exit_code == 1 and listed == [{"shard": "000001.tar", "key": "", "what": "is missing"}]

    @pytest.mark.parametrize(("part", "num_shards"), [("", 3), ("/shards/00000[12].tar", 2)])
    def test_counts_all_selected_shards(self, written, monkeypatch, part, num_shards):
        reports = []
        monkeypatch.setattr(
            "smile_pipe.cli.progress.StageProgress.update", lambda _, done, total, note: reports.append((done, total))
        )
        CliRunner().invoke(app, ["verify", f"{written}{part}"])
        assert reports[-1] == (num_shards, num_shards) and sorted(reports) == reports

    @pytest.mark.parametrize("name", ["x[/b]", "[red]", ":smile:"])
    def test_names_from_the_data_are_listed_literally(self, copy, name):
        rows = read_index(copy / "index.parquet")
        write_index(copy / "index.parquet", [replace(rows[0], expression=name), *rows[1:]])
        what = f"the index has the expression {name!r}, which is not in the manifest"
        result = CliRunner().invoke(app, ["verify", str(copy), "--quick"])
        assert result.exit_code == 1 and f"{copy}: {what}\n" in result.stdout
        result = CliRunner().invoke(app, ["verify", str(copy), "--quick", "--json"])
        assert [problem["what"] for problem in json.loads(result.stdout)["problems"]] == [what]
        result = CliRunner().invoke(app, ["inspect", str(copy)])
        assert result.exit_code == 0 and f" {name} " in result.stdout
