"""Shards under a URL: the same bytes as on a disk, no partial files, no repeated work, no credentials."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.trees import contents
from smile_pipe.pipeline.common.expressions import EXPRESSIONS
from smile_pipe.pipeline.render import stage as render
from smile_pipe.pipeline.render.config import RenderConfig
from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath
from smile_pipe.shards.verify import verify_shards

OPTIONS = {"size": 32, "channels": ("rgb",), "rig": "3", "samples_per_shard": 4, "limit": 11}


def config(data_dir: Path, out: StoragePath | str, **options) -> RenderConfig:
    return RenderConfig(data_dir=data_dir, out=out, **(OPTIONS | options))


@pytest.fixture(scope="module")
def on_disk(faces_dir, ray_cluster, tmp_path_factory) -> Path:
    """The same shards, rendered to a disk."""
    out = tmp_path_factory.mktemp("on-disk") / "shards"
    render.run(config(faces_dir, out))
    return out


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Render in this process, which is faster, and in which tests can make the storage fail."""
    monkeypatch.setattr(render, "_in_process", lambda config: True)


def test_workers_write_the_same_bytes_to_an_object_store(faces_dir, ray_cluster, on_disk, s3_url):
    manifest = render.run(config(faces_dir, f"{s3_url}/a/shards"))
    assert manifest.num_samples == 11
    assert contents(StoragePath(f"{s3_url}/a/shards")) == contents(on_disk)
    assert [found for _, found in verify_shards(ShardSet.open(f"{s3_url}/a/shards")) if found] == []


def test_deaths_are_counted_on_local_disk_if_the_output_is_in_an_object_store(on_disk):
    """In the object store a count would take three requests a sample."""
    folder = RenderOutput(StoragePath("s3://bucket/a")).worker_deaths()
    assert StoragePath(folder) == Path(folder)
    assert folder != RenderOutput(StoragePath("s3://bucket/b")).worker_deaths()
    assert Path(RenderOutput(on_disk).worker_deaths()).is_relative_to(on_disk)


def test_memory_storage_is_written_in_this_process(faces_dir, on_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "ray_session", lambda address: pytest.fail("Ray was started"))
    url = f"memory://{tmp_path.name}/shards"
    seen = []
    render.run(config(faces_dir, url), lambda progress: seen.append(progress.num_done))
    assert contents(StoragePath(url)) == contents(on_disk)
    assert seen[-1] == 11


@pytest.mark.usefixtures("in_process")
class TestSecondRun:
    """A second run does only what is missing."""

    def test_a_second_run_writes_nothing(self, faces_dir, s3_url, monkeypatch):
        out = StoragePath(s3_url) / "shards"
        first = render.run(config(faces_dir, out))
        before = times(out)
        monkeypatch.setattr(render, "_job", lambda *_: pytest.fail("something was rendered"))
        assert render.run(config(faces_dir, out)) == first
        assert times(out) == before

    def test_an_interrupted_run_is_resumed(self, faces_dir, on_disk, s3_url, monkeypatch):
        out = StoragePath(s3_url) / "shards"
        with pytest.raises(KeyboardInterrupt):
            render.run(config(faces_dir, out), interrupt_after(5))
        before = {name: time for name, time in times(out).items() if name.startswith("shards/")}
        assert list(before) == ["shards/000000.tar"]
        assert not (out / "manifest.json").exists()
        render.run(config(faces_dir, out))
        assert contents(out) == contents(on_disk)
        assert times(out).items() >= before.items()

    def test_a_run_stopped_before_its_first_shard_can_be_resumed(self, faces_dir, s3_url):
        out = StoragePath(s3_url) / "shards"
        with pytest.raises(KeyboardInterrupt):
            render.run(config(faces_dir, out), interrupt_after(1))
        assert render.plan(config(faces_dir, out)).num_to_render == 11

    def test_a_folder_with_other_files_is_rejected(self, faces_dir, s3_url):
        (StoragePath(s3_url) / "thesis.tex").write_bytes(b"\\section")
        with pytest.raises(ValueError, match="holds files that are not of a render"):
            render.run(config(faces_dir, s3_url))

    def test_shards_without_samples_are_removed(self, faces_dir, s3_url):
        out = StoragePath(s3_url) / "shards"
        render.run(config(faces_dir, out))
        render.run(config(faces_dir, out, limit=4))
        assert {name for name in contents(out) if name.startswith("shards/")} == {"shards/000000.tar"}

    def test_a_deleted_shard_is_rendered_again(self, faces_dir, s3_url):
        out = StoragePath(s3_url) / "shards"
        render.run(config(faces_dir, out))
        before = contents(out)
        (out / "shards" / "000001.tar").unlink()
        assert render.plan(config(faces_dir, out)).num_to_render == 4
        render.run(config(faces_dir, out))
        assert contents(out) == before

    def test_changed_prompts_are_rewritten_around_the_same_images(self, faces_dir, s3_url, tmp_path):
        out, bank = StoragePath(s3_url) / "shards", tmp_path / "bank.yaml"
        render.run(config(faces_dir, out))
        bank.write_text("".join(f"{code}: [a face that shows {code}]\n" for code in EXPRESSIONS))
        plan = render.plan(config(faces_dir, out, prompts=bank))
        assert (plan.num_to_render, plan.num_to_rewrite) == (0, 11)
        render.run(config(faces_dir, out, prompts=bank))
        shards = ShardSet.open(str(out))
        assert {shards.read(row).text for row in shards.rows} == {f"a face that shows {e}" for e in EXPRESSIONS}
        assert [found for _, found in verify_shards(shards) if found] == []


@pytest.mark.usefixtures("in_process")
class TestFaults:
    """A storage that fails from time to time."""

    @pytest.mark.parametrize("fault", ["500", "503", "reset", "reset after it was done"])
    def test_temporary_faults_are_retried(self, faces_dir, on_disk, s3_url, faulty, fault):
        faulty.fault, faulty.every = fault, 4
        render.run(config(faces_dir, f"{s3_url}/shards"))
        num_faults = faulty.num_faults
        faulty.every = 0
        assert num_faults > 5
        assert contents(StoragePath(f"{s3_url}/shards")) == contents(on_disk)

    def test_a_permanent_storage_failure_is_an_error_and_leaves_no_partial_shard(
        self, faces_dir, on_disk, s3_url, faulty, monkeypatch
    ):
        out = StoragePath(s3_url) / "shards"
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        monkeypatch.setattr("s3fs.S3FileSystem.retries", 2)

        def fail_later(progress) -> None:
            if progress.num_done > 5:
                faulty.fault, faulty.every = "503", 1

        with pytest.raises(OSError, match=r"503|reduce your request rate|Service Unavailable|Slow"):
            render.run(config(faces_dir, out), fail_later)
        faulty.every = 0
        there = contents(out)
        assert "manifest.json" not in there
        done = contents(on_disk)
        assert {name: done[name] for name in there if name.startswith("shards/")} == {
            name: there[name] for name in there if name.startswith("shards/")
        }
        # The lock could not be removed, but it belongs to this process and does not block it.
        render.run(config(faces_dir, out))
        assert contents(out) == done


@pytest.mark.slow
def test_output_and_messages_contain_no_credentials(faces_dir, s3_url, monkeypatch):
    command = [Path(sys.executable).parent / "smile-pipe", "render", faces_dir, "--out", f"{s3_url}/shards"]
    options = ["--size", "32", "--channels", "rgb", "--limit", "3", "--debug", "--json"]
    done = subprocess.run([*command, *options], capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    written = contents(StoragePath(s3_url))
    assert "shards/manifest.json" in written
    said = b"".join([done.stdout, done.stderr, *written.values()])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name].encode() not in said


@pytest.mark.parametrize("where", ["data_dir", "--out"])
def test_a_url_with_credentials_is_rejected_without_repeating_them(where, tmp_path):
    url, command = "s3://name:hunter2@bucket/x", [Path(sys.executable).parent / "smile-pipe", "render"]
    arguments = [url, "--out", tmp_path / "x"] if where == "data_dir" else [tmp_path, "--out", url]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "credentials do not belong in a URL" in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def interrupt_after(num_done: int):
    def interrupt(progress) -> None:
        if progress.num_done >= num_done:
            raise KeyboardInterrupt

    return interrupt


def times(root: StoragePath) -> dict[str, object]:
    """The time of the last write of each object."""
    found = root.fs.find(root.path, detail=True)
    return {name.removeprefix(root.path).strip("/"): info["LastModified"] for name, info in found.items()}
