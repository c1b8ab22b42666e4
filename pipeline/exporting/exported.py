"""What the export stage says of itself."""

from shards.manifest import Frozen
from shards.places import AnyPlace


class Exported(Frozen):
    """What has been written.

    Attributes:
        run_fingerprint: the run that it is of.
        open_clip, onnx, embeddings: where to; None where it was not asked for.
        onnx_difference: how far ONNX Runtime is from PyTorch at most (pipeline/exporting/onnx_graph.py).
        num_embeddings, num_skipped: rows of the table, and samples that are not in it, as they are damaged.
        notes: what is not as one might take it to be.
    """

    run_fingerprint: str
    open_clip: AnyPlace | None
    onnx: AnyPlace | None
    embeddings: AnyPlace | None
    onnx_difference: float | None = None
    num_embeddings: int = 0
    num_skipped: int = 0
    notes: tuple[str, ...] = ()
