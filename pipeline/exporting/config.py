"""The options of the export stage."""

from pydantic import Field

from pipeline.training.config import WHERE_HELP
from pipeline.training.damage import ON_BAD_SHARD_HELP, OnBadShard
from shards.manifest import Frozen
from shards.places import AnyPlace
from shards.splits import HELP as SPLIT_HELP


class ExportConfig(Frozen):
    """Options of `smile-pipe export`."""

    run: AnyPlace = Field(description="Directory of a finished training run, or its URL.")
    open_clip: AnyPlace | None = Field(
        None, description="Write a directory that open_clip loads as local-dir:DIR, with a README of how to use it."
    )
    onnx: AnyPlace | None = Field(
        None, description="Write image tower and fusion as an ONNX graph to this file, once it agrees with PyTorch."
    )
    embeddings: AnyPlace | None = Field(
        None, description="Write the fused embeddings of --shards to this parquet file, one row a sample."
    )
    shards: str | None = Field(
        None, description="What --embeddings are of: a directory, manifest.json, glob, brace pattern or URL."
    )
    split: str = Field("all", description=f"Whose --embeddings: the test side of {SPLIT_HELP}.")
    where: str | None = Field(None, description=WHERE_HELP)
    batch_size: int = Field(64, ge=1, description="Samples embedded at a time.")
    on_bad_shard: OnBadShard = Field("fail", description=ON_BAD_SHARD_HELP)
    use_gpu: bool = Field(False, description="Embed on the GPU.")
