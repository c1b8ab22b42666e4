"""Image tower and fusion as one ONNX graph, for runtimes without Python.

Goes in: a trained model. Comes out: a file whose graph takes `views` float32 [N, V, 3, H, W] in [0, 1], of N faces, and
`directions` float32 [V, 3], unit vectors from the face towards the cameras, for any N and V; it gives `embedding`
float32 [N, D], the fused one, and `view_embeddings` float32 [N, V, D], neither of unit length. Promised: the file is
there only if ONNX Runtime and PyTorch agree on it.

Temporal pooling is not in the graph: each of the N is a scan, or one frame of a sequence.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from smile_pipe.model.objectives import ContrastiveModel
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath

TOLERANCE = 1e-4
"""How far a number may lie from PyTorch's, as a share of the largest one, or of 1 where all are smaller."""

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# What a file of protocol buffers holds.
MAX_BYTES = (1 << 31) - (1 << 24)
# Faces and views that the graph is traced with, and those that it is checked with: other ones, and single ones.
_TRACED = (2, 3)
_CHECKED = ((2, 3), (1, 1), (3, 2), (1, 5))


class DisagreementError(RuntimeError):
    """ONNX Runtime computes something else than PyTorch."""


class FaceGraph(nn.Module):
    """Views of scans and the directions of their cameras -> fused embeddings, and those of the views."""

    def __init__(self, model: ContrastiveModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, views: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Views [N, V, 3, H, W] in [0, 1] and directions [V, 3] -> [N, D], [N, V, D]."""
        view_embeddings = self.model.embed_moments(views)
        return self.model.fuse(view_embeddings, directions)[1], view_embeddings


def check_onnx() -> None:
    """Raise UsageError where a package is not installed that a graph is written or checked with."""
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UsageError(f"needs {', '.join(missing)}; pip install 'smile-pipe[onnx]'", field="onnx")


def check_size(model: ContrastiveModel) -> None:
    """Raise UsageError where an image tower is too large for one file."""
    if sum(weight.nbytes for weight in model.towers.clip.visual.parameters()) > MAX_BYTES:
        raise UsageError(
            "the image tower has over 2 GiB of weights, and a file holds no more; use `open_clip`", field="onnx"
        )


def write_onnx(path: PathLike, model: ContrastiveModel, facts: Mapping[str, str]) -> float:
    """Write the graph of a model on the CPU in evaluation mode, with `facts` as its metadata.

    Returns the largest difference from PyTorch, as `TOLERANCE` has it.

    Raises:
        DisagreementError: it is over `TOLERANCE`; no file has been written.
    """
    graph = FaceGraph(model).eval()
    with StoragePath(path).replacing() as file:
        _export(graph, file, facts)
        difference = _difference(graph, file)
        # Not `>`, which holds for no NaN.
        if not difference <= TOLERANCE:
            raise DisagreementError(
                f"`onnx={path}`: ONNX Runtime differs from PyTorch by {difference:.1e}; not written"
            )
    return difference


def _export(graph: FaceGraph, file: Path, facts: Mapping[str, str]) -> None:
    num, num_views = torch.export.Dim("N"), torch.export.Dim("V")
    with _quiet():
        program = torch.onnx.export(
            graph,
            _example(graph, *_TRACED),
            dynamo=True,
            dynamic_shapes={"views": {0: num, 1: num_views}, "directions": {0: num_views}},
            input_names=["views", "directions"],
            output_names=["embedding", "view_embeddings"],
            verbose=False,
        )
    program.model.metadata_props.update(facts)
    program.save(file, external_data=False)


def _difference(graph: FaceGraph, file: Path) -> float:
    """The largest one from PyTorch; NaN where anything is."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    differences = []
    for shape in _CHECKED:
        views, directions = _example(graph, *shape)
        found = session.run(None, {"views": views.numpy(), "directions": directions.numpy()})
        with torch.inference_mode():
            expected = graph(views, directions)
        for one, other in zip(map(torch.from_numpy, found), expected, strict=True):
            differences.append((one - other).abs().max() / other.abs().max().clamp(min=1))
    # Not Python's `max`, which passes a NaN over.
    return torch.stack(differences).max().item()


def _example(graph: FaceGraph, num: int, num_views: int) -> tuple[Tensor, Tensor]:
    size, generator = graph.model.towers.image_size, torch.Generator().manual_seed(num_views)
    views = torch.rand(num, num_views, 3, size, size, generator=generator)
    return views, nn.functional.normalize(torch.randn(num_views, 3, generator=generator), dim=-1)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of what it does in passing, and of nothing that the check would not find."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
