"""Export image tower and fusion as one ONNX graph, for runtimes without Python.

Inputs, for any N faces and V views:

    views             float32 [N, V, 3, H, W], in [0, 1]; with C channels [N, V, 3 C, H, W], in the order of the run
    directions        float32 [V, 3], unit vectors from the face towards the cameras

Outputs, not of unit length:

    embedding         float32 [N, D], fused
    view_embeddings   float32 [N, V, D]

The graph contains no temporal pooling: each of the N faces is a scan, or one frame of a sequence. The file is written
only if ONNX Runtime and PyTorch compute the same embeddings.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from smile_pipe.model.recipes import RecipeModel
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath

TOLERANCE = 1e-4
"""Maximum absolute difference from PyTorch, divided by the largest absolute value of an output or 1 if that is less."""

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# Limit of protocol buffers (2 GiB), minus space for the graph.
MAX_BYTES = (1 << 31) - (1 << 24)
# (faces, views) of the example that the graph is traced with, and of the examples that it is checked with.
_TRACED = (2, 3)
_CHECKED = ((2, 3), (1, 1), (3, 2), (1, 5))


class DisagreementError(RuntimeError):
    """ONNX Runtime and PyTorch compute different embeddings."""


class FaceGraph(nn.Module):
    """The exported part of a model: views and directions -> fused embeddings and embeddings of the views."""

    def __init__(self, model: RecipeModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, views: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Embed views [N, V, 3 C, H, W] in [0, 1] with directions [V, 3]; returns [N, D] and [N, V, D]."""
        view_embeddings = self.model.embed_frames(views)
        return self.model.fuse(view_embeddings, directions)[1], view_embeddings


def check_onnx() -> None:
    """Raise UsageError if a package is missing that writes or checks graphs."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UsageError(f"needs {', '.join(missing)}; pip install 'smile-pipe[onnx]'", field="onnx")


def check_size(model: RecipeModel) -> None:
    """Raise UsageError if the image tower is too large for one file."""
    image_towers = [towers.clip.get_submodule("visual") for towers in model.all_towers]
    if sum(weight.nbytes for tower in image_towers for weight in tower.parameters()) > MAX_BYTES:
        raise UsageError(
            "the image tower has over 2 GiB of weights, the limit of an ONNX file; use `open_clip`", field="onnx"
        )


def write_onnx(path: PathLike, model: RecipeModel, metadata: Mapping[str, str]) -> float:
    """Write the graph of a model.

    Args:
        path: output file.
        model: a model on the CPU.
        metadata: metadata of the graph.

    Returns:
        The maximum difference from PyTorch, in the unit of `TOLERANCE`.

    Raises:
        DisagreementError: the difference is above `TOLERANCE`; no file has been written.
    """
    graph = FaceGraph(model).eval()
    with StoragePath(path).replacing() as file:
        _export(graph, file, metadata)
        difference = _difference(graph, file)
        # `>` would be false for NaN.
        if not difference <= TOLERANCE:
            raise DisagreementError(
                f"`onnx={path}`: ONNX Runtime differs from PyTorch by {difference:.1e}; not written"
            )
    return difference


def _export(graph: FaceGraph, file: Path, metadata: Mapping[str, str]) -> None:
    num_faces, num_views = torch.export.Dim("N"), torch.export.Dim("V")
    with _quiet():
        program = torch.onnx.export(
            graph,
            _example(graph, *_TRACED),
            dynamo=True,
            dynamic_shapes={"views": {0: num_faces, 1: num_views}, "directions": {0: num_views}},
            input_names=["views", "directions"],
            output_names=["embedding", "view_embeddings"],
            verbose=False,
        )
    assert program is not None, "dynamo=True returns a program"
    program.model.metadata_props.update(metadata)
    program.save(file, external_data=False)


def _difference(graph: FaceGraph, file: Path) -> float:
    """Return the maximum difference from PyTorch over all examples; NaN if any output contains NaN."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    differences = []
    for shape in _CHECKED:
        views, directions = _example(graph, *shape)
        outputs = session.run(None, {"views": views.numpy(), "directions": directions.numpy()})
        with torch.inference_mode():
            expected = graph(views, directions)
        for output, reference in zip(map(torch.from_numpy, outputs), expected, strict=True):
            differences.append((output - reference).abs().max() / reference.abs().max().clamp(min=1))
    # Python's `max` may ignore NaN.
    return torch.stack(differences).max().item()


def _example(graph: FaceGraph, num_faces: int, num_views: int) -> tuple[Tensor, Tensor]:
    size, generator = graph.model.image_size, torch.Generator().manual_seed(num_views)
    num_colors = 3 * graph.model.config.num_channels
    views = torch.rand(num_faces, num_views, num_colors, size, size, generator=generator)
    return views, nn.functional.normalize(torch.randn(num_views, 3, generator=generator), dim=-1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter: its warnings are on details, and the check finds any error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
