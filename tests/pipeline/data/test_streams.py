"""Streams of samples for other training loops: webdataset, PyTorch and Ray Data."""

import os
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.data
import webdataset as wds
from torch.utils.data import DataLoader

from helpers.samples import make_timeline, spoil, write_shard_set
from helpers.trees import upload
from smile_pipe import open_shards
from smile_pipe.pipeline.data.integrity import BadSampleError
from smile_pipe.pipeline.data.sample_stream import SampleStream
from smile_pipe.pipeline.data.streams import StreamableShardSet
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.sample import SampleError, decode_member
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.storage import StoragePath

NUM_SAMPLES = 21


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 samples in shards of four, and one of one."""
    root = tmp_path_factory.mktemp("streams") / "shards"
    write_shard_set(root, num_subjects=7)
    return root


@pytest.fixture(scope="module")
def shards(root: Path) -> StreamableShardSet:
    return open_shards(str(root))


@pytest.fixture(scope="module")
def stock(root: Path) -> dict[str, dict[str, Any]]:
    """The samples as plain webdataset reads them with our decoder, by key."""
    return {sample["__key__"]: sample for sample in read_stock(root)}


def read_stock(root: Path) -> list[dict[str, Any]]:
    paths = sorted(str(path) for path in (root / "shards").glob("*.tar"))
    samples = list(wds.WebDataset(paths, shardshuffle=False).decode(decode_member))
    return [
        {name: value for name, value in sample.items() if name[0] != "_" or name == "__key__"} for sample in samples
    ]


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype and np.array_equal(found[name], value), name
        else:
            assert found[name] == value, name


def keys(samples: Any) -> list[str]:
    return [sample["__key__"] for sample in samples]


def key_of(sample: dict[str, Any]) -> str:
    return sample["__key__"]


def images(shape: Sequence[Any]) -> set[str]:
    return {name for name in shape if name.endswith((".jpg", ".png"))}


class TestSamples:
    @pytest.mark.parametrize("kind", ["webdataset", "torch"])
    def test_samples_are_those_of_plain_webdataset(self, shards, stock, kind):
        samples = list(getattr(shards, kind)())
        assert sorted(keys(samples)) == sorted(stock)
        for sample in samples:
            assert_equal(sample, stock[sample["__key__"]])

    def test_images_keep_all_bits(self, shards):
        sample = next(iter(shards.torch()))
        assert sample["front.depth.png"].dtype == sample["front.flow.png"].dtype == np.uint16
        assert (sample["front.flow.png"] & 255).any()

    def test_only_images_of_the_channels_are_decoded(self, shards, monkeypatch):
        (sample, *_) = shards.webdataset(channels=["depth"])
        assert images(sample) == {f"{view}.depth.png" for view in ("front", "left", "right")}
        assert sample["txt"] and sample["json"]["key"] == sample["__key__"]

    def test_only_samples_of_the_subjects_are_read(self, shards):
        samples = list(shards.torch(subjects=["F0002", "F0005"]))
        assert len(samples) == 6 and {sample["json"]["subject"] for sample in samples} == {"F0002", "F0005"}

    def test_sequences_have_their_frames(self, tmp_path):
        write_shard_set(tmp_path / "shards", timelines=(make_timeline(2, "both"),), channels=("depth",))
        samples = list(open_shards(str(tmp_path / "shards")).torch())
        moments = ("00", "01", "dynamic")
        assert images(samples[0]) == {f"{v}.depth.{m}.png" for v in ("front", "left", "right") for m in moments}
        expected = {sample["__key__"]: sample for sample in read_stock(tmp_path / "shards")}
        for sample in samples:
            assert_equal(sample, expected[sample["__key__"]])

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"channels": ["rgb", "heat"]}, "channels"),
            ({"subjects": ["F0001", "nobody"]}, "subjects"),
            ({"rank": 2, "world_size": 2}, "rank"),
            ({"epoch": -1}, "epoch"),
            ({"start": -1}, "start"),
            ({"batch_size": 0}, "batch_size"),
        ],
    )
    def test_invalid_arguments_are_refused(self, shards, options, field):
        for stream in (shards.torch, shards.webdataset):
            with pytest.raises(UsageError) as caught:
                stream(**options)
            assert caught.value.field == field


class TestOrder:
    def test_order_is_a_function_of_seed_and_epoch(self, shards):
        first = keys(shards.torch())
        assert first == keys(shards.torch()) == keys(shards.webdataset())
        others = [keys(shards.torch(epoch=1)), keys(shards.torch(seed=1))]
        assert len({tuple(order) for order in (first, *others)}) == 3
        assert all(sorted(order) == sorted(first) for order in others)

    @pytest.mark.parametrize("world_size", [2, 4, 5])
    def test_ranks_share_the_samples_evenly(self, shards, world_size):
        parts = [keys(shards.torch(rank=rank, world_size=world_size)) for rank in range(world_size)]
        assert sorted(list(chain(*parts))) == sorted(keys(shards.torch()))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1

    def test_a_rank_reads_the_same_samples_in_every_epoch(self, shards):
        orders = [keys(shards.torch(epoch=epoch, rank=1, world_size=3)) for epoch in range(3)]
        assert len(set(map(tuple, orders))) == 3 and len(set(map(frozenset, orders))) == 1

    def test_more_ranks_than_samples(self, shards):
        parts = [keys(shards.torch(subjects=["F0001"], rank=rank, world_size=5)) for rank in range(5)]
        assert sorted(map(len, parts)) == [0, 0, 1, 1, 1] and len(set(list(chain(*parts)))) == 3

    @pytest.mark.parametrize("num_workers", [1, 2, 3])
    def test_workers_of_webloader_read_each_sample_once_in_order(self, shards, num_workers):
        pipeline = shards.webdataset(channels=["rgb"])
        assert keys(wds.WebLoader(pipeline, batch_size=None, num_workers=num_workers)) == keys(pipeline)

    @pytest.mark.parametrize("num_workers", [0, 1, 2, 3])
    def test_batches_do_not_depend_on_the_workers(self, shards, num_workers):
        expected = keys(shards.torch(rank=1, world_size=2, start=1))
        stream = shards.torch(["rgb"], rank=1, world_size=2, start=1, batch_size=4, transform=key_of)
        batches = list(DataLoader(stream, batch_size=4, num_workers=num_workers))
        assert batches == [expected[n : n + 4] for n in range(0, len(expected), 4)]

    def test_batches_of_webdataset_in_workers(self, shards):
        pipeline = shards.webdataset(["rgb"], batch_size=4).compose(wds.to_tuple("__key__", "front.rgb.jpg"))
        batches = wds.WebLoader(pipeline.compose(wds.batched(4)), batch_size=None, num_workers=2)
        order = keys(shards.torch())
        assert [list(names) for names, _ in batches] == [order[n : n + 4] for n in range(0, NUM_SAMPLES, 4)]

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_set_epoch_reaches_workers_that_are_kept(self, shards, num_workers):
        stream = shards.torch(["rgb"])
        loader = DataLoader(stream, batch_size=None, num_workers=num_workers, persistent_workers=num_workers > 0)
        for epoch in (0, 0, 3):
            stream.set_epoch(epoch)
            assert keys(loader) == keys(shards.torch(epoch=epoch))


def resumed(stream: SampleStream, state: dict[str, Any]) -> list[str]:
    # Checkpoints and workers receive copies.
    stream.load_state_dict(pickle.loads(pickle.dumps(state)))
    return keys(stream)


class TestResume:
    @pytest.mark.parametrize("kind", ["webdataset", "torch"])
    def test_start_leaves_out_the_first_samples_of_the_rank(self, shards, kind):
        options = {"channels": ["rgb"], "epoch": 2, "rank": 1, "world_size": 2, "seed": 5}
        whole = keys(shards.torch(**options))
        for start in range(len(whole) + 2):
            assert keys(getattr(shards, kind)(**options, start=start)) == whole[start:]

    def test_start_is_of_the_first_epoch_only(self, shards):
        stream = shards.torch(["rgb"], epoch=1, start=15)
        assert len(keys(stream)) == NUM_SAMPLES - 15
        stream.set_epoch(2)
        assert keys(stream) == keys(shards.torch(epoch=2))

    def test_state_continues_after_any_sample(self, shards):
        whole = keys(shards.torch(epoch=1))
        stream = shards.torch(["rgb"], epoch=1)
        states = [stream.state_dict(), *(stream.state_dict() for _ in stream)]
        for seen, state in enumerate(states):
            other = shards.torch(["rgb"])
            assert resumed(other, state) == whole[seen:]
            other.set_epoch(2)
            assert keys(other) == keys(shards.torch(epoch=2))

    def test_state_of_a_resumed_iteration_continues_it(self, shards):
        whole = keys(shards.torch())
        first = shards.torch(["rgb"], start=3)
        for _, _ in zip(range(4), first, strict=False):
            pass
        second = shards.torch(["rgb"])
        second.load_state_dict(first.state_dict())
        assert [sample["__key__"] for _, sample in zip(range(5), second, strict=False)] == whole[7:12]
        assert resumed(shards.torch(["rgb"]), second.state_dict()) == whole[12:]

    def test_state_of_one_process_continues_with_workers(self, shards):
        stream = shards.torch(["rgb"])
        for _, _ in zip(range(5), stream, strict=False):
            pass
        other = shards.torch(["rgb"], batch_size=2, transform=key_of)
        other.load_state_dict(stream.state_dict())
        batches = list(DataLoader(other, batch_size=2, num_workers=2))
        assert list(chain(*batches)) == keys(shards.torch())[5:]

    def test_states_of_workers_continue_in_workers(self, shards):
        """A stateful loader collects the state of each worker's copy, and gives it to the copy of the same number."""
        loader = StatefulLoader(shards.torch(["rgb"], batch_size=2, start=1), num_workers=3)
        seen, states = loader.read(4)
        rest, _ = StatefulLoader(shards.torch(["rgb"], batch_size=2), num_workers=3, states=states).read(99, first=4)
        assert seen + rest == keys(shards.torch())[1:]

    def test_states_of_workers_are_refused_by_another_number_of_workers(self, shards):
        _, states = StatefulLoader(shards.torch(["rgb"]), num_workers=3).read(4)
        for num_workers in (0, 2):
            with pytest.raises(UsageError, match="3 workers"):
                StatefulLoader(shards.torch(["rgb"]), num_workers=num_workers, states=states).read(1)

    def test_state_of_other_shards_is_refused(self, shards):
        state = shards.torch().state_dict() | {"num_workers": 2}
        manifest = shards.manifest.model_copy(update={"fingerprint": "other"})
        with pytest.raises(UsageError, match="other shards"):
            replace(shards, manifest=manifest).torch().load_state_dict(state)


class StatefulLoader:
    """Copies of a stream as the workers of a stateful loader have them, one after the other in this process."""

    def __init__(self, stream: SampleStream, num_workers: int, states: Sequence[dict[str, Any]] | None = None) -> None:
        self.copies = [pickle.loads(pickle.dumps(stream)) for _ in range(max(num_workers, 1))]
        self.num_workers = num_workers
        for copied, state in zip(self.copies, states or (), strict=False):
            copied.load_state_dict(state)

    def read(self, num_batches: int, first: int = 0, batch_size: int = 2) -> tuple[list[str], list[dict[str, Any]]]:
        """The keys of batches, of which each is read by the next worker, and the states after them."""
        streams = []
        for number, copied in enumerate(self.copies):
            with pytest.MonkeyPatch.context() as patch:
                info = WorkerInfo(number, self.num_workers) if self.num_workers else None
                patch.setattr("smile_pipe.pipeline.data.sample_stream.get_worker_info", lambda info=info: info)
                streams.append(iter(copied))
        found = []
        for number in range(first, first + num_batches):
            stream = streams[number % len(streams)]
            found += [sample["__key__"] for _, sample in zip(range(batch_size), stream, strict=False)]
        return found, [copied.state_dict() for copied in self.copies]


class WorkerInfo:
    def __init__(self, number: int, num_workers: int) -> None:
        self.id, self.num_workers = number, num_workers


@pytest.fixture
def remote(root: Path, s3_url: str, tmp_path: Path) -> StreamableShardSet:
    """The shards in an object store, and an empty cache folder for them."""
    upload(root, StoragePath(f"{s3_url}/shards"))
    return open_shards(f"{s3_url}/shards", cache_dir=str(tmp_path / "cache"))


def test_tasks_of_ray_do_not_carry_the_whole_index(shards, monkeypatch):
    sent = []
    monkeypatch.setattr(ray.data, "from_arrow", lambda tables: SimpleNamespace(map=sent.append))
    columns = pa.concat_tables([shards.rows.columns] * 500).unify_dictionaries().combine_chunks()
    large = replace(shards, rows=SampleTable(columns))
    large.ray()
    (reader,) = sent
    assert len(pickle.dumps(reader._shards.rows)) < len(pickle.dumps(large.rows)) / 100


class TestRemote:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_each_shard_is_copied_once_for_all_workers_and_epochs(self, remote, stock, num_workers, monkeypatch):
        stream = remote.torch()
        # The storage client of this process is in use before the workers are forked.
        remote.read(remote.rows[0])
        for _ in range(2):
            samples = list(DataLoader(stream, batch_size=None, num_workers=num_workers))
            assert sorted(keys(samples)) == sorted(stock)
            assert len(list((remote.cache_dir or Path()).glob("*.tar"))) == len(remote.manifest.shards)
            # From now on there are the copies only.
            remote.filesystem.rm([remote.shard_path(entry.name) for entry in remote.manifest.shards])

    def test_without_cache_samples_are_read_from_the_storage(self, remote, stock):
        stream = replace(remote, cache_gb=0).torch()
        assert sorted(keys(stream)) == sorted(stock) and not list((remote.cache_dir or Path()).iterdir())

    def test_ray_copies_each_shard_once(self, remote, stock, ray_cluster):
        assert sorted(keys(remote.ray().take_all())) == sorted(stock)
        assert len(list((remote.cache_dir or Path()).glob("*.tar"))) == len(remote.manifest.shards)


class TestRay:
    def test_rows_are_those_of_plain_webdataset(self, shards, stock, ray_cluster):
        rows = shards.ray().take_all()
        assert sorted(keys(rows)) == sorted(stock)
        for row in rows:
            assert_equal(row, stock[row["__key__"]])

    def test_each_shard_is_read_by_a_task_and_selections_hold(self, shards, ray_cluster):
        dataset = shards.ray(channels=["depth"], subjects=["F0001", "F0002", "F0003"]).materialize()
        assert dataset.count() == 9 and dataset.num_blocks() == 3
        assert images(dataset.schema().names) == {f"{view}.depth.png" for view in ("front", "left", "right")}

    def test_damaged_sample_is_an_error(self, root, tmp_path, ray_cluster):
        damaged = damaged_copy(root, tmp_path)
        with pytest.raises(ray.exceptions.RayError, match="F0003_SA04WH cannot be read"):
            damaged.ray().take_all()

    def test_storage_in_memory_is_refused(self, root, tmp_path):
        url = upload(root, StoragePath(f"memory://{tmp_path.name}/shards"))
        with pytest.raises(UsageError, match="cannot see memory"):
            open_shards(str(url)).ray()


def damaged_copy(root: Path, folder: Path) -> StreamableShardSet:
    shutil.copytree(root, folder / "shards")
    shards = open_shards(str(folder / "shards"))
    spoil(folder / "shards", [row for row in shards.rows if row.key == "F0003_SA04WH"])
    return shards


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"rank": 1, "world_size": 2}, {"world_size": 2}, {"batch_size": 2}, {"subjects": ["F0001", "F0002"]}],
)
def test_state_of_another_order_is_refused(shards, options):
    state = shards.torch().state_dict() | {"num_workers": 2}
    with pytest.raises(UsageError, match="the state is of an iteration with"):
        shards.torch(**options).load_state_dict(state)


class TestSafety:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_damaged_sample_is_an_error(self, root, tmp_path, num_workers):
        damaged = damaged_copy(root, tmp_path)
        for stream in (damaged.torch(["rgb"]), damaged.webdataset(["rgb"])):
            with pytest.raises(BadSampleError, match="F0003_SA04WH cannot be read"):
                keys(DataLoader(stream, batch_size=None, num_workers=num_workers))

    @pytest.mark.parametrize("spec", ["pipe:touch {}", "pipe://touch {}", "pipe::touch {}", "file://pipe:touch {}"])
    def test_commands_in_place_of_paths_never_run(self, spec, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError):
            open_shards(spec.format(tmp_path / "ran"))
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "suffix", ["pyd", "pkl", "pickle", "pth", "npy", "front.pyd", "front.rgb.pkl", "front.rgb.png"]
    )
    def test_other_members_are_refused_and_nothing_is_unpickled(self, suffix, tmp_path):
        bomb = pickle.dumps(Bomb(tmp_path / "ran"))
        with pytest.raises(SampleError, match="neither a record"):
            decode_member(f".{suffix}", bomb)
        with wds.TarWriter(str(tmp_path / "0.tar"), encoder=False) as tar:
            tar.write({"__key__": "a", suffix: bomb})
        # webdataset 1.x names the member in an error of its own.
        with pytest.raises((SampleError, getattr(wds, "DecodingError", SampleError))) as caught:
            list(wds.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False).decode(decode_member))
        assert isinstance(caught.value.__cause__ or caught.value, SampleError) and not (tmp_path / "ran").exists()

    def test_stock_decoders_of_webdataset_would_run_the_code(self, tmp_path):
        """The test before this one can fail."""
        with wds.TarWriter(str(tmp_path / "0.tar"), encoder=False) as tar:
            tar.write({"__key__": "a", "pyd": pickle.dumps(Bomb(tmp_path / "ran"))})
        list(wds.WebDataset(str(tmp_path / "0.tar"), shardshuffle=False).decode())
        assert (tmp_path / "ran").exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_streams_are_of_one_set(root):
    with pytest.raises(UsageError, match="names several shard sets; open and stream each"):
        open_shards(f"{root}::{root}")
