"""Where a chain of stages stands, told from what lies in a folder; manifests are written here without any training."""

import json
import os
import shlex
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.run_manifests import run_manifest
from helpers.samples import write_shard_set
from smile_pipe.cli.main import app
from smile_pipe.pipeline.runs import run_index
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.status import StatusReport, StatusRow, status
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.stage import shards_from
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet


def write_run(root: Path, shards: Path, *, finished: bool = True, **options: object) -> None:
    """What a run on `shards` leaves, but for its weights."""
    opened = ShardSet.open(str(shards))
    given = TrainConfig.model_validate({"shards": str(shards), "out": root, "split": "kfold:3:0"} | options)
    (root / "checkpoints" / "step-000004").mkdir(parents=True)
    (root / "checkpoints" / "step-000004" / "state.pt").touch()
    about = {
        "fingerprint": "0123456789abcdef",
        "shards": shards_from(root, opened),
        "shards_fingerprint": opened.manifest.fingerprint,
        "train": given.recorded(),
    }
    (root / "config.json").write_text(json.dumps(about))
    (root / "metrics.jsonl").write_text('{"step": 2, "num_steps": 8}\n{"step": 4, "num_steps": 8}\n')
    if finished:
        run_manifest(opened.manifest.fingerprint).write(root / "manifest.json")


def write_evaluation(run: Path, **changes: str) -> None:
    """What an evaluation of a run on its own shards leaves."""
    about = RunManifest.read(run / "manifest.json")
    fields = {"run_fingerprint": about.fingerprint, "shards_fingerprint": about.shards_fingerprint} | changes
    (run / "evaluation").mkdir(exist_ok=True)
    EvaluationManifest(
        **fields,
        fingerprint="fedcba9876543210",
        split="kfold:3:0",
        where=None,
        text_source="label",
        temporal="none",
        max_frames=16,
        recipe="smile-vlm",
        classes=("HA",),
        num_subjects=1,
        num_scans=3,
        num_sequences=0,
        num_frames=0,
        protocols={},
    ).write(run / "evaluation" / "manifest.json")


def render_again(shards: Path, size: int = 24) -> None:
    shutil.rmtree(shards)
    write_shard_set(shards, size=size, channels=("rgb",))


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A folder with shards, a run on them and its evaluation."""
    write_shard_set(tmp_path / "shards", channels=("rgb",))
    write_run(tmp_path / "run", tmp_path / "shards")
    write_evaluation(tmp_path / "run")
    return tmp_path


def rows(root: Path) -> dict[str, StatusRow]:
    """Rows by path."""
    found = status(root).rows
    assert len({row.path for row in found}) == len(found)
    return {row.path: row for row in found}


def states(root: Path) -> dict[str, str]:
    return {path: row.state for path, row in rows(root).items()}


def command(row: StatusRow) -> Sequence[str]:
    """The words of what to type next."""
    return shlex.split(row.next)


class TestWhatIsThere:
    def test_a_chain_is_told_from_end_to_end(self, chain):
        shards, run, evaluation = status(chain).rows
        assert [(row.kind, row.path) for row in (shards, run, evaluation)] == [
            ("shards", "shards"),
            ("run", "run"),
            ("evaluation", "run/evaluation"),
        ]
        assert {row.state for row in (shards, run, evaluation)} == {"finished"}
        assert shards.counts == {"shards": 3, "samples": 9, "subjects": 3, "failures": 0}
        assert run.counts == {"steps": 8, "samples": 6, "skipped": 1} and evaluation.counts["samples"] == 3
        assert (shards.made_from, run.made_from, evaluation.made_from) == ("", "shards", "run")
        assert shards.fingerprint == ShardManifest.read(chain / "shards" / "manifest.json").fingerprint
        assert (run.fingerprint, evaluation.fingerprint) == ("0123456789abcdef", "fedcba9876543210")
        assert all(row.next == "" for row in (shards, run, evaluation))

    def test_when_it_was_finished_is_when_its_manifest_was_written(self, chain):
        os.utime(chain / "shards" / "manifest.json", (1.7e9, 1.7e9))
        assert rows(chain)["shards"].finished.timestamp() == 1.7e9

    @pytest.mark.parametrize("name", ["shards", "run"])
    def test_a_single_output_is_told_too(self, chain, name):
        assert status(chain / name).rows[0].path == "."

    def test_outputs_are_found_two_levels_deep_and_no_deeper(self, chain, tmp_path):
        for place in ("a/b", "c/d/e"):
            shutil.copytree(chain / "shards", chain / place)
        assert set(rows(chain)) == {"shards", "run", "run/evaluation", "a/b"}

    def test_an_empty_folder_gives_an_empty_report_and_a_missing_one_an_error(self, tmp_path):
        assert status(tmp_path).rows == ()
        with pytest.raises(UsageError, match="no such directory"):
            status(tmp_path / "nowhere")

    def test_nothing_is_written_and_no_shard_is_opened(self, chain, monkeypatch):
        before = {path: path.stat().st_mtime_ns for path in chain.rglob("*")}
        monkeypatch.setattr(ShardSet, "open", lambda spec: pytest.fail("opened shards"))
        status(chain)
        assert {path: path.stat().st_mtime_ns for path in chain.rglob("*")} == before


class TestUnfinished:
    def test_shards_without_a_manifest_are_counted_by_their_receipts(self, chain):
        (chain / "shards" / "manifest.json").unlink()
        (chain / "shards" / ".progress").mkdir()
        for number in range(2):
            (chain / "shards" / ".progress" / f"{number:06d}.tar.json").write_text("{}")
        found = rows(chain)
        assert (found["shards"].state, found["shards"].about) == ("unfinished", "unfinished, 2 shards so far")
        assert found["shards"].finished is None and "render" in command(found["shards"])
        assert (found["run"].state, found["run"].about) == ("stale", "stale: the shards are not finished")
        assert found["run/evaluation"].state == "stale"

    def test_a_run_tells_its_step_and_how_to_go_on_with_the_same_options(self, tmp_path):
        write_shard_set(tmp_path / "shards", channels=("rgb",))
        where = "expression != 'HA' and level >= 3"
        write_run(tmp_path / "run", tmp_path / "shards", finished=False, epochs=3, where=where, use_gpu=True)
        row = rows(tmp_path)["run"]
        assert (row.state, row.about) == ("unfinished", "unfinished, step 4 of 8")
        program, stage, *options = command(row)
        assert (program, stage) == ("smile-pipe", "train") and options[-1] == "--resume" and "--use-gpu" in options
        pairs = dict(pairwise(options))
        assert (pairs["--epochs"], pairs["--where"], pairs["--split"]) == ("3", where, "kfold:3:0")
        assert (pairs["--shards"], pairs["--out"]) == (str(tmp_path / "shards"), str(tmp_path / "run"))
        assert "--batch-size" not in options

    def test_a_run_that_has_not_begun_its_metrics_is_at_step_0(self, tmp_path):
        write_shard_set(tmp_path / "shards", channels=("rgb",))
        write_run(tmp_path / "run", tmp_path / "shards", finished=False)
        for text in ("", "{broken", '["a list"]\n'):
            (tmp_path / "run" / "metrics.jsonl").write_text(text)
            assert rows(tmp_path)["run"].counts == {"step": 0, "steps": 0}
        (tmp_path / "run" / "metrics.jsonl").unlink()
        assert rows(tmp_path)["run"].about == "unfinished, step 0 of 0"

    def test_a_metrics_line_that_is_being_written_is_not_yet_told(self, tmp_path):
        write_shard_set(tmp_path / "shards", channels=("rgb",))
        write_run(tmp_path / "run", tmp_path / "shards", finished=False)
        with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
            file.write('{"step": 6, "num_st')
        assert rows(tmp_path)["run"].counts == {"step": 4, "steps": 8}

    def test_what_comes_next_is_said_at_the_end_of_the_chain(self, tmp_path):
        write_shard_set(tmp_path / "shards", channels=("rgb",))
        assert command(rows(tmp_path)["shards"])[:4] == ["smile-pipe", "train", "--shards", str(tmp_path / "shards")]
        write_run(tmp_path / "run", tmp_path / "shards")
        found = rows(tmp_path)
        assert found["shards"].next == ""
        words = ["smile-pipe", "evaluate", str(tmp_path / "run"), "--shards", str(tmp_path / "shards")]
        assert command(found["run"]) == words


class TestStale:
    def test_a_run_whose_shards_were_rendered_again_is_stale_and_so_is_its_evaluation(self, chain):
        render_again(chain / "shards")
        found = rows(chain)
        assert states(chain) == {"shards": "finished", "run": "stale", "run/evaluation": "stale"}
        assert found["run"].about == "stale: the shards changed since" and found["run"].made_from == "shards"
        assert command(found["run"])[:4] == ["smile-pipe", "train", "--out", "NEW_RUN"]
        # Scoring a stale run anew would not help.
        assert found["run/evaluation"].next == ""

    def test_an_unfinished_run_on_changed_shards_cannot_be_gone_on_with(self, chain):
        (chain / "run" / "manifest.json").unlink()
        render_again(chain / "shards")
        row = rows(chain)["run"]
        assert row.state == "stale" and "--resume" not in command(row)

    def test_shards_rendered_again_to_the_same_content_leave_it_as_it_is(self, chain):
        render_again(chain / "shards", size=16)
        assert set(states(chain).values()) == {"finished"}

    def test_an_evaluation_of_another_run_is_stale(self, chain):
        write_evaluation(chain / "run", run_fingerprint="another")
        row = rows(chain)["run/evaluation"]
        assert (row.state, row.about) == ("stale", "of another run than there is now")
        assert command(row)[:2] == ["smile-pipe", "evaluate"]

    def test_an_evaluation_on_another_dataset_is_told_by_that_dataset(self, chain):
        write_shard_set(chain / "other", size=24, channels=("rgb",))
        other = ShardManifest.read(chain / "other" / "manifest.json").fingerprint
        write_evaluation(chain / "run", shards_fingerprint=other)
        assert (rows(chain)["run/evaluation"].state, rows(chain)["run/evaluation"].about) == ("finished", "on other")
        shutil.rmtree(chain / "other")
        assert rows(chain)["run/evaluation"].about == f"on shards {other[:8]}, which are not here, or not any more"

    def test_a_chain_that_was_moved_as_a_whole_is_not_stale(self, chain):
        (chain / "inside").mkdir()
        for name in ("shards", "run"):
            (chain / name).rename(chain / "inside" / name)
        # A set with the same content elsewhere is not taken for the run's own.
        shutil.copytree(chain / "inside" / "shards", chain / "a-copy")
        assert rows(chain)["inside/run"].made_from == "inside/shards"
        assert set(states(chain).values()) == {"finished"}

    def test_shards_that_lie_elsewhere_are_said_to(self, chain):
        row = status(chain / "run").rows[0]
        assert row.state == "finished" and row.made_from == "" and "which are not here" in row.about

    def test_moved_shards_are_known_by_their_content(self, chain):
        (chain / "shards").rename(chain / "renamed")
        assert rows(chain)["run"].made_from == "renamed" and rows(chain)["run"].state == "finished"


BROKEN = [
    b"",
    b"{",
    b"[1, 2]",
    b"\xff\xfe",
    b'{"stage": "render"}',
    b'{"stage": "train", "schema_version": 99}',
    b"[" * 10**5,
]


class TestDamage:
    @pytest.mark.parametrize("content", BROKEN)
    @pytest.mark.parametrize("name", ["shards", "run", "run/evaluation"])
    def test_a_broken_manifest_is_told_in_its_row_and_the_others_stay(self, chain, name, content):
        (chain / name / "manifest.json").write_bytes(content)
        found = rows(chain)
        assert set(found) == {"shards", "run", "run/evaluation"}
        assert found[name].state == "damaged" and "manifest.json" in found[name].about

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"shards": 7, "train": [], "shards_fingerprint": 5}', b"\xff"])
    def test_a_broken_config_of_a_run_does_no_harm(self, chain, content):
        (chain / "run" / "config.json").write_bytes(content)
        assert states(chain) == {"shards": "finished", "run": "finished", "run/evaluation": "finished"}

    def test_a_manifest_that_is_no_file_or_far_too_large_is_not_read(self, chain, monkeypatch):
        (chain / "shards" / "manifest.json").unlink()
        os.mkfifo(chain / "shards" / "manifest.json")
        assert rows(chain)["shards"].about == "manifest.json is no file"
        monkeypatch.setattr(run_index, "MAX_BYTES", 1000)
        (chain / "run" / "manifest.json").write_bytes(b" " * 1001)
        assert "which no stage writes" in rows(chain)["run"].about

    def test_shards_that_are_gone_or_cut_are_told_with_verify_as_the_next_step(self, chain):
        (chain / "shards" / "shards" / "000001.tar").unlink()
        row = rows(chain)["shards"]
        assert row.state == "damaged" and "000001.tar" in row.about
        assert command(row) == ["smile-pipe", "verify", str(chain / "shards")]

    def test_a_run_without_its_checkpoint_is_damaged(self, chain):
        (chain / "run" / "checkpoints" / "step-000004" / "state.pt").unlink()
        assert rows(chain)["run"].about == "its checkpoint step-000004 is gone"

    def test_a_manifest_of_something_else_is_said_to_be_unknown(self, tmp_path):
        (tmp_path / "web").mkdir()
        (tmp_path / "web" / "manifest.json").write_text('{"name": "an app"}')
        (row,) = status(tmp_path).rows
        assert (row.kind, row.state, row.path) == ("unknown", "damaged", "web")

    def test_names_from_a_manifest_lead_nowhere(self, chain):
        path = chain / "shards" / "manifest.json"
        outside = chain / "outside.tar"
        outside.write_bytes(b"x")
        text = path.read_text()
        manifest = json.loads(text)
        manifest["shards"][0] |= {"name": "../../outside.tar", "bytes": 1}
        path.write_text(json.dumps(manifest))
        assert rows(chain)["shards"].state == "damaged" and "shards.0.name" in rows(chain)["shards"].about
        path.write_text(text)
        config = json.loads((chain / "run" / "config.json").read_text())
        (chain / "run" / "config.json").write_text(json.dumps(config | {"shards": "../../.."}))
        assert rows(chain)["run"].made_from == "shards"


class TestCommandLine:
    def invoke(self, *arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["status", *map(str, arguments)])
        return result.exit_code, result.stdout

    def test_people_get_a_table_and_the_next_commands_whole(self, chain):
        (chain / "run" / "manifest.json").unlink()
        code, out = self.invoke(chain)
        assert code == 0 and "shards" in out and "unfinished" in out
        (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
        assert line == f"next: {rows(chain)['run'].next}"

    def test_machines_get_the_report(self, chain):
        code, out = self.invoke(chain, "--json")
        assert code == 0 and StatusReport.model_validate_json(out) == status(chain)

    def test_an_empty_folder_is_no_error_and_a_missing_one_is(self, tmp_path):
        code, out = self.invoke(tmp_path)
        assert code == 0 and "smile-pipe render" in out
        assert self.invoke(tmp_path / "nowhere")[0] == 2

    def test_signs_that_a_terminal_would_act_on_are_not_printed(self, chain):
        (chain / "run" / "manifest.json").unlink()
        (chain / "run").rename(chain / "run\x1b[2J[red]")
        code, out = self.invoke(chain)
        table = "".join(line for line in out.splitlines() if not line.startswith("next: "))
        assert code == 0 and "\x1b" not in out and "[red]" in table
