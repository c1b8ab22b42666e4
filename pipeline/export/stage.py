"""The export stage: a run in, the same model in formats that others read out.

    open run and shards -> check all that is asked for -> DIR for open_clip, ONNX graph, table of embeddings

Nothing is written before all that is asked for has been checked.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from smile_pipe.pipeline.data.dataset import DecodeSpec, FaceDataset
from smile_pipe.pipeline.data.integrity import open_shards
from smile_pipe.pipeline.data.temporal import TemporalRead
from smile_pipe.pipeline.evaluate.config import EvaluateConfig
from smile_pipe.pipeline.export.config import ExportConfig, Exported
from smile_pipe.pipeline.export.embeddings_table import write_embeddings
from smile_pipe.pipeline.export.onnx_graph import check_onnx, check_size, write_onnx
from smile_pipe.pipeline.export.open_clip_folder import check_folder, write_open_clip
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.selection import check_channel, read_of_sequences, select_rows
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import IndexRow
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.storage import StoragePath


@dataclass(frozen=True)
class _Samples:
    """Whose embeddings are asked for."""

    shards: ShardSet
    rows: list[IndexRow]
    temporal: TemporalRead


def run(config: ExportConfig, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Exported:
    """Export a run; `on_progress` is told of samples that are embedded.

    Raises:
        UsageError: no finished run, nothing asked for, or something that cannot be had; nothing has been written.
        BadSampleError: a sample is damaged, or where these are skipped, all are; there is no table.
        DisagreementError: ONNX Runtime computes something else than PyTorch; there is no graph.
    """
    _check(config)
    manifest, checkpoint = open_run(config.run)
    samples = _samples(config, manifest) if config.embeddings else None
    trained = TrainedModel.load(manifest, checkpoint)
    if config.onnx:
        check_size(trained.model)
    facts = _facts(manifest)
    found: dict[str, Any] = {"notes": _notes(config, manifest, samples)}
    if config.open_clip:
        write_open_clip(config.open_clip, trained, manifest, facts)
    if config.onnx:
        found["onnx_difference"] = write_onnx(_file(config.onnx), trained.model, facts)
    if config.embeddings and samples:
        reading = DecodeSpec(manifest.channel, trained.model.towers.image_size, samples.temporal, manifest.max_frames)
        reader = FaceDataset(samples.shards, reading, 0, config.on_bad_shard)
        if config.use_gpu:
            trained = replace(trained, model=trained.model.cuda(), device=torch.device("cuda"))
        given = (trained, reader, samples.rows, manifest, config.batch_size, on_progress)
        found["num_embeddings"] = write_embeddings(_file(config.embeddings), *given)
        found["num_skipped"] = len(samples.rows) - found["num_embeddings"]
    written = config.model_dump(include={"open_clip", "onnx", "embeddings"})
    return Exported.model_validate({"run_fingerprint": manifest.fingerprint, **written, **found})


def _check(config: ExportConfig) -> None:
    """What can be told from the options alone."""
    if not (config.open_clip or config.onnx or config.embeddings):
        raise UsageError("nothing to export; give `open_clip=DIR`, `onnx=FILE` or `embeddings=FILE`")
    if config.embeddings and not config.shards:
        raise UsageError("are of samples; say of which with `shards`", field="embeddings")
    if config.shards and not config.embeddings:
        raise UsageError(
            "are read for `embeddings` alone; name a file for these, or leave `shards` out", field="shards"
        )
    for option, file in (("onnx", config.onnx), ("embeddings", config.embeddings)):
        if file and file.is_dir():
            raise UsageError("is a directory; name a file", field=option, value=file)
    if config.open_clip:
        check_folder(config.open_clip)
    if config.onnx:
        check_onnx()


def _samples(config: ExportConfig, run: RunManifest) -> _Samples:
    """Chosen as `smile-pipe evaluate` chooses whom to score."""
    shared = config.model_dump(include={"run", "shards", "split", "where", "on_bad_shard"})
    scope = EvaluateConfig.model_validate(shared)
    shards = open_shards(scope.shards, config.on_bad_shard)
    check_channel(scope, run, shards, None)
    rows = select_rows(scope, run, shards)[1]
    return _Samples(shards, rows, read_of_sequences(scope, run, shards, rows))


def _facts(run: RunManifest) -> dict[str, str]:
    """What an exported file tells of itself."""
    return {
        "run_fingerprint": run.fingerprint,
        "recipe": str(run.recipe["name"]),
        "channel": run.channel,
        "text_source": run.text_source,
        "classes": ",".join(run.classes),
    }


def _notes(config: ExportConfig, run: RunManifest, samples: _Samples | None) -> tuple[str, ...]:
    notes = []
    if config.onnx and run.temporal != "none":
        notes.append("the ONNX graph embeds single frames: the temporal pooling that the run learned is not in it")
    if samples and samples.shards.manifest.fingerprint != run.shards_fingerprint:
        notes.append("the shards are not those of the run: the column `side` goes by the names of subjects alone")
    return tuple(notes)


def _file(path: StoragePath) -> StoragePath:
    """The path, in a folder that is there."""
    path.parent.ensure_folder()
    return path
