"""`smile-pipe status`: states of shards, runs and evaluations, from manifests that are written without training."""

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
from smile_pipe.cli.next_command import next_command
from smile_pipe.pipeline.runs import run_index
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.status import StatusRow, status
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.stage import relative_shards_path
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.joined import open_sets
from smile_pipe.shards.manifest import ShardManifest, joined_fingerprint
from smile_pipe.shards.reader import ShardSet


def write_run(root: Path, shards: Path | str, *, finished: bool = True, **options: object) -> None:
    """Write the files of a run on `shards`, without weights."""
    shard_set = open_sets(str(shards))
    given = TrainConfig.model_validate({"shards": str(shards), "out": root, "split": "kfold:3:0"} | options)
    (root / "checkpoints" / "step-000004").mkdir(parents=True)
    (root / "checkpoints" / "step-000004" / "state.pt").touch()
    record = {
        "fingerprint": "0123456789abcdef",
        "shards": relative_shards_path(root, shard_set),
        "shards_fingerprint": shard_set.manifest.fingerprint,
        "train": given.recorded(),
    }
    (root / "config.json").write_text(json.dumps(record))
    (root / "metrics.jsonl").write_text('{"step": 2, "num_steps": 8}\n{"step": 4, "num_steps": 8}\n')
    if finished:
        run_manifest(shard_set.manifest.fingerprint).write(root / "manifest.json")


def write_evaluation(run: Path, **changes: object) -> None:
    """Write the manifest of an evaluation of a run on its own shards."""
    record = RunManifest.read(run / "manifest.json")
    fields = {"run_fingerprint": record.fingerprint, "shards_fingerprint": record.shards_fingerprint} | changes
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
    report_rows = status(root).rows
    assert len({row.path for row in report_rows}) == len(report_rows)
    return {row.path: row for row in report_rows}


def states(root: Path) -> dict[str, str]:
    return {path: row.state for path, row in rows(root).items()}


def command(row: StatusRow) -> Sequence[str]:
    """The words of the next command."""
    return shlex.split(next_command(row.next))


class TestFinished:
    def test_report_covers_shards_run_and_evaluation(self, chain):
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
        assert all(row.next is None for row in (shards, run, evaluation))

    def test_finish_time_is_the_modification_time_of_the_manifest(self, chain):
        os.utime(chain / "shards" / "manifest.json", (1.7e9, 1.7e9))
        assert rows(chain)["shards"].finished.timestamp() == 1.7e9

    @pytest.mark.parametrize("name", ["shards", "run"])
    def test_a_single_output_is_reported(self, chain, name):
        assert status(chain / name).rows[0].path == "."

    def test_outputs_are_found_at_most_two_levels_deep(self, chain, tmp_path):
        for place in ("a/b", "c/d/e"):
            shutil.copytree(chain / "shards", chain / place)
        assert set(rows(chain)) == {"shards", "run", "run/evaluation", "a/b"}

    def test_empty_folder_gives_empty_report_and_missing_folder_raises(self, tmp_path):
        assert status(tmp_path).rows == ()
        with pytest.raises(UsageError, match="no such directory"):
            status(tmp_path / "nowhere")

    def test_status_writes_nothing_and_opens_no_shard(self, chain, monkeypatch):
        before = {path: path.stat().st_mtime_ns for path in chain.rglob("*")}
        monkeypatch.setattr(ShardSet, "open", lambda spec: pytest.fail("opened shards"))
        status(chain)
        assert {path: path.stat().st_mtime_ns for path in chain.rglob("*")} == before


class TestUnfinished:
    def test_unfinished_shards_are_counted_by_their_progress_files(self, chain):
        (chain / "shards" / "manifest.json").unlink()
        (chain / "shards" / ".progress").mkdir()
        for number in range(2):
            (chain / "shards" / ".progress" / f"{number:06d}.tar.json").write_text("{}")
        report_rows = rows(chain)
        assert (report_rows["shards"].state, report_rows["shards"].about) == (
            "unfinished",
            "unfinished, 2 shards so far",
        )
        assert report_rows["shards"].finished is None and "render" in command(report_rows["shards"])
        assert (report_rows["run"].state, report_rows["run"].about) == ("stale", "stale: the shards are not finished")
        assert report_rows["run/evaluation"].state == "stale"

    def test_unfinished_run_reports_step_and_resume_command_with_same_options(self, tmp_path):
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

    def test_run_without_metrics_is_at_step_0(self, tmp_path):
        write_shard_set(tmp_path / "shards", channels=("rgb",))
        write_run(tmp_path / "run", tmp_path / "shards", finished=False)
        for text in ("", "{broken", '["a list"]\n'):
            (tmp_path / "run" / "metrics.jsonl").write_text(text)
            assert rows(tmp_path)["run"].counts == {"step": 0, "steps": 0}
        (tmp_path / "run" / "metrics.jsonl").unlink()
        assert rows(tmp_path)["run"].about == "unfinished, step 0 of 0"

    def test_incomplete_last_line_of_metrics_is_ignored(self, tmp_path):
        write_shard_set(tmp_path / "shards", channels=("rgb",))
        write_run(tmp_path / "run", tmp_path / "shards", finished=False)
        with open(tmp_path / "run" / "metrics.jsonl", "a") as file:
            file.write('{"step": 6, "num_st')
        assert rows(tmp_path)["run"].counts == {"step": 4, "steps": 8}

    def test_next_command_is_suggested_for_the_last_stage_only(self, tmp_path):
        write_shard_set(tmp_path / "shards", channels=("rgb",))
        assert command(rows(tmp_path)["shards"])[:4] == ["smile-pipe", "train", "--shards", str(tmp_path / "shards")]
        write_run(tmp_path / "run", tmp_path / "shards")
        report_rows = rows(tmp_path)
        assert report_rows["shards"].next is None
        words = ["smile-pipe", "evaluate", str(tmp_path / "run"), "--shards", str(tmp_path / "shards")]
        assert command(report_rows["run"]) == words


class TestStale:
    def test_changed_shards_make_run_and_evaluation_stale(self, chain):
        render_again(chain / "shards")
        report_rows = rows(chain)
        assert states(chain) == {"shards": "finished", "run": "stale", "run/evaluation": "stale"}
        assert (
            report_rows["run"].about == "stale: the shards changed since" and report_rows["run"].made_from == "shards"
        )
        assert command(report_rows["run"])[:4] == ["smile-pipe", "train", "--out", "NEW_RUN"]
        # Another evaluation of a stale run would not help.
        assert report_rows["run/evaluation"].next is None

    def test_unfinished_run_on_changed_shards_is_not_resumed(self, chain):
        (chain / "run" / "manifest.json").unlink()
        render_again(chain / "shards")
        row = rows(chain)["run"]
        assert row.state == "stale" and "--resume" not in command(row)

    def test_shards_rendered_to_the_same_content_keep_the_run_finished(self, chain):
        render_again(chain / "shards", size=16)
        assert set(states(chain).values()) == {"finished"}

    def test_evaluation_of_another_run_is_stale(self, chain):
        write_evaluation(chain / "run", run_fingerprint="another")
        row = rows(chain)["run/evaluation"]
        assert (row.state, row.about) == ("stale", "of another run than there is now")
        assert command(row)[:2] == ["smile-pipe", "evaluate"]

    def test_evaluation_on_another_dataset_names_that_dataset(self, chain):
        write_shard_set(chain / "other", size=24, channels=("rgb",))
        other = ShardManifest.read(chain / "other" / "manifest.json").fingerprint
        write_evaluation(chain / "run", shards_fingerprint=other)
        shutil.copytree(chain / "other", chain / "p-copy")
        assert (rows(chain)["run/evaluation"].state, rows(chain)["run/evaluation"].about) == ("finished", "on other")
        shutil.rmtree(chain / "other")
        assert rows(chain)["run/evaluation"].about == "on p-copy"
        shutil.rmtree(chain / "p-copy")
        assert rows(chain)["run/evaluation"].about == f"on shards {other[:8]}, which are not here, or not any more"

    @pytest.mark.parametrize("names", [("other", "third"), ("third", "other"), ("other", "shards", "third")])
    def test_evaluation_on_other_joined_sets_names_them(self, chain, names):
        for number, name in enumerate(("other", "third")):
            write_shard_set(chain / name, size=24 + 8 * number, channels=("rgb",))
        each = tuple(ShardManifest.read(chain / name / "manifest.json").fingerprint for name in names)
        write_evaluation(chain / "run", shards_fingerprint=joined_fingerprint(each), joined_fingerprints=each)
        row = rows(chain)["run/evaluation"]
        assert (row.state, row.about) == ("finished", f"on {'::'.join(names)}")
        render_again(chain / "third", size=48)
        missing = f"on shards {joined_fingerprint(each)[:8]}, which are not here, or not any more"
        assert rows(chain)["run/evaluation"].about == missing

    def test_evaluation_on_the_joined_sets_of_the_run_names_them(self, chain):
        write_shard_set(chain / "other", num_subjects=2, channels=("rgb",))
        shutil.rmtree(chain / "run")
        # Manifests of earlier releases name no single sets.
        write_run(chain / "run", f"{chain / 'shards'}::{chain / 'other'}")
        write_evaluation(chain / "run")
        row = rows(chain)["run/evaluation"]
        assert (row.state, row.about) == ("finished", "on shards::other")

    def test_moved_chain_is_not_stale(self, chain):
        (chain / "inside").mkdir()
        for name in ("shards", "run"):
            (chain / name).rename(chain / "inside" / name)
        # A copy of the shards elsewhere is not the source of the run.
        shutil.copytree(chain / "inside" / "shards", chain / "a-copy")
        assert rows(chain)["inside/run"].made_from == "inside/shards"
        assert set(states(chain).values()) == {"finished"}

    def test_shards_outside_the_folder_are_reported_as_missing(self, chain):
        row = status(chain / "run").rows[0]
        assert row.state == "finished" and row.made_from == "" and "which are not here" in row.about

    def test_moved_shards_are_found_by_fingerprint(self, chain):
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
    def test_broken_manifest_is_reported_in_its_own_row_only(self, chain, name, content):
        (chain / name / "manifest.json").write_bytes(content)
        report_rows = rows(chain)
        assert set(report_rows) == {"shards", "run", "run/evaluation"}
        assert report_rows[name].state == "damaged" and "manifest.json" in report_rows[name].about

    @pytest.mark.parametrize("content", [b"{", b"[]", b'{"shards": 7, "train": [], "shards_fingerprint": 5}', b"\xff"])
    def test_broken_config_of_a_run_is_ignored(self, chain, content):
        (chain / "run" / "config.json").write_bytes(content)
        assert states(chain) == {"shards": "finished", "run": "finished", "run/evaluation": "finished"}

    def test_manifest_that_is_no_file_or_too_large_is_not_read(self, chain, monkeypatch):
        (chain / "shards" / "manifest.json").unlink()
        os.mkfifo(chain / "shards" / "manifest.json")
        assert rows(chain)["shards"].about == "manifest.json is no file"
        monkeypatch.setattr(run_index, "MAX_BYTES", 1000)
        (chain / "run" / "manifest.json").write_bytes(b" " * 1001)
        assert "which no stage writes" in rows(chain)["run"].about

    def test_missing_shard_suggests_verify(self, chain):
        (chain / "shards" / "shards" / "000001.tar").unlink()
        row = rows(chain)["shards"]
        assert row.state == "damaged" and "000001.tar" in row.about
        assert command(row) == ["smile-pipe", "verify", str(chain / "shards")]

    def test_run_without_checkpoint_is_damaged(self, chain):
        (chain / "run" / "checkpoints" / "step-000004" / "state.pt").unlink()
        assert rows(chain)["run"].about == "its checkpoint step-000004 is gone"

    def test_foreign_manifest_is_reported_as_unknown(self, tmp_path):
        (tmp_path / "web").mkdir()
        (tmp_path / "web" / "manifest.json").write_text('{"name": "an app"}')
        (row,) = status(tmp_path).rows
        assert (row.kind, row.state, row.path) == ("unknown", "damaged", "web")

    def test_paths_in_files_are_not_followed(self, chain):
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

    def test_command_prints_a_table_and_complete_next_commands(self, chain):
        (chain / "run" / "manifest.json").unlink()
        code, out = self.invoke(chain)
        assert code == 0 and "shards" in out and "unfinished" in out
        (line,) = [line for line in out.splitlines() if line.startswith("next: ")]
        assert line == f"next: {next_command(rows(chain)['run'].next)}"

    def test_json_output_is_the_report_with_commands(self, chain):
        code, out = self.invoke(chain, "--json")
        printed, report = json.loads(out), status(chain)
        assert code == 0 and printed["root"] == report.root
        for printed_row, row in zip(printed["rows"], report.rows, strict=True):
            assert printed_row == row.model_dump(mode="json") | {"next": next_command(row.next)}

    def test_json_output_has_the_next_command_as_text(self, chain):
        (chain / "run" / "manifest.json").unlink()
        rows = {row["path"]: row for row in json.loads(self.invoke(chain, "--json")[1])["rows"]}
        assert rows["shards"]["next"] == "" and rows["run"]["made_from"] == "shards"
        assert rows["run"]["next"].startswith(f"smile-pipe train --out {chain}/run --shards {chain}/shards --split ")
        assert rows["run"]["next"].endswith(" --resume")

    def test_empty_folder_exits_0_and_missing_folder_exits_2(self, tmp_path):
        code, out = self.invoke(tmp_path)
        assert code == 0 and "smile-pipe render" in out
        assert self.invoke(tmp_path / "nowhere")[0] == 2

    def test_control_characters_are_not_printed(self, chain):
        (chain / "run" / "manifest.json").unlink()
        (chain / "run").rename(chain / "run\x1b[2J[red]")
        code, out = self.invoke(chain)
        table = "".join(line for line in out.splitlines() if not line.startswith("next: "))
        assert code == 0 and "\x1b" not in out and "[red]" in table
