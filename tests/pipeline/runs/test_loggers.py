"""Logs of a training: TensorBoard, Weights & Biases, waiting time for data, and the progress line."""

import io
import json
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from helpers import small_runs
from helpers.small_runs import config, learn
from smile_pipe.cli.commands.train import _note
from smile_pipe.cli.main import app
from smile_pipe.cli.progress import StageProgress
from smile_pipe.pipeline.runs import run_log
from smile_pipe.pipeline.runs.loggers import TensorBoardLogger, check_wandb
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_log import RunLog
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath

# Stands for the package wandb, and records its calls in a file.
FAKE = """
import json, os

def init(**given):
    run = Run(given.get("id") or "drawn-by-wandb")
    run.note("init", {name: value for name, value in given.items()})
    return run

class Run:
    def __init__(self, id):
        self.id = id
    def note(self, what, given):
        with open(os.environ["WANDB_NOTES"], "a") as file:
            file.write(json.dumps([what, given]) + "\\n")
    def log(self, row, step):
        self.note("log", {"step": step, "row": row})
    def finish(self):
        self.note("finish", {})
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


class TestTensorBoard:
    def test_tensorboard_reads_the_rows_of_the_file(self, shards, tmp_path):
        reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        learn(shards, tmp_path / "run", val_fraction=0.2)
        events = reader.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
        events.Reload()
        rows = RunDirectory(tmp_path / "run").metrics()
        names = {name for row in rows for name in row} - {"step", "num_steps"}
        assert set(events.Tags()["scalars"]) == names and {"loss_total", "validation_knn"} <= names
        for name in names:
            logged = [value for event in events.Scalars(name) for value in (event.step, event.value)]
            assert logged == pytest.approx([value for row in rows if name in row for value in (row["step"], row[name])])

    def test_resumed_run_keeps_the_files_of_the_run_before(self, tmp_path):
        for step in (1, 2):
            logger = TensorBoardLogger(tmp_path)
            logger.log({"step": step, "loss_total": 0.5})
            logger.close()
        assert len(list(tmp_path.iterdir())) == 2


class TestWandb:
    @pytest.fixture(autouse=True)
    def fake(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "packages").mkdir()
        (tmp_path / "packages" / "wandb.py").write_text(FAKE)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        monkeypatch.setenv("WANDB_NOTES", str(tmp_path / "notes"))
        self.path = tmp_path / "notes"
        yield
        sys.modules.pop("wandb", None)

    def notes(self, what: str) -> list[dict]:
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [given for name, given in lines if name == what]

    def test_wandb_receives_the_rows_of_the_file(self, shards, tmp_path):
        options = config(shards, tmp_path / "run", wandb="faces", val_fraction=0.2)
        learn(shards, tmp_path / "run", wandb="faces", val_fraction=0.2)
        rows = RunDirectory(tmp_path / "run").metrics()
        assert len(rows) > 3 and "validation_knn" in rows[-1]
        logged = [{"step": log["step"], **log["row"]} for log in self.notes("log")]
        assert logged == [{name: value for name, value in row.items() if name != "num_steps"} for row in rows]
        (init,) = self.notes("init")
        assert (init["project"], init["name"], init["id"], init["resume"]) == ("faces", "run", None, None)
        assert init["dir"] == str(tmp_path / "run") and init["config"] == options.recorded()
        assert len(self.notes("finish")) == 1
        found = json.loads((tmp_path / "run" / "wandb.json").read_text())
        assert found == {"id": "drawn-by-wandb", "project": "faces"}

    def test_resumed_run_continues_the_wandb_run(self, shards, tmp_path, monkeypatch):
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(TrainStep, "start_epoch", lambda self, is_resumed: stop() if self.optimizer.state else None)
            with pytest.raises(KeyboardInterrupt):
                learn(shards, tmp_path / "run", wandb="faces")
        learn(shards, tmp_path / "run", wandb="faces", resume=True)
        assert [(given["id"], given["resume"]) for given in self.notes("init")] == [
            (None, None),
            ("drawn-by-wandb", "allow"),
        ]
        # Each run is closed, also after an error.
        assert len(self.notes("finish")) == 2

    def test_only_rank_0_logs(self, tmp_path):
        with RunLog(RunDirectory(tmp_path), 1, 20, 4, "faces"):
            pass
        assert not self.path.exists()

    def test_wandb_files_of_remote_run_are_local(self, tmp_path):
        run = RunDirectory(StoragePath(f"memory://{tmp_path.name}/run"))
        with RunLog(run, 0, 20, 4, "faces") as log:
            assert self.notes("init")[0]["dir"] == str(log.folder)
        assert json.loads(run.wandb_path.read_text())["id"] == "drawn-by-wandb"


def test_missing_wandb_is_reported_before_writing(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_wandb(None)
    with pytest.raises(UsageError, match=r"wandb faces: .* is not installed; pip install 'smile-pipe\[wandb\]'"):
        learn(shards, tmp_path / "run", wandb="faces")
    assert not (tmp_path / "run").exists()


class TestWaiting:
    @pytest.fixture
    def clock(self, monkeypatch) -> list[float]:
        """A clock that the test advances."""
        now = [100.0]
        monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
        return now

    def test_data_wait_counts_only_waiting_for_batches(self, tmp_path, clock):
        def batches():
            for number in range(3):
                clock[0] += 2.0
                yield number

        with RunLog(RunDirectory(tmp_path), 0, 20, 4) as log:
            for number in log.time_batches(batches()):
                clock[0] += 6.0
                log.step(5 * (number + 1), 0, {}, {"learning_rate": 0.1}, dict)
        rows = RunDirectory(tmp_path).metrics()
        assert [row["step"] for row in rows] == [5, 10, 15]
        assert [row["data_wait"] for row in rows] == [0.25, 0.25, 0.25]
        # Ten steps of four samples after the first logged one, in 24 seconds.
        assert rows[-1]["samples_per_second"] == 1.7

    def test_time_batches_passes_batches_and_errors(self, tmp_path):
        log = RunLog(RunDirectory(tmp_path), 0, 20, 4)
        assert list(log.time_batches(["a", "b"])) == ["a", "b"]
        failing = log.time_batches(1 / number for number in (1, 0))
        assert next(failing) == 1
        with pytest.raises(ZeroDivisionError):
            next(failing)

    def test_data_wait_shows_slow_reading_and_not_slow_steps(self, shards, tmp_path, monkeypatch):
        for slow, name in ((ShardSet, "read_bytes"), (TrainStep, "step")):
            with monkeypatch.context() as patch:
                plain = getattr(slow, name)
                patch.setattr(slow, name, lambda *given, plain=plain: time.sleep(0.3) or plain(*given))
                learn(shards, tmp_path / name, epochs=1)
        waited = {name: RunDirectory(tmp_path / name).metrics()[-1]["data_wait"] for name in ("read_bytes", "step")}
        assert waited["read_bytes"] > 0.5 > waited["step"]


class TestProgress:
    row = {"epoch": 2, "loss_mv": 0.25, "loss_vl": 1.5, "loss_total": 1.525, "samples_per_second": 154.6}  # noqa: RUF012

    def test_progress_shows_losses_and_speed(self):
        assert _note(self.row) == "epoch 3, loss 1.525, 155 samples/s (mv 0.250, vl 1.500)"

    def test_progress_shows_a_single_term_once(self):
        one = {name: self.row[name] for name in self.row if name != "loss_mv"}
        assert _note(one) == "epoch 3, loss 1.525, 155 samples/s"

    def test_progress_keeps_the_last_validation(self):
        line = "epoch 3, loss 1.525, 155 samples/s, validation kNN 83.1 % (mv 0.250, vl 1.500)"
        assert _note(self.row | {"validation_knn": 0.8312}) == line

    @pytest.mark.parametrize("width", [72, 80, 120])
    def test_progress_fits_a_narrow_terminal(self, width):
        progress = StageProgress("train", Console(file=io.StringIO(), force_terminal=True))
        progress.update(40, 400, _note(self.row))
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(progress.bar.get_renderable())
        (line,) = console.file.getvalue().splitlines()
        assert len(line) <= width and " 40/400 epoch 3, loss " in line and line.endswith(" 0:00:00 -:--:--")

    def test_validation_before_any_loss(self):
        assert _note({"epoch": 0, "validation_knn": 0.5}) == "epoch 1, validation kNN 50.0 %"

    def test_command_prints_progress_and_summary(self, shards, tmp_path, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.train.stage._in_process", lambda config: True)
        options = [
            "--split=kfold:6:0",
            "--epochs=2",
            "--batch-size=4",
            f"--arch={small_runs.ARCH}",
            "--val-fraction=0.2",
        ]
        result = CliRunner().invoke(
            app, ["train", f"--shards={shards}", f"--out={tmp_path}/run", *options], env={"COLUMNS": "1000"}
        )
        rows = RunDirectory(tmp_path / "run").metrics()
        accuracy = f"{100 * rows[-1]['validation_knn']:.1f} %"
        waited = f"{100 * rows[-2]['data_wait']:.1f} %"
        assert result.exit_code == 0, result.output
        assert f"waited {waited} for data; losses: " in result.output
        assert f", validation kNN {accuracy}\n" in result.output
        assert "6 steps on 12 samples of 4 subjects in" in result.output
