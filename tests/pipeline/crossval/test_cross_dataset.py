"""Cross-dataset evaluation: one dataset is trained on, and another one scored."""

import pytest

from helpers.samples import write_shard_set
from smile_pipe.cli.commands.crossval import _table
from smile_pipe.cli.next_command import next_command
from smile_pipe.pipeline.crossval.config import CrossvalConfig
from smile_pipe.pipeline.crossval.stage import run
from smile_pipe.pipeline.runs.evaluation_manifest import EvaluationManifest
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.status import status
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet


class TestCrossDataset:
    """One dataset is trained on, and another one scored."""

    @pytest.fixture(scope="class")
    def other(self, tmp_path_factory):
        """Another dataset: other subjects, six expressions of the first dataset and one more."""
        root = tmp_path_factory.mktemp("other") / "shards"
        write_shard_set(root, num_subjects=3, expressions=("AN", "DI", "FE", "HA", "SA", "SU", "wink"), size=48)
        return root

    def make_config(self, shards_dir, other, out, **options):
        fields = {"train_on": str(shards_dir), "test_on": str(other), "out": out, "epochs": 1, "batch_size": 8}
        return CrossvalConfig(**fields | options)

    def test_one_dataset_is_trained_on_and_the_other_scored(self, shards_dir, other, ray_cluster, tmp_path):
        config = self.make_config(shards_dir, other, tmp_path / "cv", protocol=("knn", "probe"))
        manifest = run(config)
        train_shards, test_shards = (ShardSet.open(str(root)) for root in (shards_dir, other))
        assert (manifest.shards_fingerprint, manifest.scored_on) == (
            train_shards.manifest.fingerprint,
            test_shards.manifest.fingerprint,
        )
        (fold,) = manifest.folds
        assert (fold.num_samples, fold.subjects) == (21, tuple(test_shards.subjects))
        assert (manifest.protocol, fold.split) == ("across", "all")
        trained = RunManifest.read(tmp_path / "cv" / fold.folder / "manifest.json")
        assert trained.train_subjects == tuple(train_shards.subjects)
        evaluation = EvaluationManifest.read(tmp_path / "cv" / fold.folder / "evaluation" / "manifest.json")
        assert (evaluation.fitted_on, evaluation.split) == (train_shards.manifest.fingerprint, "all")
        # The samples to fit on have no wink.
        wink = manifest.classes.index("wink")
        assert all(row[wink] == 0 for score in manifest.scores.values() for row in score.confusion)
        assert manifest.scores["knn"].accuracy.deviation is None
        assert _table(manifest).title == "percent, 21 samples of 3 subjects, text: label"
        assert "Cross-dataset evaluation" in (tmp_path / "cv" / "report.html").read_text()
        assert run(config, lambda *row: pytest.fail("ran again")) == manifest
        (row,) = (row for row in status(tmp_path).rows if row.kind == "crossval")
        assert row.state == "finished"
        (tmp_path / "cv" / "manifest.json").unlink()
        (row,) = (row for row in status(tmp_path).rows if row.kind == "crossval")
        assert f"--test-on {other}" in next_command(row.next)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"test_on": None}, "give both"),
            ({"train_on": None}, "give both"),
            ({"shards": "x"}, "give `shards`, or"),
            ({"split_protocol": "loso"}, "no folds"),
            ({"num_subjects": 3}, "no folds"),
        ],
    )
    def test_contradictory_options_raise(self, shards_dir, other, tmp_path, options, message):
        with pytest.raises(UsageError, match=message):
            run(self.make_config(shards_dir, other, tmp_path / "cv", **options))
        assert not (tmp_path / "cv").exists()
