"""A data directory of untrusted files: every bad scan is a failure with a reason, and all other scans are rendered."""

import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections import Counter
from typing import Any

import pytest

from helpers.hostile import Entry, HostileData, lay_out, write_table
from helpers.hostile_good import GOOD
from helpers.paths import REPOSITORY
from smile_pipe.pipeline.datasets import find_samples
from smile_pipe.pipeline.datasets.file_index import printable
from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.reader import read_mesh
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.stage import run
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import read_failures
from smile_pipe.shards.reader import ShardSet

pytestmark = pytest.mark.fuzz

_MOST_BYTES = 1 << 30
_SECONDS = 90
# Internal details that a message must not contain: a place in the code, the name of an exception.
_INTERNALS = re.compile(r" at \w+\.py:\d+|\w+(Error|Exception)\b|Errno|Traceback|BadZip|object at 0x")
_LONGEST_REASON = 200


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> HostileData:
    return lay_out(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def report(hostile: HostileData) -> dict[str, Any]:
    """Report of a process that reads all of it; see `helpers.hostile_reading`."""
    path = filter(None, (str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH")))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, str(REPOSITORY / "tests" / "helpers" / "hostile_reading.py"), str(hostile.root)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_SECONDS, cwd=hostile.outside, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_bad_files_cover_every_format_and_kind(hostile):
    kinds = Counter(entry.kind.partition(":")[0] for entry in hostile.bad)
    assert len(hostile.bad) > 800 and len({entry.mesh for entry in hostile.bad}) == len(hostile.bad)
    assert kinds.keys() >= {*GOOD, "texture", "landmarks", "mesh place", "texture place"}
    assert min(kinds.values()) >= 10


def test_every_bad_file_fails_and_every_good_file_is_rendered(hostile, report):
    assert report["failures"].keys() == {entry.mesh for entry in hostile.bad}
    assert report["surfaces"].keys() == {entry.mesh for entry in (*hostile.odd, *hostile.good)}


def test_every_reason_names_the_file_and_is_readable(hostile, report):
    wrong = [
        (entry.kind, report["failures"].get(entry.mesh))
        for entry in hostile.bad
        if not _is_readable(entry, hostile, report)
    ]
    assert wrong == []


def _is_readable(entry: Entry, hostile: HostileData, report: dict[str, Any]) -> bool:
    name, reason = f"{printable(entry.culprit)}: ", report["failures"].get(entry.mesh, "")
    problem = reason.removeprefix(name)
    return (
        reason.startswith(name)
        and reason.isprintable()
        and 10 < len(problem) < _LONGEST_REASON
        and not _INTERNALS.search(problem)
        and str(REPOSITORY) not in problem
        and str(hostile.root.parent) not in problem
    )


def test_no_file_outside_the_data_directory_is_opened_and_no_code_is_run(hostile, report):
    assert report["violations"] == []
    assert not list(hostile.outside.parent.rglob("unpickled"))


def test_memory_of_the_process_is_bounded(report):
    assert report["peak"] < _MOST_BYTES, (
        f"{report['peak'] >> 20} MiB, and {report['baseline'] >> 20} MiB with good scans"
    )


def test_invalid_texture_references_give_plain_scans(hostile, report):
    assert {entry.kind for entry in hostile.odd if report["surfaces"][entry.mesh] != "plain"} == set()


def test_ray_renders_good_scans_and_records_bad_ones_as_failures(hostile, report, ray_cluster, tmp_path):
    config = RenderConfig(
        data_dir=hostile.root, out=tmp_path / "out", size=16, channels=("rgb",), samples_per_shard=200
    )
    manifest = run(config)
    failures = {row.source: row for row in read_failures(tmp_path / "out/failures.parquet")}
    assert {source: row.reason for source, row in failures.items()} == report["failures"]
    assert {row.stage for row in failures.values()} == {"read", "render"}
    shards = ShardSet.open(str(tmp_path / "out"))
    surfaces = {shards.read(row).record.source: row.surface for row in shards.rows}
    assert surfaces == report["surfaces"] and manifest.num_failures == len(hostile.bad)
    # Unread files are recorded by size and time, so that a later repair is detected.
    assert all(row.sources for row in failures.values())


class TestWholeDataset:
    @pytest.mark.parametrize(
        ("paths", "reason"),
        [
            (("a b.obj", "a-b.obj"), "two files have the same key a-b: a b.obj and a-b.obj; rename or remove one"),
            (("a.obj", "a.ply"), "two files have the same key a"),
            (("../outside/trap.obj",), "is outside the data directory"),
            (("/etc/passwd",), "is outside the data directory"),
            (("x/../../trap.obj",), "is outside the data directory"),
            (("..\\outside\\trap.obj",), "is outside the data directory"),
            (("folder.obj",), "the folder 'folder.obj' holds no mesh itself"),
            (("linked.obj",), "links to folders are not followed"),
        ],
    )
    def test_invalid_table_is_rejected(self, tmp_path, paths, reason):
        root = tmp_path / "data"
        (root / "folder.obj").mkdir(parents=True)
        (root / "linked.obj").symlink_to(tmp_path)
        for name in ("a b.obj", "a-b.obj", "a.obj", "a.ply"):
            (root / name).write_bytes(GOOD["obj"])
        write_table(root, [Entry("", path) for path in paths])
        with pytest.raises(UsageError, match=re.escape(reason)) as error:
            find_samples(root, "auto")
        assert str(error.value).isprintable()

    def test_names_that_are_not_utf8_are_reported_as_skipped(self, tmp_path):
        (tmp_path / "a.obj").write_bytes(GOOD["obj"])
        (tmp_path / os.fsdecode(b"\xff\xfe.obj")).write_bytes(GOOD["obj"])
        write_table(tmp_path, [Entry("", "a.obj")])
        found = find_samples(tmp_path, "auto")
        assert [sample.key for sample in found.samples] == ["a"]
        assert r"\xff\xfe.obj: name is not UTF-8; rename the file" in found.skipped

    @pytest.mark.parametrize("target", ["self.wrl", "../data/self.wrl", "self.wrl/x"])
    def test_cyclic_link_does_not_hide_other_scans(self, tmp_path, target):
        root = tmp_path / "data"
        root.mkdir()
        (root / "self.wrl").symlink_to(target)
        (root / "F0001_AN01WH_F3D.wrl").write_bytes(GOOD["wrl"])
        assert [sample.key for sample in find_samples(root, "auto").samples] == ["F0001_AN01WH"]


@pytest.mark.parametrize(
    ("name", "content", "most", "reason"),
    [
        ("lines.off", b"OFF\n1 1 0\n" + b"\n0" * 1_500_000, 16 << 20, "too many short lines"),
        (
            "lines.stl",
            b"solid\nfacet\n" + b"a\n" * 500_000 + b"vertex 1\n",
            24 << 20,
            "needs both|not a multiple of nine",
        ),
        (
            "nodes.wrl",
            b"#VRML V2.0 utf8\n" + (b"A{" + b"B{}" * 20_000) * 5,
            72 << 20,
            "too many nodes: the limit is 65536",
        ),
    ],
)
def test_many_small_parts_take_bounded_memory(tmp_path, name, content, most, reason):
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    with pytest.raises(MeshError, match=f"{name}: .*({reason})"):
        read_mesh(tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most


def test_pipe_is_rejected_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.obj")
    with pytest.raises(MeshError, match="not a regular file"):
        read_mesh(tmp_path / "pipe.obj")
