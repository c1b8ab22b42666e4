"""Options and result of the export stage."""

from typing import Annotated

from pydantic import Field

from smile_pipe.pipeline.common.filters import WHERE_HELP
from smile_pipe.pipeline.common.option_types import (
    DEFAULT_CACHE_GB,
    SHARDS_HELP,
    CacheFolder,
    CacheGigabytes,
    Repeated,
    SetsOfShards,
)
from smile_pipe.pipeline.data.integrity import ON_BAD_SHARD_HELP, OnBadShard
from smile_pipe.shards.manifest import Frozen
from smile_pipe.shards.splits import HELP as SPLIT_HELP
from smile_pipe.shards.storage import StoragePath


class ExportConfig(Frozen):
    """Options of `smile-pipe export`."""

    run: StoragePath = Field(description="Directory of a finished training run, or its URL.")
    open_clip: StoragePath | None = Field(
        None, description="Output directory for open_clip, which loads it as local-dir:DIR; its README has an example."
    )
    onnx: StoragePath | None = Field(
        None, description="Output file of an ONNX graph of image tower and fusion, checked against PyTorch."
    )
    embeddings: StoragePath | None = Field(
        None, description="Output parquet file of the fused embeddings of `shards`, one row per sample."
    )
    shards: Annotated[str | None, SetsOfShards, Repeated] = Field(None, description=f"For `embeddings`. {SHARDS_HELP}")
    split: str = Field("all", description=f"Samples for `embeddings`: the test part of {SPLIT_HELP}.")
    where: str | None = Field(None, description=WHERE_HELP)
    batch_size: int = Field(64, ge=1, description="Number of samples embedded at a time.")
    cache_dir: CacheFolder = None
    cache_gb: CacheGigabytes = DEFAULT_CACHE_GB
    on_bad_shard: OnBadShard = Field("fail", description=ON_BAD_SHARD_HELP)
    use_gpu: bool = Field(False, description="Embed on the GPU.")


class ExportResult(Frozen):
    """What an export has written.

    Attributes:
        run_fingerprint: fingerprint of the exported run.
        open_clip, onnx, embeddings: output paths; None where not requested.
        onnx_difference: maximum difference of ONNX Runtime from PyTorch (pipeline/export/onnx_graph.py).
        num_embeddings: number of rows of the table.
        num_skipped: number of damaged samples that the table lacks.
        notes: limits of the exported files.
    """

    run_fingerprint: str
    open_clip: StoragePath | None
    onnx: StoragePath | None
    embeddings: StoragePath | None
    onnx_difference: float | None = None
    num_embeddings: int = 0
    num_skipped: int = 0
    notes: tuple[str, ...] = ()
