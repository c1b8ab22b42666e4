"""`export --embeddings`: a table of fused embeddings with labels and the side of the run's split."""

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
from helpers.small_runs import learn, reader_of, result
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
def run(shards, tmp_path_factory) -> Path:
    """A run with six subjects: one for test, and one for validation."""
    out = tmp_path_factory.mktemp("run") / "run"
    learn(shards, out, epochs=1, val_fraction=0.2)
    return out


@pytest.fixture
def export_table(run, shards, tmp_path):
    """A function that exports with options, and returns the result and the table."""

    def make_table(**options: Any) -> tuple[ExportResult, pa.Table]:
        file = tmp_path / "out" / "embeddings.parquet"
        exported = export(
            ExportConfig.model_validate({"run": run, "shards": str(shards), "embeddings": file} | options)
        )
        return exported, pq.ParquetFile(file).read()

    return make_table


def subjects_by_side(table: pa.Table) -> Mapping[str, set[str]]:
    """Subjects by the column `side`."""
    pairs = zip(table["side"].to_pylist(), table["subject"].to_pylist(), strict=True)
    grouped: dict[str, set[str]] = {}
    for side, subject in pairs:
        grouped.setdefault(side, set()).add(subject)
    return grouped


def test_each_sample_is_a_row_with_labels_and_fused_embedding(export_table, run, shards):
    exported, table = export_table(batch_size=5)
    rows = ShardSet.open(str(shards)).rows
    assert (exported.num_embeddings, exported.num_skipped, exported.notes) == (NUM, 0, ())
    for name in ("key", "subject", "expression", "level", "num_frames", "layout"):
        assert table[name].to_pylist() == [getattr(row, name) for row in rows]
    assert [dict(labels) for labels in table["labels"].to_pylist()] == [row.labels for row in rows]
    expected = np.concatenate([*result(run).embed_faces(reader_of(shards, run), rows, 7)])
    np.testing.assert_allclose(np.stack(table["embedding"].to_numpy()), expected, rtol=1e-4, atol=1e-6)


def test_shards_are_read_through_copies_in_the_given_folder(export_table, tmp_path):
    _, expected = export_table()
    assert export_table(cache_dir=tmp_path / "copies", cache_gb=0.5)[1] == expected
    assert list((tmp_path / "copies").glob("*.tar"))
    export_table(cache_dir=tmp_path / "none", cache_gb=0)
    assert list((tmp_path / "none").iterdir()) == []


def test_cache_folder_is_checked_before_anything_is_written(export_table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder that can be written"):
        export_table(cache_dir=tmp_path / "file", open_clip=tmp_path / "open_clip")
    assert not (tmp_path / "open_clip").exists()


def test_schema_has_type_run_shards_and_text_source(export_table, run, shards):
    _, table = export_table()
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), DIM)
    metadata = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    assert metadata["run_fingerprint"] == RunDirectory(run).manifest().fingerprint
    assert metadata["shards_fingerprint"] == ShardSet.open(str(shards)).manifest.fingerprint
    assert (metadata["text_source"], metadata["recipe"], metadata["channel"]) == ("label", "smile-vlm", "rgb")
    assert metadata["embedding"] == "fused over the views, not of unit length"


def test_each_subject_has_the_side_of_the_runs_split(export_table, run):
    exported, table = export_table()
    manifest = RunDirectory(run).manifest()
    assert subjects_by_side(table) == {
        "train": set(manifest.train_subjects),
        "validation": set(manifest.validation_subjects),
        "test": set(manifest.test_subjects),
    }
    assert len(manifest.validation_subjects) == len(manifest.test_subjects) == 1
    assert exported.notes == ()


def test_unknown_subjects_have_the_side_other_with_a_note(export_table, run, tmp_path):
    write_shard_set(tmp_path / "more", num_subjects=8, channels=("rgb",))
    exported, table = export_table(shards=str(tmp_path / "more"))
    assert subjects_by_side(table)["other"] == {"F0007", "F0008"}
    assert subjects_by_side(table)["test"] == set(RunDirectory(run).manifest().test_subjects)
    assert len(exported.notes) == 1 and "is based on the names of subjects only" in exported.notes[0]


def test_split_and_where_select_as_in_evaluate(export_table, run):
    manifest = RunDirectory(run).manifest()
    _, table = export_table(split=manifest.split)
    assert set(table["subject"].to_pylist()) == set(manifest.test_subjects)
    _, table = export_table(where="expression == 'HA'")
    assert table["expression"].to_pylist() == ["HA"] * 6
    with pytest.raises(
        UsageError, match=r"split kfold:6:1: would test on 1 subject that the run was trained or validated on"
    ):
        export_table(split="kfold:6:1")


def test_rows_are_written_in_groups_with_progress(run, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings_table, "ROWS_PER_GROUP", 6)
    reports, file = [], tmp_path / "embeddings.parquet"
    options = {"run": run, "shards": str(shards), "embeddings": file, "batch_size": 4}
    export(ExportConfig.model_validate(options), lambda done, total: reports.append((done, total)))
    assert reports == [(4, NUM), (8, NUM), (12, NUM), (16, NUM), (18, NUM)]
    groups = pq.ParquetFile(file).metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [8, 8, 2]


class TestDamaged:
    """Damaged samples."""

    @pytest.fixture
    def damaged(self, tmp_path) -> Path:
        write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
        rows = ShardSet.open(str(tmp_path / "shards")).rows
        # All of the second batch of four, and one more.
        spoil(tmp_path / "shards", (*rows[4:8], rows[9]))
        return tmp_path / "shards"

    def test_damaged_sample_raises_and_leaves_no_table(self, export_table, damaged, tmp_path):
        with pytest.raises(BadSampleError, match="cannot be read"):
            export_table(shards=str(damaged))
        assert list((tmp_path / "out").iterdir()) == []

    def test_skipped_samples_do_not_change_other_rows(self, export_table, damaged, run, shards):
        exported, table = export_table(shards=str(damaged), on_bad_shard="skip", batch_size=4)
        _, whole = export_table()
        assert (exported.num_embeddings, exported.num_skipped) == (NUM - 5, 5)
        expected = dict(zip(whole["key"].to_pylist(), whole["embedding"].to_pylist(), strict=True))
        rows = ShardSet.open(str(damaged)).rows
        assert table["key"].to_pylist() == [row.key for row in (*rows[:4], rows[8], *rows[10:])]
        for key, embedding in zip(table["key"].to_pylist(), table["embedding"].to_pylist(), strict=True):
            np.testing.assert_allclose(embedding, expected[key], rtol=1e-4, atol=1e-6)


class TestInvalidOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "nothing to export; give `open_clip=DIR`, `onnx=FILE` or `embeddings=FILE`"),
            ({"embeddings": "e.parquet"}, "embeddings: need samples; give `shards`"),
            ({"open_clip": "model", "shards": "shards"}, "shards: only `embeddings` reads shards"),
            ({"embeddings": ".", "shards": "shards"}, r"embeddings \.: is a directory"),
        ],
    )
    def test_contradictory_options_raise(self, run, options, message, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match=message):
            export(ExportConfig.model_validate({"run": run} | options))
        assert list(tmp_path.iterdir()) == []

    def test_shards_without_the_channel_raise_before_anything_is_written(self, export_table, tmp_path):
        write_shard_set(tmp_path / "normals", num_subjects=6, channels=("normal",))
        with pytest.raises(UsageError, match="lack the channel rgb"):
            export_table(shards=str(tmp_path / "normals"), open_clip=tmp_path / "model")
        assert not (tmp_path / "model").exists() and not (tmp_path / "out").exists()

    def test_missing_run_raises(self, export_table, tmp_path):
        with pytest.raises(UsageError, match="no such run"):
            export_table(run=tmp_path / "nowhere")


def test_command_prints_the_result(run, shards, tmp_path, monkeypatch):
    # Progress is shown at once.
    monkeypatch.setattr("smile_pipe.cli.progress.QUIET_SECONDS", -1.0)
    file = tmp_path / "e.parquet"
    arguments = ["export", str(run), "--embeddings", str(file), "--shards", str(shards), "--json"]
    table = CliRunner().invoke(app, arguments)
    assert table.exit_code == 0, table.stderr
    result = json.loads(table.stdout)
    assert (result["embeddings"], result["num_embeddings"], result["open_clip"]) == (str(file), NUM, None)
    assert f"export: {NUM} of {NUM}" in table.stderr and "18 rows" in table.stderr


def test_command_prints_counts_of_one_as_singular(run, tmp_path):
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
    manifest = RunDirectory(run).manifest()
    shards = ShardSet.open(str(tmp_path / "shards"))
    first, second, *_ = (row for row in shards.rows if row.subject in manifest.test_subjects)
    spoil(tmp_path / "shards", [second])
    where = f"expression in ['{first.expression}', '{second.expression}']"
    options = ["--embeddings", f"{tmp_path}/e.parquet", "--shards", str(tmp_path / "shards"), "--where", where]
    table = CliRunner().invoke(app, ["export", str(run), *options, "--split", manifest.split, "--on-bad-shard", "skip"])
    assert table.exit_code == 0 and table.stdout == f"{tmp_path}/e.parquet: 1 row, without 1 damaged sample\n"
    refused = CliRunner().invoke(app, ["export", str(run)])
    assert refused.exit_code == 2 and refused.stderr.startswith("error: nothing to export")
