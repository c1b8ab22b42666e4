"""`export --onnx`: the graph computes what the run computes, for any number of faces and views."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from helpers.samples import make_timeline, write_shard_set
from helpers.small_runs import learn, reader_of, register, result, shake
from smile_pipe.pipeline.export import onnx_graph
from smile_pipe.pipeline.export.config import ExportConfig
from smile_pipe.pipeline.export.onnx_graph import TOLERANCE, DisagreementError, write_onnx
from smile_pipe.pipeline.export.stage import run as export
from smile_pipe.pipeline.runs.run_directory import RunDirectory
from smile_pipe.shards.errors import UsageError


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory) -> Path:
    """A run of the recipe with attention across views, which depends on their number too."""
    out = tmp_path_factory.mktemp("run") / "run"
    learn(shards, out, epochs=1, recipe="facet-vlm")
    shake(out)
    return out


@pytest.fixture(scope="module")
def graph(run, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "new" / "faces.onnx"
    exported = export(ExportConfig(run=run, onnx=file))
    assert 0 <= exported.onnx_difference <= TOLERANCE and exported.notes == ()
    return file


def compute(graph: Path, views: NDArray[np.float32], directions: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(["embedding", "view_embeddings"], {"views": views, "directions": directions})


def assert_agrees(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    """Compare in the unit of `TOLERANCE`."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(1, np.abs(expected).max()))


def test_graph_embeds_samples_as_the_run(graph, run, shards):
    reader = reader_of(shards, run)
    rows = reader.shards.rows[:5]
    (expected,) = result(run).embed_views(reader, rows, 5)
    views = np.concatenate([reader.read(row).views for row in rows]).astype(np.float32) / 255
    fused, of_views = compute(graph, views, reader.directions(rows).numpy())
    assert_agrees(fused, expected.fused)
    assert_agrees(of_views, expected.views)


@pytest.mark.parametrize(("num", "num_views"), [(1, 1), (1, 4), (7, 2), (2, 9)])
def test_number_of_faces_and_views_is_free(num, num_views, graph, run):
    generator = torch.Generator().manual_seed(num)
    views = torch.rand(num, num_views, 3, 8, 8, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(num_views, 3, generator=generator))
    with torch.inference_mode():
        of_views, (_, fused, _) = (z := result(run).model.embed_views(views)), result(run).model.fuse(z, directions)
    found = compute(graph, views.numpy(), directions.numpy())
    assert [part.shape for part in found] == [(num, 128), (num, num_views, 128)]
    assert_agrees(found[0], fused.numpy())
    assert_agrees(found[1], of_views.numpy())


def test_directions_of_views_are_used(graph):
    views, directions = np.random.default_rng(0).random((1, 2, 3, 8, 8), np.float32), np.eye(3, dtype=np.float32)[:2]
    one, other = (compute(graph, views, d) for d in (directions, directions[::-1].copy()))
    assert np.abs(one[0] - other[0]).max() > 100 * TOLERANCE
    np.testing.assert_array_equal(one[1], other[1])


def test_file_is_a_valid_model_with_metadata(graph, run):
    model = onnx.load(graph)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["run_fingerprint"] == RunDirectory(run).manifest().fingerprint
    assert (metadata["recipe"], metadata["channel"], metadata["classes"]) == ("facet-vlm", "rgb", "HA,SA,NE")
    assert str(run.parent).encode() not in graph.read_bytes()


class TestErrors:
    """Failed exports leave an existing file unchanged."""

    @pytest.fixture
    def existing_file(self, tmp_path) -> Path:
        (tmp_path / "faces.onnx").write_bytes(b"as it was")
        return tmp_path / "faces.onnx"

    def is_unchanged(self, existing_file: Path) -> bool:
        return [(path.name, path.read_bytes()) for path in existing_file.parent.iterdir()] == [
            ("faces.onnx", b"as it was")
        ]

    @pytest.mark.parametrize(
        ("name", "change", "difference"),
        [("project_image.2.bias", 1.0, r"\d\.\de[+-]\d\d"), ("fusion.score.weight", torch.nan, "nan")],
    )
    def test_graph_that_differs_from_the_model_is_not_written(
        self, name, change, difference, run, graph, existing_file, monkeypatch
    ):
        monkeypatch.setattr(onnx_graph, "_export", lambda _, file, facts: file.write_bytes(graph.read_bytes()))
        model = result(run).model
        assert write_onnx(existing_file.parent / "good.onnx", model, {}) <= TOLERANCE
        (existing_file.parent / "good.onnx").unlink()
        with torch.no_grad():
            model.get_parameter(name).add_(change)
        with pytest.raises(DisagreementError, match=f"differs from PyTorch by {difference}; not written"):
            write_onnx(existing_file, model, {})
        assert self.is_unchanged(existing_file)

    def test_missing_package_raises_with_the_install_command(self, run, existing_file, monkeypatch):
        real = onnx_graph.find_spec
        monkeypatch.setattr(onnx_graph, "find_spec", lambda name: None if name == "onnxscript" else real(name))
        with pytest.raises(UsageError, match=r"onnx: needs onnxscript; pip install 'smile-pipe\[onnx\]'"):
            export(ExportConfig(run=run, onnx=existing_file, open_clip=existing_file.parent / "model"))
        assert self.is_unchanged(existing_file)

    def test_tower_above_the_size_limit_raises(self, run, existing_file, monkeypatch):
        monkeypatch.setattr(onnx_graph, "MAX_BYTES", 1000)
        with pytest.raises(UsageError, match="over 2 GiB of weights, the limit of an ONNX file; use `open_clip`"):
            export(ExportConfig(run=run, onnx=existing_file, open_clip=existing_file.parent / "model"))
        assert self.is_unchanged(existing_file)


def test_run_on_sequences_has_a_note_on_temporal_pooling(tmp_path, monkeypatch):
    monkeypatch.setattr("smile_pipe.pipeline.export.stage.write_onnx", lambda path, model, facts: 0.0)
    register(tmp_path)
    timelines = (None, make_timeline(2), make_timeline(3))
    write_shard_set(tmp_path / "shards", num_subjects=6, channels=("rgb",), timelines=timelines)
    learn(tmp_path / "shards", tmp_path / "run", epochs=1)
    exported = export(ExportConfig(run=tmp_path / "run", onnx=tmp_path / "faces.onnx"))
    assert len(exported.notes) == 1 and "does not contain the temporal pooling" in exported.notes[0]
