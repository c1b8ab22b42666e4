"""Reading of shards with webdataset, Ray Data, Hugging Face datasets and open_clip, and the loops of the README."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from helpers import tiny_arch
from helpers.paths import REPOSITORY
from helpers.samples import VIEWS, make_sample, write_shard_set
from smile_pipe.shards.images import CHANNELS, decode_image
from smile_pipe.shards.sample import Sample, decode_member, to_members
from smile_pipe.shards.writer import write_shard

*SNIPPETS, OPEN_CLIP = re.findall(r"```python\n(.*?)```", (REPOSITORY / "shards/README.md").read_text(), re.DOTALL)
IMAGES = [(view.name, channel) for view in VIEWS for channel in CHANNELS]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[list[str], dict[str, Sample]]:
    """Shards of four, four and one sample, and the samples by key."""
    root = tmp_path_factory.mktemp("shards")
    samples = write_shard_set(root, num_subjects=3, samples_per_shard=4)
    return sorted(map(str, (root / "shards").glob("*.tar"))), {sample.record.key: sample for sample in samples}


def suffix(view: str, channel: str) -> str:
    return f"{view}.{channel}.{'jpg' if channel == 'rgb' else 'png'}"


def test_webdataset_returns_all_members_unchanged(written):
    webdataset = pytest.importorskip("webdataset")
    paths, samples = written
    read = {row["__key__"]: row for row in webdataset.WebDataset(paths, shardshuffle=False)}
    assert list(read) == list(samples)
    for key, sample in samples.items():
        members = {name: content for name, content in read[key].items() if not name.startswith("__")}
        assert {f"{key}.{name}": content for name, content in members.items()} == dict(to_members(sample))


# Another JPEG decoder may round differently.
TOLERANCE = {"rgb": 2, "depth": 0, "normal": 0, "flow": 0, "landmarks": 0}


def seen_by_others(channel: str, pixels: np.ndarray) -> np.ndarray:
    """What Pillow, which the other readers use, returns for 16-bit colour: the high byte of each value."""
    return pixels >> 8 if channel == "flow" else pixels


def test_webdataset_decodes_images_json_and_text(written):
    webdataset = pytest.importorskip("webdataset")
    paths, samples = written
    dataset = webdataset.WebDataset(paths, shardshuffle=False).decode("rgb8")
    for row, sample in zip(dataset, samples.values(), strict=True):
        assert row["json"] == json.loads(sample.record.model_dump_json())
        assert row["txt"] == sample.text
        for view, channel in (name for name in IMAGES if name[1] != "depth"):
            ours = decode_image(channel, sample.images[view, channel]).astype(int)
            assert np.abs(row[suffix(view, channel)] - seen_by_others(channel, ours)).max() <= TOLERANCE[channel]


def test_ray_data_returns_all_members_unchanged(written, ray_cluster):
    import ray

    paths, samples = written
    rows = {row["__key__"]: row for row in ray.data.read_webdataset(paths, decoder=None).take_all()}
    assert rows.keys() == samples.keys()
    for key, sample in samples.items():
        members = {name: content for name, content in rows[key].items() if not name.startswith("__")}
        assert {f"{key}.{name}": content for name, content in members.items()} == dict(to_members(sample))


def test_ray_data_decodes_images_json_and_text(written, ray_cluster):
    import ray

    paths, samples = written
    for row in ray.data.read_webdataset(paths).take_all():
        sample = samples[row["__key__"]]
        assert row["txt"] == sample.text and row["json"]["key"] == sample.record.key
        for view, channel in IMAGES:
            ours = decode_image(channel, sample.images[view, channel]).astype(int)
            assert np.abs(row[suffix(view, channel)] - seen_by_others(channel, ours)).max() <= TOLERANCE[channel]


@pytest.fixture
def hugging_face(monkeypatch, tmp_path):
    """The `datasets` package, with a local cache and without network access."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def test_hugging_face_datasets_reads_every_sample_with_its_images(written, hugging_face):
    paths, samples = written
    dataset = hugging_face.load_dataset("webdataset", data_files={"train": paths}, split="train")
    assert dataset["__key__"][:] == list(samples)
    for row in dataset:
        sample = samples[row["__key__"]]
        assert row["txt"] == sample.text
        assert row["json"]["cameras"][0]["name"] == "front" and row["json"]["expression"] == sample.record.expression
        for view, channel in IMAGES:
            pixels = np.asarray(row[suffix(view, channel)])
            assert (pixels == np.asarray(Image.open(io.BytesIO(sample.images[view, channel])))).all()


def test_hugging_face_datasets_streams_every_sample(written, hugging_face):
    paths, samples = written
    stream = hugging_face.load_dataset("webdataset", data_files={"train": paths}, split="train", streaming=True)
    assert [(row["__key__"], row["txt"]) for row in stream] == [(k, sample.text) for k, sample in samples.items()]


def test_hugging_face_datasets_reads_many_neutral_faces_before_one_with_a_level(hugging_face, tmp_path: Path):
    # It infers the types of the record's fields from the first five samples.
    levels = [None] * 6 + [4]
    samples = [
        make_sample(f"{i}", expression="HA" if level else "NE", level=level, channels=("rgb",))
        for i, level in enumerate(levels)
    ]
    write_shard(tmp_path / "000000.tar", samples)
    dataset = hugging_face.load_dataset(
        "webdataset",
        data_files={"train": str(tmp_path / "000000.tar")},
        split="train",
    )
    assert [row["json"]["level"] for row in dataset] == [0, 0, 0, 0, 0, 0, 4]


def test_webdataset_with_our_decoder_reads_all_bits(written):
    webdataset = pytest.importorskip("webdataset")
    paths, samples = written
    rows = webdataset.WebDataset(paths, shardshuffle=False).decode(decode_member)
    for row, sample in zip(rows, samples.values(), strict=True):
        assert row["txt"] == sample.text and row["json"] == json.loads(sample.record.model_dump_json())
        for view, channel in IMAGES:
            found, expected = row[suffix(view, channel)], decode_image(channel, sample.images[view, channel])
            assert found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize(
    "snippet",
    SNIPPETS,
    ids=["webdataset loop", "torch loop", "ray loop", "webdataset", "ray", "datasets"],
)
def test_readme_snippets_print_every_sample(snippet, hugging_face, ray_cluster, tmp_path, capfd):
    samples = write_shard_set(tmp_path / "SHARDS", samples_per_shard=4)
    exec(snippet.replace("SHARDS", f"{tmp_path}/SHARDS"), {"__name__": "snippet"})
    printed = capfd.readouterr().out
    for sample in samples:
        record = sample.record
        assert f"{record.key} {sample.text} {record.subject} " in printed


class TestOpenClip:
    @pytest.fixture
    def data(self, monkeypatch):
        """open_clip's reading of data, with the change of the README."""
        from open_clip_train import data, main
        from webdataset import tariterators

        for module in (data, tariterators):
            monkeypatch.setattr(module, "tar_file_expander", module.tar_file_expander)
        monkeypatch.setattr(main, "main", lambda options: None)
        exec(OPEN_CLIP, {"__name__": "snippet"})
        return data

    @pytest.mark.parametrize("is_train", [True, False])
    def test_every_sample_is_read_with_its_view(self, written, data, is_train):
        paths, samples = written
        shards = f"{Path(paths[0]).parent}/{{000000..00000{len(paths) - 1}}}.tar"
        num_samples = len(samples)
        options = SimpleNamespace(
            train_data=shards, val_data=shards, train_num_samples=num_samples, val_num_samples=num_samples,
            train_data_upsampling_factors=None, seed=0, workers=0, world_size=1, batch_size=3,
        )  # fmt: skip
        info = data.get_wds_dataset(options, np.asarray, is_train, tokenizer=lambda text: [text])
        read = [(pixels, text) for images, texts in info.dataloader for pixels, text in zip(images, texts, strict=True)]
        expected = [np.asarray(Image.open(io.BytesIO(s.images["front", "rgb"]))) for s in samples.values()]
        found = {pixels.numpy().tobytes(): text for pixels, text in read}
        texts = [sample.text for sample in samples.values()]
        assert len(read) == num_samples
        assert found == {pixels.tobytes(): text for pixels, text in zip(expected, texts, strict=True)}

    @pytest.mark.slow
    def test_training_script_trains_on_one_view(self, written, tmp_path):
        paths, samples = written
        arch = tiny_arch.CONFIG | {"text_cfg": tiny_arch.CONFIG["text_cfg"] | {"vocab_size": 49408}}
        (tmp_path / "tiny.json").write_text(json.dumps(arch))
        register = f"import open_clip\nopen_clip.add_model_config({str(tmp_path / 'tiny.json')!r})\n"
        (tmp_path / "train_view.py").write_text(register + OPEN_CLIP)
        shards = f"{Path(paths[0]).parent}/{{000000..00000{len(paths) - 1}}}.tar"
        options = {
            "train-data": shards, "dataset-type": "webdataset", "train-num-samples": len(samples), "model": "tiny",
            "batch-size": 3, "workers": 1, "epochs": 1, "logs": tmp_path / "logs", "device": "cpu", "precision": "fp32",
        }  # fmt: skip
        command = [sys.executable, "train_view.py", *(f"--{name}={value}" for name, value in options.items())]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0 and "[9/9 (100%)]" in done.stderr + done.stdout, done.stderr
        assert list(tmp_path.glob("logs/*/checkpoints/epoch_1.pt"))
