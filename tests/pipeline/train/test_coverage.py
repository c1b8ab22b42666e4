"""Coverage: a training reads each of its samples once per epoch, and no others (of two ranks: `test_ranks.py`)."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from helpers import small_runs
from helpers.samples import write_shard_set
from helpers.small_runs import NUM_LEARNED, config
from smile_pipe.model.recipes import build_model
from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.pipeline.train.context import Job, Worker
from smile_pipe.pipeline.train.embedding import embed_rows
from smile_pipe.pipeline.train.loop import train
from smile_pipe.pipeline.train.stage import prepare
from smile_pipe.pipeline.train.train_step import TrainStep
from smile_pipe.pipeline.train.validation import Validation
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet

EPOCHS = 3
SINGLE = Worker(0, 1, torch.device("cpu"))
TWO = {"num_workers": 2, "batch_size": 3, "epochs": EPOCHS, "ema": 0.5, "grad_cache_chunks": 2, "precision": "float32"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_runs.write_shards(tmp_path_factory.mktemp("shards"))


def job_of(shards: Path, out: Path, **options) -> Job:
    return prepare(config(shards, out, cache_mb=0, **options), in_process=False)[2]


def watch(job: Job, worker: Worker) -> tuple[list[list[str]], set[str]]:
    """Train; returns the keys of each epoch in order, and the subjects of the samples that were read."""
    job.config.out.mkdir(exist_ok=True)
    epochs: list[list[str]] = [[] for _ in range(job.config.epochs)]
    subjects, step, read = set(), TrainStep.step, ShardSet.read_bytes

    def watched(self, batch, epoch, *rest):
        epochs[epoch] += batch.keys
        return step(self, batch, epoch, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "step", watched)
        patch.setattr(ShardSet, "read_bytes", lambda self, row: subjects.add(row.subject) or read(self, row))
        train(job, worker)
    return epochs, subjects


def keys_of(shards: Path, subjects: tuple[str, ...]) -> list[str]:
    return [row.key for row in ShardSet.open(str(shards)).of_subjects(subjects)]


@pytest.mark.parametrize("batch_size", [2, 4, 7, 15, 32])
def test_each_epoch_reads_each_sample_once_in_another_order(shards, tmp_path, batch_size):
    job = job_of(shards, tmp_path / "run", batch_size=batch_size, epochs=EPOCHS)
    epochs, subjects = watch(job, SINGLE)
    expected = keys_of(shards, job.subjects)
    assert len(expected) == NUM_LEARNED and all(sorted(keys) == sorted(expected) for keys in epochs)
    assert len(set(map(tuple, epochs))) == EPOCHS and expected not in epochs
    assert subjects == set(job.subjects)


def test_test_side_is_never_read_and_held_out_subjects_are_not_trained_on(shards, tmp_path):
    job = job_of(shards, tmp_path / "run", val_fraction=0.4, epochs=2)
    epochs, subjects = watch(job, SINGLE)
    assert all(sorted(keys) == sorted(keys_of(shards, job.subjects)) for keys in epochs)
    assert len(job.subjects) == 3 and subjects == {*job.subjects, *job.validation_subjects}


def embed_five_rows(shards: Path, out: Path, worker: Worker) -> tuple[torch.Tensor, torch.Tensor]:
    """Result of `embed_rows` for five samples; on the second rank the statistics of the towers differ."""
    job = job_of(shards, out)
    torch.manual_seed(0)
    model = build_model(job.recipe)
    model.towers.mean.add_(worker.rank)
    shard_set = ShardSet.open(str(shards))
    dataset = FaceDataset(shard_set, DecodeSpec(job.channels, model.towers.image_size), 0)
    return embed_rows(model, dataset, shard_set.rows[:5], dataset.directions(shard_set.rows), worker)


def work(rank: int, shards: Path, folder: Path) -> None:
    """Entry point of each of two processes."""
    torch.set_num_threads(1)
    (folder / str(rank)).mkdir()
    small_runs.register(folder / str(rank))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    worker = Worker(rank, 2, torch.device("cpu"))
    (folder / "run").mkdir(exist_ok=True)
    train(job_of(shards, folder / "run", val_fraction=0.4, **TWO), worker)
    torch.save(embed_five_rows(shards, folder / "none", worker), folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(shards, tmp_path_factory):
    """Embeddings of five samples by each of two ranks, and the folder of their run."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(work, args=(shards, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)], folder


def test_embed_rows_on_two_ranks_equals_one_rank(ranks, shards, tmp_path):
    alone, is_there = embed_five_rows(shards, tmp_path / "none", SINGLE)
    assert is_there.all() and alone.std(dim=0).min() > 0
    for rank in ranks[0]:
        torch.testing.assert_close(rank[0], alone, rtol=1e-5, atol=1e-6)
        assert torch.equal(rank[1], is_there)


def test_validation_on_two_ranks_equals_one_rank(ranks, shards, tmp_path):
    run = RunDirectory(ranks[1] / "run")
    rows = [row for row in run.metrics() if "validation_knn" in row]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    job = job_of(shards, tmp_path / "run", val_fraction=0.4)
    model = build_model(job.recipe)
    model.load_state_dict(run.checkpoints()[-1].load_model())
    shard_set = ShardSet.open(str(shards))
    dataset = FaceDataset(shard_set, DecodeSpec(job.channels, model.towers.image_size), 0)
    sides = (shard_set.of_subjects(subjects) for subjects in (job.subjects, job.validation_subjects))
    seen = Validation.from_rows(*sides).accuracy(model, dataset, dataset.directions(shard_set.rows), SINGLE)
    assert rows[-1]["validation_knn"] == pytest.approx(seen, abs=1e-6)


def test_balanced_sampling_reads_each_expression_equally_often(tmp_path):
    shards = tmp_path / "shards"
    samples = write_shard_set(shards, num_subjects=6, expressions=("HA", "SA", "NE"), channels=("rgb",))
    rare = {sample.record.key for sample in samples if sample.record.expression == "SA"}
    subjects = sorted({sample.record.subject for sample in samples})
    # One of six people has a sad face.
    where = f"expression != 'SA' or subject == '{subjects[0]}'"
    options = {"split": "all", "where": where, "val_fraction": 0.0}
    drawn = {
        sampling: watch(job_of(shards, tmp_path / sampling, sampling=sampling, **options), SINGLE)[0][0]
        for sampling in ("uniform", "balanced")
    }
    num_rare = {name: sum(key in rare for key in keys) for name, keys in drawn.items()}
    assert num_rare["uniform"] == 1 and abs(num_rare["balanced"] - len(drawn["balanced"]) / 3) <= 1


@pytest.mark.parametrize("options", [{"text": "none"}, {"text": "pseudo"}, {"recipe": "barlow"}])
def test_balanced_sampling_is_refused_where_labels_are_not_used(shards, tmp_path, options):
    with pytest.raises(UsageError, match=r"^sampling balanced: draws samples by their labels"):
        job_of(shards, tmp_path, sampling="balanced", **options)


def test_sampling_decides_the_result_and_earlier_runs_stay_valid(shards, tmp_path):
    uniform, balanced = (config(shards, tmp_path, sampling=name).for_fingerprint() for name in ("uniform", "balanced"))
    assert balanced == uniform | {"sampling": "balanced"}
