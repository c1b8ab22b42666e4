"""Training and evaluation on damaged shards: refusal at opening, and skipping of damaged samples."""

import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.samples import make_timeline, spoil, write_shard_set
from smile_pipe.pipeline.data import dataset as dataset_module
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.data.integrity import BadSampleError, first_readable, open_shards
from smile_pipe.pipeline.data.temporal import stored_temporal
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.evaluate.stage import run as evaluate
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.train.config import TrainConfig
from smile_pipe.pipeline.train.stage import run as train
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.images import ImageError
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardError, ShardSet
from smile_pipe.shards.sample import SampleError


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Eighteen samples of six subjects in shards of four."""
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",))
    return tmp_path / "shards"


def config(shards: Path, out: Path, **options: object) -> TrainConfig:
    given = {"shards": str(shards), "out": out, "epochs": 2, "batch_size": 4, "split": "kfold:6:0"}
    return TrainConfig.model_validate(given | options)


def train_rows(shards: Path, out: Path) -> list[IndexRow]:
    """Training rows of a run with `config`."""
    shard_set = ShardSet.open(str(shards))
    return shard_set.of_subjects(RunManifest.read(out / "manifest.json").train_subjects)


def cut(shards: Path, name: str) -> None:
    """Truncate a shard to its first half."""
    path = shards / "shards" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


class TestOpening:
    def test_opening_intact_shards_reads_no_shard(self, shards):
        for path in (shards / "shards").glob("*.tar"):
            path.write_bytes(bytes(path.stat().st_size))
        assert len(open_shards(str(shards)).rows) == 18

    def test_truncated_shard_is_refused_with_a_hint(self, shards):
        cut(shards, "000001.tar")
        with pytest.raises(UsageError, match=r"000001\.tar: has \d+ bytes.*`smile-pipe verify .*`on_bad_shard=skip`"):
            open_shards(str(shards))

    def test_missing_shard_is_refused(self, shards):
        (shards / "shards" / "000002.tar").unlink()
        with pytest.raises(UsageError, match=r"000002\.tar: is missing"):
            open_shards(str(shards))

    @pytest.mark.parametrize("on_bad_shard", ["fail", "skip"])
    def test_index_of_another_render_is_refused_even_with_skip(self, shards, tmp_path, on_bad_shard):
        # The same numbers of samples and shards, with other sizes.
        write_shard_set(tmp_path / "other", num_subjects=6, size=24, channels=("rgb",))
        shutil.copy(tmp_path / "other" / "index.parquet", shards)
        with pytest.raises(UsageError, match=r"damaged: 000000\.tar.*smile-pipe verify"):
            open_shards(str(shards), on_bad_shard)

    @pytest.mark.parametrize("on_bad_shard", ["fail", "skip"])
    def test_shard_missing_from_manifest_is_refused(self, shards, on_bad_shard):
        shutil.copy(shards / "shards" / "000000.tar", shards / "shards" / "000009.tar")
        with pytest.raises(UsageError, match=r"000009\.tar: is not in the manifest"):
            open_shards(str(shards), on_bad_shard)

    def test_skip_counts_resized_shards_in_a_warning(self, shards, caplog, monkeypatch):
        # A Ray session of other tests suppresses warnings.
        monkeypatch.setattr(logging.root.manager, "disable", logging.NOTSET)
        cut(shards, "000001.tar")
        (shards / "shards" / "000002.tar").unlink()
        assert len(open_shards(str(shards), "skip").rows) == 18
        assert "000001.tar: has" in caplog.text and "damaged shards: 2" in caplog.text

    @pytest.mark.parametrize("stage", ["train", "evaluate"])
    def test_no_stage_starts_on_damaged_shards(self, shards, run_dir, tmp_path, stage, monkeypatch):
        cut(shards, "000001.tar")
        monkeypatch.setattr("smile_pipe.pipeline.train.stage.ray_session", lambda address: pytest.fail("started Ray"))
        monkeypatch.setattr(ShardSet, "read_bytes", lambda self, row: pytest.fail("read a sample"))
        with pytest.raises(UsageError, match="damaged: "):
            if stage == "train":
                train(config(shards, tmp_path / "run"))
            else:
                evaluate(EvaluateConfig(run=run_dir, shards=str(shards), split="all"))
        assert not (tmp_path / "run").exists()


class TestDataset:
    def dataset(self, shards: Path, on_bad_shard: str = "skip") -> FaceDataset:
        return FaceDataset(ShardSet.open(str(shards)), DecodeSpec(("rgb",), 16), 0, on_bad_shard)

    def test_fail_names_shard_and_key(self, shards):
        dataset = self.dataset(shards, "fail")
        bad = dataset.shards.rows[5]
        spoil(shards, [bad])
        with pytest.raises(BadSampleError, match=f"{bad.shard}: the sample {bad.key} cannot be read"):
            list(dataset.batches([dataset.shards.rows[4:8]]))

    def test_skipped_samples_are_left_out_in_order(self, shards):
        dataset = self.dataset(shards)
        rows = dataset.shards.rows
        spoil(shards, [rows[1], rows[6]])
        first, second = dataset.batches([rows[:4], rows[4:8]])
        assert first.concepts == [rows[n].expression for n in (0, 2, 3)] and len(first.views) == 3
        assert second.concepts == [rows[n].expression for n in (4, 5, 7)]
        assert dataset.skipped == {rows[1].key, rows[6].key}

    def test_group_without_readable_samples_takes_the_next_good_one(self, shards):
        dataset = self.dataset(shards)
        rows = dataset.shards.rows
        spoil(shards, rows[4:9])
        batches = list(dataset.batches([rows[:4], rows[4:8], rows[10:12]], spares=rows))
        assert [len(batch.concepts) for batch in batches] == [4, 1, 2]
        expected = self.dataset(shards).read(rows[9])
        assert batches[1].texts == [expected.text]
        assert torch.equal(batches[1].views, torch.from_numpy(expected.views))

    def test_search_for_spares_wraps_around(self, shards):
        dataset = self.dataset(shards)
        rows = dataset.shards.rows
        spoil(shards, [*rows[16:], rows[0]])
        (batch,) = dataset.batches([rows[16:]], spares=rows)
        assert torch.equal(batch.views, torch.from_numpy(dataset.read(rows[1]).views))

    def test_group_without_readable_samples_and_spares_gives_no_batch(self, shards):
        dataset = self.dataset(shards)
        rows = dataset.shards.rows
        spoil(shards, rows[:4])
        assert [len(batch.concepts) for batch in dataset.batches([rows[:4], rows[4:6]])] == [2]

    def test_no_readable_sample_raises_one_error(self, shards):
        dataset = self.dataset(shards)
        spoil(shards, dataset.shards.rows)
        with pytest.raises(BadSampleError, match="of 18 samples none can be read"):
            list(dataset.batches([dataset.shards.rows[:4]], spares=dataset.shards.rows))

    def test_network_failure_is_not_damage(self, shards, monkeypatch):
        dataset = self.dataset(shards)

        def fail(*given: object, **options: object) -> bytes:
            raise ConnectionError("the network is down")

        monkeypatch.setattr(type(dataset.shards.filesystem), "cat_file", fail)
        with pytest.raises(ConnectionError):
            list(dataset.batches([dataset.shards.rows[:4]]))
        assert not dataset.skipped

    def test_set_properties_come_from_the_first_readable_sample(self, tmp_path):
        write_shard_set(tmp_path / "shards", timelines=(make_timeline(2, "both"),), channels=("rgb",))
        shard_set = ShardSet.open(str(tmp_path / "shards"))
        spoil(tmp_path / "shards", shard_set.rows[:2])
        assert first_readable(shard_set, shard_set.rows, "skip").record.key == shard_set.rows[2].key
        assert stored_temporal(shard_set, shard_set.rows, "skip") == "both"
        decode_spec = DecodeSpec(("rgb",), 16, "frames")
        assert FaceDataset(shard_set, decode_spec, 0, "skip").directions(shard_set.rows).shape == (3, 3)
        for read in (first_readable, stored_temporal):
            with pytest.raises(BadSampleError, match=shard_set.rows[0].key):
                read(shard_set, shard_set.rows)


class TestStages:
    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with undamaged shards and a run on them."""
        root = tmp_path_factory.mktemp("whole")
        write_shard_set(root / "shards", num_subjects=6, channels=("rgb",))
        train(config(root / "shards", root / "run"), in_process=True)
        return root

    @pytest.fixture
    def copied(self, whole: Path, tmp_path: Path) -> Path:
        """A copy for damaging."""
        return shutil.copytree(whole, tmp_path / "copy")

    def test_damage_stops_training_and_skip_resumes_and_records_it(self, ray_cluster, whole, copied):
        before = RunManifest.read(whole / "run" / "manifest.json")
        shards, out = copied / "shards", copied / "new"
        bad = train_rows(shards, copied / "run")[2:9:3]
        spoil(shards, bad)
        with pytest.raises(BadSampleError, match=r"^00000.\.tar: the sample F000._.* cannot be read \("):
            train(config(shards, out))
        assert not (out / "manifest.json").exists() and not (out / ".ray").exists()
        # The loop opens one event file each time that it starts: it was not restarted.
        assert len(list((out / "tensorboard").iterdir())) == 1
        found = train(config(shards, out, on_bad_shard="skip", resume=True))
        assert (found.num_skipped, found.num_train_samples) == (3, before.num_train_samples - 3)
        assert found.num_steps == before.num_steps
        assert RunDirectory(out).skipped() == tuple(sorted(row.key for row in bad))
        # Another result for the same options.
        assert found.fingerprint != before.fingerprint and found.final_losses != before.final_losses
        assert train(config(shards, out)) == found

    def test_skip_changes_nothing_without_damage(self, whole, tmp_path):
        found = train(config(whole / "shards", tmp_path / "run", on_bad_shard="skip"), in_process=True)
        assert found == RunManifest.read(whole / "run" / "manifest.json")
        assert found.num_skipped == 0 and not (tmp_path / "run" / "skipped.json").exists()

    def test_ranks_take_equal_steps_when_one_has_no_readable_sample(self, ray_cluster, copied):
        shards, options = copied / "shards", {"num_workers": 2, "batch_size": 2, "on_bad_shard": "skip"}
        # All but four of fifteen samples, in four steps on two ranks: some rank has no readable sample in some step.
        bad = train_rows(shards, copied / "run")[:11]
        spoil(shards, bad)
        found = train(config(shards, copied / "new", **options))
        assert (found.num_steps, found.num_skipped, found.world_size) == (2 * 4, 11, 2)
        assert RunDirectory(copied / "new").skipped() == tuple(sorted(row.key for row in bad))
        assert all(math.isfinite(value) for value in found.final_losses.values())

    def test_evaluation_skips_and_records_damaged_samples(self, copied):
        shards, run = copied / "shards", RunManifest.read(copied / "run" / "manifest.json")
        whole = evaluate(EvaluateConfig(run=copied / "run", shards=str(shards)))
        shard_set = ShardSet.open(str(shards))
        test = shard_set.of_subjects(run.test_subjects)
        spoil(shards, [test[1], shard_set.of_subjects(run.train_subjects)[0]])
        with pytest.raises(BadSampleError, match=r"\.tar: the sample F.* cannot be read"):
            evaluate(EvaluateConfig(run=copied / "run", shards=str(shards)))
        found = evaluate(EvaluateConfig(run=copied / "run", shards=str(shards), on_bad_shard="skip"))
        assert (found.num_skipped, found.num_scans) == (2, whole.num_scans - 1)
        assert all(score.num_samples == len(test) - 1 for score in found.protocols.values())
        assert found.notes == ("2 damaged samples left out (`smile-pipe verify` names them)",)
        assert found.fingerprint != whole.fingerprint
        # Scored samples keep their own labels: the expression of the skipped sample is no longer scored.
        assert test[1].expression not in found.protocols["knn"].per_class

    def test_evaluation_without_readable_samples_fails_and_keeps_the_previous_one(self, copied):
        shards, run = copied / "shards", RunManifest.read(copied / "run" / "manifest.json")
        evaluate(EvaluateConfig(run=copied / "run", shards=str(shards)))
        before = (copied / "run" / "evaluation" / "manifest.json").read_bytes()
        spoil(shards, ShardSet.open(str(shards)).of_subjects(run.test_subjects))
        with pytest.raises(BadSampleError, match="of 3 samples none can be read"):
            evaluate(EvaluateConfig(run=copied / "run", shards=str(shards), on_bad_shard="skip"))
        assert (copied / "run" / "evaluation" / "manifest.json").read_bytes() == before


def test_skipped_keys_survive_a_restart(tmp_path):
    directory = RunDirectory(tmp_path)
    assert directory.skipped() == ()
    directory.add_skipped({"b", "c"})
    directory.add_skipped(["a", "b"])
    assert directory.skipped() == ("a", "b", "c")
    assert json.loads((tmp_path / "skipped.json").read_text()) == ["a", "b", "c"]


def test_index_offset_outside_of_shard_is_damage(shards):
    shard_set = ShardSet.open(str(shards))
    row = replace(shard_set.rows[0], offset=1 << 40)
    with pytest.raises(BadSampleError, match=f"{row.key} cannot be read"):
        first_readable(shard_set, [row])


@pytest.mark.parametrize("kind", [ShardError, SampleError, ImageError])
def test_every_damage_error_names_shard_and_key(shards, monkeypatch, kind):
    dataset = FaceDataset(ShardSet.open(str(shards)), DecodeSpec(("rgb",), 16), 0)

    def refuse(*given: object) -> None:
        raise kind("odd bytes")

    monkeypatch.setattr(dataset_module, "decode_face", refuse)
    with pytest.raises(BadSampleError, match=r"^000000\.tar: the sample F0001_HA04WH cannot be read \(odd bytes\)$"):
        dataset.read(dataset.shards.rows[0])
