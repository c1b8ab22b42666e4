"""`export --embeddings`: a table of fused embeddings that says whose they are, and on which side of the run's split."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from helpers.samples import spoil, write_shard_set
from helpers.small_runs import learn, reader_of, result, write_shards
from smile_pipe.cli.main import app
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.pipeline.export import embeddings_table
from smile_pipe.pipeline.export.config import ExportConfig, ExportResult
from smile_pipe.pipeline.export.stage import run as export
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet

NUM = 18
DIM = 128


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory) -> Path:
    """Of six subjects one is tested on, and one held back for validation."""
    out = tmp_path_factory.mktemp("run") / "run"
    learn(shards, out, epochs=1, validation=0.2)
    return out


@pytest.fixture
def make(run, shards, tmp_path):
    """Exports with options, and gives the result and the table."""

    def made(**options: Any) -> tuple[ExportResult, pa.Table]:
        file = tmp_path / "out" / "embeddings.parquet"
        exported = export(
            ExportConfig.model_validate({"run": run, "shards": str(shards), "embeddings": file} | options)
        )
        return exported, pq.ParquetFile(file).read()

    return made


def sides(found: pa.Table) -> Mapping[str, set[str]]:
    """Subjects by side."""
    pairs = zip(found["side"].to_pylist(), found["subject"].to_pylist(), strict=True)
    grouped: dict[str, set[str]] = {}
    for side, subject in pairs:
        grouped.setdefault(side, set()).add(subject)
    return grouped


def test_each_sample_is_a_row_with_its_labels_and_the_fused_embedding_that_the_run_gives_it(make, run, shards):
    exported, found = make(batch_size=5)
    rows = ShardSet.open(str(shards)).rows
    assert (exported.num_embeddings, exported.num_skipped, exported.notes) == (NUM, 0, ())
    for name in ("key", "subject", "expression", "level", "num_frames", "layout"):
        assert found[name].to_pylist() == [getattr(row, name) for row in rows]
    assert [dict(labels) for labels in found["labels"].to_pylist()] == [row.labels for row in rows]
    expected = np.concatenate([*result(run).embed_faces(reader_of(shards, run), rows, 7)])
    np.testing.assert_allclose(np.stack(found["embedding"].to_numpy()), expected, rtol=1e-4, atol=1e-6)


def test_the_schema_tells_type_run_shards_and_source_of_text(make, run, shards):
    _, found = make()
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), DIM)
    told = {name.decode(): value.decode() for name, value in found.schema.metadata.items()}
    assert told["run_fingerprint"] == RunDirectory(run).manifest().fingerprint
    assert told["shards_fingerprint"] == ShardSet.open(str(shards)).manifest.fingerprint
    assert (told["text_source"], told["recipe"], told["channel"]) == ("label", "smile-vlm", "rgb")
    assert told["embedding"] == "fused over the views, not of unit length"


def test_each_subject_is_on_the_side_that_the_run_had_it_on(make, run):
    exported, found = make()
    manifest = RunDirectory(run).manifest()
    assert sides(found) == {
        "train": set(manifest.train_subjects),
        "validation": set(manifest.validation_subjects),
        "test": set(manifest.test_subjects),
    }
    assert len(manifest.validation_subjects) == len(manifest.test_subjects) == 1
    assert exported.notes == ()


def test_subjects_that_the_run_has_not_are_other_ones_and_a_note_says_that_names_decide(make, run, tmp_path):
    write_shard_set(tmp_path / "more", num_subjects=8, channels=("rgb",))
    exported, found = make(shards=str(tmp_path / "more"))
    assert sides(found)["other"] == {"F0007", "F0008"}
    assert sides(found)["test"] == set(RunDirectory(run).manifest().test_subjects)
    assert len(exported.notes) == 1 and "goes by the names of subjects alone" in exported.notes[0]


def test_split_and_where_choose_as_they_do_for_evaluate(make, run):
    manifest = RunDirectory(run).manifest()
    _, found = make(split=manifest.split)
    assert set(found["subject"].to_pylist()) == set(manifest.test_subjects)
    _, found = make(where="expression == 'HA'")
    assert found["expression"].to_pylist() == ["HA"] * 6
    with pytest.raises(UsageError, match=r"--split kfold:6:1: would test on 1 subject that the run has learned from"):
        make(split="kfold:6:1")


def test_rows_are_written_in_groups_while_others_are_embedded_and_progress_is_told(run, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings_table, "ROWS_PER_GROUP", 6)
    told, file = [], tmp_path / "embeddings.parquet"
    options = {"run": run, "shards": str(shards), "embeddings": file, "batch_size": 4}
    export(ExportConfig.model_validate(options), lambda done, total: told.append((done, total)))
    assert told == [(4, NUM), (8, NUM), (12, NUM), (16, NUM), (18, NUM)]
    groups = pq.ParquetFile(file).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [8, 8, 2]


class TestDamaged:
    """Samples that are not what was rendered."""

    @pytest.fixture
    def damaged(self, tmp_path) -> Path:
        write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
        rows = ShardSet.open(str(tmp_path / "shards")).rows
        # All of the second batch of four, and one more.
        spoil(tmp_path / "shards", (*rows[4:8], rows[9]))
        return tmp_path / "shards"

    def test_they_leave_no_table(self, make, damaged, tmp_path):
        with pytest.raises(BadSampleError, match="cannot be read"):
            make(shards=str(damaged))
        assert list((tmp_path / "out").iterdir()) == []

    def test_where_they_are_skipped_all_other_rows_keep_their_own_embedding(self, make, damaged, run, shards):
        exported, found = make(shards=str(damaged), on_bad_shard="skip", batch_size=4)
        _, whole = make()
        assert (exported.num_embeddings, exported.num_skipped) == (NUM - 5, 5)
        expected = dict(zip(whole["key"].to_pylist(), whole["embedding"].to_pylist(), strict=True))
        rows = ShardSet.open(str(damaged)).rows
        assert found["key"].to_pylist() == [row.key for row in (*rows[:4], rows[8], *rows[10:])]
        for key, embedding in zip(found["key"].to_pylist(), found["embedding"].to_pylist(), strict=True):
            np.testing.assert_allclose(embedding, expected[key], rtol=1e-4, atol=1e-6)


class TestWrongRequests:
    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({}, "nothing to export; give --open-clip DIR, --onnx FILE or --embeddings FILE"),
            ({"embeddings": "e.parquet"}, "--embeddings: are of samples; say of which with --shards"),
            ({"open_clip": "model", "shards": "shards"}, "--shards: are read for --embeddings alone"),
            ({"embeddings": ".", "shards": "shards"}, r"--embeddings \.: is a directory"),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, run, options, complaint, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match=complaint):
            export(ExportConfig.model_validate({"run": run} | options))
        assert list(tmp_path.iterdir()) == []

    def test_shards_without_what_the_run_sees_are_refused_before_anything_is_written(self, make, tmp_path):
        write_shard_set(tmp_path / "normals", num_subjects=6, channels=("normal",))
        with pytest.raises(UsageError, match="lack the channel rgb"):
            make(shards=str(tmp_path / "normals"), open_clip=tmp_path / "model")
        assert not (tmp_path / "model").exists() and not (tmp_path / "out").exists()

    def test_what_is_no_run_is_refused(self, make, tmp_path):
        with pytest.raises(UsageError, match="no such run"):
            make(run=tmp_path / "nowhere")


def test_the_command_says_what_it_has_written(run, shards, tmp_path, monkeypatch):
    # As if it took long.
    monkeypatch.setattr("smile_pipe.cli.progress.QUIET_SECONDS", -1.0)
    file = tmp_path / "e.parquet"
    arguments = ["export", str(run), "--embeddings", str(file), "--shards", str(shards), "--json"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.stderr
    result = json.loads(found.stdout)
    assert (result["embeddings"], result["num_embeddings"], result["open_clip"]) == (str(file), NUM, None)
    assert f"export: {NUM} of {NUM}" in found.stderr and "18 rows" in found.stderr


def test_the_command_tells_one_row_and_one_damaged_sample_without_a_plural(run, tmp_path):
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
    manifest = RunDirectory(run).manifest()
    shards = ShardSet.open(str(tmp_path / "shards"))
    first, second, *_ = (row for row in shards.rows if row.subject in manifest.test_subjects)
    spoil(tmp_path / "shards", [second])
    where = f"expression in ['{first.expression}', '{second.expression}']"
    options = ["--embeddings", f"{tmp_path}/e.parquet", "--shards", str(tmp_path / "shards"), "--where", where]
    found = CliRunner().invoke(app, ["export", str(run), *options, "--split", manifest.split, "--on-bad-shard", "skip"])
    assert found.exit_code == 0 and found.stdout == f"{tmp_path}/e.parquet: 1 row, without 1 damaged sample\n"
    refused = CliRunner().invoke(app, ["export", str(run)])
    assert refused.exit_code == 2 and refused.stderr.startswith("error: nothing to export")
