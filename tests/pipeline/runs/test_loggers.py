"""Where a training tells of itself: Weights & Biases beside the file, how long it waited, and the line of progress."""

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
from smile_pipe.pipeline.runs.loggers import check_wandb
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_log import RunLog
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath

# What a training asks of the real one, written down in a file.
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

    def test_it_gets_the_rows_that_the_file_gets(self, shards, tmp_path):
        asked = config(shards, tmp_path / "run", wandb="faces", validation=0.2)
        learn(shards, tmp_path / "run", wandb="faces", validation=0.2)
        rows = RunDirectory(tmp_path / "run").metrics()
        assert len(rows) > 3 and "validation_knn" in rows[-1]
        told = [{"step": log["step"], **log["row"]} for log in self.notes("log")]
        assert told == [{name: value for name, value in row.items() if name != "num_steps"} for row in rows]
        (load_run_config,) = self.notes("init")
        assert (
            load_run_config["project"],
            load_run_config["name"],
            load_run_config["id"],
            load_run_config["resume"],
        ) == ("faces", "run", None, None)
        assert load_run_config["dir"] == str(tmp_path / "run") and load_run_config["config"] == asked.recorded()
        assert len(self.notes("finish")) == 1
        found = json.loads((tmp_path / "run" / "wandb.json").read_text())
        assert found == {"id": "drawn-by-wandb", "project": "faces"}

    def test_a_run_that_goes_on_goes_on_there(self, shards, tmp_path, monkeypatch):
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(TrainStep, "begin_epoch", lambda self, is_new: stop() if self.optimizer.state else None)
            with pytest.raises(KeyboardInterrupt):
                learn(shards, tmp_path / "run", wandb="faces")
        learn(shards, tmp_path / "run", wandb="faces", resume=True)
        assert [(given["id"], given["resume"]) for given in self.notes("init")] == [
            (None, None),
            ("drawn-by-wandb", "allow"),
        ]
        # It is told of the end of each, however it came.
        assert len(self.notes("finish")) == 2

    def test_only_the_first_rank_tells(self, tmp_path):
        with RunLog(RunDirectory(tmp_path), 1, 20, 4, "faces"):
            pass
        assert not self.path.exists()

    def test_of_a_run_under_a_url_its_own_files_lie_on_this_machine(self, tmp_path):
        run = RunDirectory(StoragePath(f"memory://{tmp_path.name}/run"))
        with RunLog(run, 0, 20, 4, "faces") as log:
            assert self.notes("init")[0]["dir"] == str(log.folder)
        assert json.loads(run.wandb_path.read_text())["id"] == "drawn-by-wandb"


def test_without_it_installed_that_is_said_before_anything_is_written(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_wandb(None)
    with pytest.raises(UsageError, match=r"--wandb faces: .* is not installed; pip install 'smile-pipe\[wandb\]'"):
        learn(shards, tmp_path / "run", wandb="faces")
    assert not (tmp_path / "run").exists()


class TestWaiting:
    @pytest.fixture
    def clock(self, monkeypatch) -> list[float]:
        """Seconds that have passed; a test says when some pass."""
        now = [100.0]
        monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])
        return now

    def test_the_time_that_is_waited_for_batches_is_counted_and_no_other(self, tmp_path, clock):
        def batches():
            for number in range(3):
                clock[0] += 2.0
                yield number

        with RunLog(RunDirectory(tmp_path), 0, 20, 4) as log:
            for number in log.waiting(batches()):
                clock[0] += 6.0
                log.step(5 * (number + 1), 0, {}, 0.1, dict)
        rows = RunDirectory(tmp_path).metrics()
        assert [row["step"] for row in rows] == [5, 10, 15]
        assert [row["data_wait"] for row in rows] == [0.25, 0.25, 0.25]
        # Ten steps of four samples after the first that was told of, in 24 seconds.
        assert rows[-1]["samples_per_second"] == 1.7

    def test_batches_pass_as_they_are_and_their_errors_too(self, tmp_path):
        log = RunLog(RunDirectory(tmp_path), 0, 20, 4)
        assert list(log.waiting(["a", "b"])) == ["a", "b"]
        failing = log.waiting(1 / number for number in (1, 0))
        assert next(failing) == 1
        with pytest.raises(ZeroDivisionError):
            next(failing)

    def test_slow_reading_shows_and_slow_steps_do_not(self, shards, tmp_path, monkeypatch):
        for slow, name in ((ShardSet, "read"), (TrainStep, "step")):
            with monkeypatch.context() as patch:
                plain = getattr(slow, name)
                patch.setattr(slow, name, lambda *given, plain=plain: time.sleep(0.3) or plain(*given))
                learn(shards, tmp_path / name, epochs=1)
        waited = {name: RunDirectory(tmp_path / name).metrics()[-1]["data_wait"] for name in ("read", "step")}
        assert waited["read"] > 0.5 > waited["step"]


class TestProgress:
    row = {"epoch": 2, "loss_mv": 0.25, "loss_vl": 1.5, "loss_total": 1.525, "samples_per_second": 154.6}  # noqa: RUF012

    def test_the_line_tells_of_losses_and_speed(self):
        assert _note(self.row) == "epoch 3, loss 1.525, 155 samples/s (mv 0.250, vl 1.500)"

    def test_one_term_is_not_told_twice(self):
        one = {name: self.row[name] for name in self.row if name != "loss_mv"}
        assert _note(one) == "epoch 3, loss 1.525, 155 samples/s"

    def test_a_validation_stays_on_the_line(self):
        line = "epoch 3, loss 1.525, 155 samples/s, validation kNN 83.1 % (mv 0.250, vl 1.500)"
        assert _note(self.row | {"validation_knn": 0.8312}) == line

    @pytest.mark.parametrize("width", [72, 80, 120])
    def test_how_far_it_is_and_how_long_to_go_stand_on_a_narrow_line_too(self, width):
        progress = StageProgress("train", Console(file=io.StringIO(), force_terminal=True))
        progress.update(40, 400, _note(self.row))
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(progress.bar.get_renderable())
        (line,) = console.file.getvalue().splitlines()
        assert len(line) <= width and " 40/400 epoch 3, loss " in line and line.endswith(" 0:00:00 -:--:--")

    def test_one_that_comes_before_any_losses_is_told_alone(self):
        assert _note({"epoch": 0, "validation_knn": 0.5}) == "epoch 1, validation kNN 50.0 %"

    def test_the_command_tells_of_it_all(self, shards, tmp_path, monkeypatch):
        monkeypatch.setattr("smile_pipe.pipeline.train.stage._in_process", lambda config: True)
        options = ["--split=kfold:6:0", "--epochs=2", "--batch-size=4", f"--arch={small_runs.ARCH}", "--validation=0.2"]
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
