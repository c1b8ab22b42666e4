"""The options of the export stage.

What the export stage says of itself.
"""

from pydantic import Field

from smile_pipe.pipeline.common.filters import WHERE_HELP
from smile_pipe.pipeline.data.integrity import ON_BAD_SHARD_HELP, OnBadShard
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.splits import HELP as SPLIT_HELP
from smile_pipe.shards.storage import StoragePath


class ExportConfig(Frozen):
    """Options of `smile-pipe export`."""

    run: StoragePath = Field(description="Directory of a finished training run, or its URL.")
    open_clip: StoragePath | None = Field(
        None, description="Write a directory that open_clip loads as local-dir:DIR, with a README of how to use it."
    )
    onnx: StoragePath | None = Field(
        None, description="Write image tower and fusion as an ONNX graph to this file, once it agrees with PyTorch."
    )
    embeddings: StoragePath | None = Field(
        None, description="Write the fused embeddings of `shards` to this parquet file, one row a sample."
    )
    shards: str | None = Field(
        None, description="What `embeddings` are of: a directory, manifest.json, glob, brace pattern or URL."
    )
    split: str = Field("all", description=f"Whose `embeddings`: the test side of {SPLIT_HELP}.")
    where: str | None = Field(None, description=WHERE_HELP)
    batch_size: int = Field(64, ge=1, description="Samples embedded at a time.")
    on_bad_shard: OnBadShard = Field("fail", description=ON_BAD_SHARD_HELP)
    use_gpu: bool = Field(False, description="Embed on the GPU.")


class Exported(Frozen):
    """What has been written.

    Attributes:
        run_fingerprint: the run that it is of.
        open_clip, onnx, embeddings: where to; None where it was not asked for.
        onnx_difference: how far ONNX Runtime is from PyTorch at most (pipeline/export/onnx_graph.py).
        num_embeddings, num_skipped: rows of the table, and samples that are not in it, as they are damaged.
        notes: what is not as one might take it to be.
    """

    run_fingerprint: str
    open_clip: StoragePath | None
    onnx: StoragePath | None
    embeddings: StoragePath | None
    onnx_difference: float | None = None
    num_embeddings: int = 0
    num_skipped: int = 0
    notes: tuple[str, ...] = ()
