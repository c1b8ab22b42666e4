"""Runs under a URL: the same bytes as on a disk, atomic checkpoints, and no credentials in files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
import ray.train.torch
import torch
from botocore.exceptions import ConnectionClosedError
from typer.testing import CliRunner

from helpers import tiny_arch
from helpers.processes import wait_until
from helpers.samples import write_shard_set
from helpers.small_runs import timeless
from helpers.trees import contents, upload
from smile_pipe.cli.main import app
from smile_pipe.cli.next_command import next_command
from smile_pipe.pipeline.common.directory_lock import directory_lock
from smile_pipe.pipeline.common.finite_steps import DivergedError
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.stage import run as evaluate
from smile_pipe.pipeline.runs import tail_metrics
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_log import RunLog
from smile_pipe.pipeline.runs.status import status
from smile_pipe.pipeline.train import job as worker
from smile_pipe.pipeline.train import stage as train
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.stage import relative_shards_path
from smile_pipe.shards.errors import StorageError, UsageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath

LAST, BEFORE = "checkpoints/step-000008/", "checkpoints/step-000004/"


@pytest.fixture(scope="module")
def arch(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Towers of a few weights that accept any prompt."""
    text = tiny_arch.CONFIG["text_cfg"] | {"vocab_size": 49408}
    return tiny_arch.register(tmp_path_factory.mktemp("arch"), "tiny-remote-vit", text_cfg=text)


@pytest.fixture(scope="module")
def disk(arch: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards of eighteen samples, fifteen of them for training, and a run on them."""
    root = tmp_path_factory.mktemp("disk")
    write_shard_set(root / "shards", num_subjects=6, channels=("rgb",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_in_process", lambda config: True)
        train.run(config(root, arch))
    return root


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process, which is faster and allows fault injection."""
    monkeypatch.setattr(train, "_in_process", lambda config: True)


@pytest.fixture(params=["s3", "memory"])
def remote(request: pytest.FixtureRequest, disk: Path, tmp_path: Path) -> StoragePath:
    """A location that holds the shards and nothing else."""
    root = request.getfixturevalue("s3_url") if request.param == "s3" else f"memory://{tmp_path.name}"
    return upload(disk / "shards", StoragePath(f"{root}/faces/shards")).parent


@pytest.fixture
def bucket(disk: Path, s3_url: str) -> StoragePath:
    """The shards in an object store."""
    return upload(disk / "shards", StoragePath(f"{s3_url}/faces/shards")).parent


def config(root: StoragePath, arch: str, **options: object) -> TrainConfig:
    given = {"shards": f"{root}/shards", "out": root / "run", "epochs": 2, "batch_size": 4, "split": "kfold:6:0"}
    return TrainConfig.model_validate(given | {"arch": arch} | options)


def assert_same_run(found: StoragePath, expected: StoragePath) -> None:
    """Weights, options, manifest and losses are equal, and there is one TensorBoard file."""
    files, same = contents(found), contents(expected)
    tensorboards = [{name for name in some if name.startswith("tensorboard/")} for some in (files, same)]
    assert tensorboards[0] and files.keys() - tensorboards[0] == same.keys() - tensorboards[1]
    for name in ("manifest.json", "config.json", f"{LAST}model.safetensors", f"{BEFORE}model.safetensors"):
        assert files[name] == same[name], name
    assert timeless(found) == timeless(expected)


def test_run_under_url_equals_run_on_disk_and_reports_each_row_once(disk, remote, arch, in_process):
    reported: list[dict] = []
    train.run(config(remote, arch), reported.append)
    assert_same_run(remote / "run", disk / "run")
    assert [row["step"] for row in reported] == [5, 8]
    # A second call finds the run finished.
    train.run(config(remote, arch), lambda row: pytest.fail("trained again"))


def test_run_through_ray_is_equal_and_leaks_no_credentials(disk, bucket, ray_cluster, arch):
    # Workers know only architectures that are part of the package.
    options = ["--split=kfold:6:0", "--epochs=1", "--batch-size=4", "--debug"]
    code, printed = invoke("train", f"--shards={bucket}/shards", f"--out={bucket}/run", *options)
    assert code == 0, printed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "_in_process", lambda config: True)
        train.run(config(disk, "smile-nano", out=disk / "shipped", epochs=1))
    found, expected = contents(bucket / "run"), contents(disk / "shipped")
    assert {name for name in found if "tensorboard" not in name} == {n for n in expected if "tensorboard" not in n}
    assert found[f"{BEFORE}model.safetensors"] == expected[f"{BEFORE}model.safetensors"]
    assert_no_credentials(printed, found)


def invoke(*arguments: object) -> tuple[int, str]:
    """Exit code and output, without line wrapping."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "1000"})
    return result.exit_code, result.output


def assert_no_credentials(printed: str, files: dict[str, bytes]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ[name] not in printed
        assert not [file for file, content in files.items() if os.environ[name].encode() in content]


class TestCheckpoints:
    def test_interrupted_checkpoint_upload_is_ignored_on_resume(self, disk, bucket, arch, in_process, monkeypatch):
        plain = torch.save

        def stop(state: dict, file: Path) -> None:
            if state["step"] == 8:
                raise KeyboardInterrupt
            plain(state, file)

        monkeypatch.setattr(torch, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train.run(config(bucket, arch))
        monkeypatch.setattr(torch, "save", plain)
        left = contents(bucket / "run")
        assert f"{LAST}model.safetensors" in left and f"{LAST}state.pt" not in left and ".lock" not in left
        assert [checkpoint.step for checkpoint in RunDirectory(bucket / "run").checkpoints()] == [4]
        # The rows of all steps before a checkpoint are uploaded before it.
        assert [row["step"] for row in RunDirectory(bucket / "run").metrics()] == [5, 8]
        with pytest.raises(UsageError, match="`resume`"):
            train.run(config(bucket, arch))
        began: list[int] = []
        loaded = train.run(config(bucket, arch, resume=True), lambda row: began.append(row["step"]))
        assert loaded.num_steps == 8
        assert_same_run(bucket / "run", disk / "run")

    def test_checkpoint_being_replaced_is_not_listed(self, remote, monkeypatch):
        run = RunDirectory(remote / "run")
        run.save(4, {"weight": torch.zeros(2)}, {"step": 4}, keep=2)

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("smile_pipe.pipeline.runs.run_directory._save_weights", stop)
        with pytest.raises(KeyboardInterrupt):
            run.save(4, {"weight": torch.ones(2)}, {"step": 4}, keep=2)
        assert run.checkpoints() == []

    def test_old_and_incomplete_checkpoints_are_removed(self, remote):
        run = RunDirectory(remote / "run")
        for name in ("step-000001/model.safetensors", "notes/state.pt", "step-0x1/state.pt"):
            run.root.fs.pipe_file((run.checkpoints_path / name).path, b"")
        for step in (2, 3, 4):
            run.save(step, {"weight": torch.full((2,), float(step))}, {"step": step}, keep=2)
        whole = [f"step-{n:06d}/{name}" for n in (3, 4) for name in ("model.safetensors", "state.pt")]
        assert sorted(contents(run.checkpoints_path)) == ["notes/state.pt", *whole, "step-0x1/state.pt"]
        last = run.checkpoints()[-1]
        assert last.load_state() == {"step": 4} and torch.equal(last.load_model()["weight"], torch.full((2,), 4.0))


def learned() -> dict[str, float]:
    return {"temperature": 0.1}


class TestMetrics:
    losses = {"total": torch.tensor(1.0)}  # noqa: RUF012 - never changed

    def log(self, run: RunDirectory) -> RunLog:
        return RunLog(run, 0, 20, 4)

    def test_metrics_are_uploaded_periodically_and_at_checkpoints(self, remote, monkeypatch):
        run = RunDirectory(remote / "run")
        with self.log(run) as log:
            log.step(5, 0, self.losses, {"learning_rate": 0.1}, learned)
            assert run.metrics() == []
            log.publish()
            assert [row["step"] for row in run.metrics()] == [5]
            monkeypatch.setattr(log, "next_upload", 0.0)
            log.step(10, 0, self.losses, {"learning_rate": 0.1}, learned)
            assert [row["step"] for row in run.metrics()] == [5, 10]
            log.step(15, 0, self.losses, {"learning_rate": 0.1}, learned)
        assert [row["step"] for row in run.metrics()] == [5, 10, 15]
        # A resumed log keeps earlier rows.
        with self.log(run) as log:
            log.step(20, 0, self.losses, {"learning_rate": 0.1}, learned)
        assert [row["step"] for row in run.metrics()] == [5, 10, 15, 20]
        assert len(list(run.tensorboard_path.iterdir())) == 2 and not log.folder.exists()

    @pytest.mark.parametrize("error", [ConnectionError("the network is down"), ConnectionClosedError(endpoint_url="-")])
    def test_temporary_storage_failure_does_not_stop_the_run(self, remote, monkeypatch, error):
        run = RunDirectory(remote / "run")

        def fail(*_: object) -> None:
            raise error

        with self.log(run) as log, monkeypatch.context() as patch:
            patch.setattr(StoragePath, "write_atomically", fail)
            patch.setattr(log, "next_upload", 0.0)
            log.step(5, 0, self.losses, {"learning_rate": 0.1}, learned)
            with pytest.raises(type(error)):
                log.publish()
        assert [row["step"] for row in run.metrics()] == [5]

    def test_tail_reports_rows_while_they_are_written(self, remote, monkeypatch):
        monkeypatch.setattr(tail_metrics, "UPLOAD_SECONDS", 0.01)
        run, reported = RunDirectory(remote / "run"), []
        with tail_metrics.tail_metrics(run, lambda row: reported.append(row["step"])), self.log(run) as log:
            for step in (5, 10):
                log.step(step, 0, self.losses, {"learning_rate": 0.1}, learned)
                log.publish()
                wait_until(lambda: reported[-1:] == [step])  # noqa: B023 - not kept
        assert reported == [5, 10]

    def test_temporary_storage_failure_does_not_stop_the_tail(self, remote, monkeypatch):
        monkeypatch.setattr(tail_metrics, "UPLOAD_SECONDS", 0.01)
        run, reported, failed, size = RunDirectory(remote / "run"), [], [], tail_metrics._size

        def fail_once(directory: RunDirectory) -> int:
            if not failed:
                failed.append(directory)
                raise ConnectionClosedError(endpoint_url="-")
            return size(directory)

        with tail_metrics.tail_metrics(run, lambda row: reported.append(row["step"])), self.log(run) as log:
            monkeypatch.setattr(tail_metrics, "_size", fail_once)
            wait_until(lambda: bool(failed))
            log.step(5, 0, self.losses, {"learning_rate": 0.1}, learned)
            log.publish()
            wait_until(lambda: reported == [5], 10)
        assert failed == [run]


class TestInMemory:
    def test_memory_storage_trains_in_process(self, arch, tmp_path):
        for given in ({"out": "memory://nowhere/run"}, {"shards": "memory://nowhere/shards"}):
            assert train._in_process(config(tmp_path, arch, **given))
        assert not train._in_process(config(tmp_path, arch, shards="s3://b/shards", out="s3://b/run"))

    @pytest.mark.parametrize("option", [{"num_workers": 2}, {"use_gpu": True}])
    def test_memory_storage_refuses_workers_and_missing_gpu(self, disk, arch, option, tmp_path):
        if "use_gpu" in option and torch.cuda.is_available():
            pytest.skip("there is a GPU")
        out = StoragePath(f"memory://{tmp_path.name}/run")
        with pytest.raises(UsageError, match=r"num_workers 2|use_gpu"):
            train.run(config(disk, arch, out=out, **option))
        assert not out.exists()


@pytest.mark.parametrize("stage", ["train", "evaluate"])
@pytest.mark.parametrize("kind", ["disk", "bucket"])
def test_locked_run_is_refused_naming_the_holder(disk, arch, in_process, stage, kind, tmp_path, request, monkeypatch):
    root = shutil.copytree(disk, tmp_path / "copy") if kind == "disk" else request.getfixturevalue("bucket")
    if kind == "bucket":
        upload(disk / "run", root / "run")
    (root / "run" / "manifest.json").unlink() if stage == "train" else None
    before = contents(root)
    message = rf"process {os.getpid()} on .* is writing there"
    with directory_lock(root / "run"), pytest.raises(UsageError, match=message):
        if stage == "train":
            train.run(config(root, arch))
        else:
            evaluate(EvaluateConfig(run=root / "run", shards=f"{root}/shards"))
    assert contents(root) == before


def test_directory_with_only_own_lock_starts_a_new_run(disk, bucket, arch, in_process, monkeypatch):
    held = []
    monkeypatch.setattr(train, "train_in_process", lambda job: held.extend(contents(bucket / "run")) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train.run(config(bucket, arch))
    assert set(held) == {".lock", "config.json"}
    (bucket / "other" / "run" / "notes").write_text("not of a run")
    with pytest.raises(UsageError, match="holds files that are not of a run"):
        train.run(config(bucket, arch, out=bucket / "other" / "run"))


class TestCommands:
    @pytest.fixture
    def whole(self, disk: Path, remote: StoragePath) -> StoragePath:
        """Shards and run under a URL."""
        upload(disk / "run", remote / "run")
        return remote

    def test_evaluate_under_url_equals_disk(self, disk, whole):
        evaluate(EvaluateConfig(run=disk / "run", shards=f"{disk}/shards"))
        code, out = invoke("evaluate", whole / "run", "--shards", whole / "shards")
        assert code == 0 and f"{whole}/run/evaluation/report.html" in out
        assert contents(whole / "run" / "evaluation") == contents(disk / "run" / "evaluation")
        shutil.rmtree(disk / "run" / "evaluation")

    def test_inspect_reads_and_writes_urls(self, whole):
        code, out = invoke("inspect", whole / "shards", "--preview", whole / "views.png")
        assert code == 0 and "18 of 6 subjects" in out
        assert (whole / "views.png").read_bytes().startswith(b"\x89PNG")
        code, out = invoke("inspect", whole / "run")
        assert code == 0 and f"{whole}/run/checkpoints/step-000008" in out

    def test_status_under_url_shows_chain_and_next_command(self, whole):
        report = status(whole)
        assert [(row.kind, row.path, row.state, row.made_from) for row in report.rows] == [
            ("shards", "shards", "finished", ""),
            ("run", "run", "finished", "shards"),
        ]
        next_line = next_command(report.rows[1].next)
        assert next_line == f"smile-pipe evaluate {whole}/run --shards {whole}/shards"
        code, printed = invoke("status", whole)
        assert code == 0 and next_line in printed
        if str(whole).startswith("s3://"):
            assert report.rows[1].finished is not None
            assert [row.path for row in status(whole.parent).rows] == ["faces/shards", "faces/run"]

    def test_status_prefers_the_recorded_path_among_equal_shards(self, disk, whole):
        upload(disk / "shards", whole / "a-copy")
        assert {row.path: row.made_from for row in status(whole).rows}["run"] == "shards"


class TestWhereShardsLie:
    @pytest.mark.parametrize(
        ("run", "shards", "expected"),
        [
            ("s3://b/runs/one", "s3://b/shards", "../../shards"),
            ("s3://b/run", "s3://other/shards", "s3://other/shards"),
            ("s3://b/run", "memory://b/shards", "memory://b/shards"),
            ("memory://b/run", "memory://b/shards", "../shards"),
            ("/data/run", "s3://b/shards", "s3://b/shards"),
            ("s3://b/run", "/data/shards", "/data/shards"),
            ("/data/runs/one", "/data/shards", "../../shards"),
        ],
    )
    def test_relative_shards_path(self, run, shards, expected):
        filesystem, root = fsspec.core.url_to_fs(shards)
        part = SimpleNamespace(filesystem=filesystem, root=root)
        assert relative_shards_path(StoragePath(run), SimpleNamespace(parts=(part,))) == expected
        both = SimpleNamespace(parts=(part, part))
        assert relative_shards_path(StoragePath(run), both) == f"{expected}::{expected}"


class TestCredentials:
    def test_url_with_credentials_is_refused_without_repeating_them(self, disk, tmp_path):
        for options in (
            (f"--shards={disk}/shards", "--out=s3://bucket/run?aws_secret_key=hush"),
            ("--shards=s3://me:hush@bucket/shards", f"--out={tmp_path}/run"),
        ):
            code, printed = invoke("train", *options, "--debug")
            assert code == 2 and "credentials" in printed and "hush" not in printed

    def test_failed_run_shows_no_credentials(self, bucket, in_process):
        shards = ShardSet.open(f"{bucket}/shards")
        for path in (bucket / "shards" / "shards").iterdir():
            path.write_bytes(bytes(path.size()))
        # The cache may have intact copies.
        options = ["--split=kfold:6:0", "--debug", "--cache-gb=0"]
        code, printed = invoke("train", f"--shards={shards.spec}", f"--out={bucket}/run", *options)
        assert code == 1 and "Traceback" in printed and "cannot be read" in printed
        assert_no_credentials(printed, contents(bucket))


class TestWorker:
    """Behaviour of a worker that Ray restarts."""

    @pytest.fixture
    def ray_train(self, monkeypatch) -> Callable[[int], None]:
        """Returns a function that makes this process the last of several workers."""

        def patch(world_size: int) -> None:
            context = SimpleNamespace(get_world_rank=lambda: world_size - 1, get_world_size=lambda: world_size)
            monkeypatch.setattr(ray.train, "get_context", lambda: context)
            monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
            monkeypatch.setattr(ray.train, "report", lambda metrics, checkpoint: None)

        return patch

    @pytest.mark.parametrize("kind", [BadSampleError, DivergedError])
    @pytest.mark.parametrize("world_size", [1, 2])
    def test_no_worker_restarts_after_an_error_that_it_would_repeat(
        self, remote, arch, monkeypatch, ray_train, world_size, kind
    ):
        entered = []

        def fail(job: object, worker: object, report: object) -> None:
            entered.append(worker)
            raise kind("000001.tar: the sample F0001 cannot be read")

        ray_train(world_size)
        monkeypatch.setattr(worker, "train", fail)
        given = {"job": SimpleNamespace(config=config(remote, arch))}
        if world_size > 1:
            # The other workers wait for it until it fails.
            with pytest.raises(kind):
                worker.train_worker(given)
        else:
            worker.train_worker(given)
        worker.train_worker(given)
        assert len(entered) == 1
        error = worker.TrainScratch(remote / "run").final_error(world_size)
        assert type(error) is kind and str(error).startswith("000001.tar: the sample")

    def test_worker_resumes_after_storage_failure_without_skipping(self, disk, remote, arch, monkeypatch, ray_train):
        given, run = config(remote, arch, cache_mb=0, cache_gb=0, on_bad_shard="skip"), RunDirectory(remote / "run")
        shards, _, job = train.prepare(given, in_process=True)
        ray_train(1)
        read = shards.filesystem.cat_file

        def fail_after_a_checkpoint(path: str, **given: object) -> bytes:
            if path.endswith(".tar") and run.checkpoints():
                raise PermissionError("ExpiredToken")
            return read(path, **given)

        with monkeypatch.context() as patch:
            patch.setattr(shards.filesystem, "cat_file", fail_after_a_checkpoint)
            with pytest.raises(StorageError, match="ExpiredToken"):
                worker.train_worker({"job": job})
        assert [checkpoint.step for checkpoint in run.checkpoints()] == [4]
        # It left no note, so it is restarted.
        worker.train_worker({"job": job})
        assert run.skipped() == () and timeless(remote / "run") == timeless(disk / "run")
