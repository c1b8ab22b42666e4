"""The export stage: write a trained model for open_clip or as an ONNX graph, or embeddings of shards as a table.

    open run and shards -> check all requests -> directory for open_clip, ONNX graph, table of embeddings

Nothing is written before all requests have been checked.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from smile_pipe.pipeline.data.dataset import DiskCache, FaceDataset
from smile_pipe.pipeline.data.integrity import open_shards
from smile_pipe.pipeline.data.temporal import TemporalRead
from smile_pipe.pipeline.export.config import ExportConfig, ExportResult
from smile_pipe.pipeline.export.embeddings_table import write_embeddings
from smile_pipe.pipeline.export.onnx_graph import check_onnx, check_size, write_onnx
from smile_pipe.pipeline.export.open_clip_folder import check_folder, check_towers, write_open_clip
from smile_pipe.pipeline.runs.load_model import TrainedModel
from smile_pipe.pipeline.runs.rig import rig_differences
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.pipeline.runs.selection import SampleSelection, check_channel, resolve_temporal_read, select_rows
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample_table import SampleTable
from smile_pipe.shards.storage import StoragePath


@dataclass(frozen=True)
class _Samples:
    """The samples to embed."""

    shards: ShardSet
    rows: SampleTable
    temporal: TemporalRead
    disk_cache: DiskCache


def run(config: ExportConfig, on_progress: Callable[[int, int], None] = lambda done, total: None) -> ExportResult:
    """Export a run.

    Args:
        config: the options.
        on_progress: called with the number of embedded samples and their total.

    Raises:
        UsageError: no finished run, nothing requested, or an impossible request; nothing has been written.
        BadSampleError: a sample is damaged, or, if these are skipped, all samples are; there is no table.
        DisagreementError: ONNX Runtime and PyTorch compute different embeddings; there is no graph.
    """
    _check(config)
    manifest, checkpoint = open_run(config.run)
    samples = _select_samples(config, config.shards, manifest) if config.embeddings and config.shards else None
    trained = TrainedModel.load(manifest, checkpoint)
    if config.onnx:
        check_size(trained.model)
    if config.open_clip:
        check_towers(trained, manifest)
    metadata = _metadata(manifest)
    result: dict[str, Any] = {"notes": _notes(config, manifest, samples)}
    if config.open_clip:
        write_open_clip(config.open_clip, trained, manifest, metadata)
    if config.onnx:
        result["onnx_difference"] = write_onnx(_with_parent(config.onnx), trained.model, metadata)
    if config.embeddings and samples:
        decode_spec = trained.decode_spec(manifest, samples.temporal)
        dataset = FaceDataset(samples.shards, decode_spec, 0, config.on_bad_shard, disk_cache=samples.disk_cache)
        if config.use_gpu:
            trained = replace(trained, model=trained.model.cuda(), device=torch.device("cuda"))
        path = _with_parent(config.embeddings)
        num_written = write_embeddings(path, trained, dataset, samples.rows, manifest, config.batch_size, on_progress)
        result |= {"num_embeddings": num_written, "num_skipped": len(samples.rows) - num_written}
    paths = config.model_dump(include={"open_clip", "onnx", "embeddings"})
    return ExportResult.model_validate({"run_fingerprint": manifest.fingerprint, **paths, **result})


def _check(config: ExportConfig) -> None:
    """Check the options alone."""
    if not (config.open_clip or config.onnx or config.embeddings):
        raise UsageError("nothing to export; give `open_clip=DIR`, `onnx=FILE` or `embeddings=FILE`")
    if config.embeddings and not config.shards:
        raise UsageError("need samples; give `shards`", field="embeddings")
    if config.shards and not config.embeddings:
        raise UsageError("only `embeddings` reads shards; give a file for these, or leave `shards` out", field="shards")
    for option, file in (("onnx", config.onnx), ("embeddings", config.embeddings)):
        if file and file.is_dir():
            raise UsageError("is a directory; name a file", field=option, value=file)
    if config.open_clip:
        check_folder(config.open_clip)
    if config.onnx:
        check_onnx()


def _select_samples(config: ExportConfig, spec: str, run: RunManifest) -> _Samples:
    """Select samples as `smile-pipe evaluate` selects those to score."""
    selection = SampleSelection(spec, config.split, config.where, config.on_bad_shard)
    shards = open_shards(spec, config.on_bad_shard)
    check_channel(selection, run, shards)
    _, rows = select_rows(selection, run, shards)
    disk_cache = DiskCache.of(config.cache_dir, config.cache_gb)
    return _Samples(shards, rows, resolve_temporal_read(selection, run, shards, rows), disk_cache)


def _metadata(run: RunManifest) -> dict[str, str]:
    """Metadata of the exported files."""
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
        notes.append("the ONNX graph embeds single frames: it does not contain the temporal pooling of the run")
    if samples and not samples.shards.fingerprints <= run.training_sets:
        notes.append("the shards are not those of the run: the column `side` is based on the names of subjects only")
    if samples and (differences := rig_differences(run, samples.shards.manifest)):
        notes.append(f"the run was trained on another rig than that of the shards: {'; '.join(differences)}")
    return tuple(notes)


def _with_parent(path: StoragePath) -> StoragePath:
    """Create the parent directory of a local path; returns the path."""
    path.parent.ensure_folder()
    return path
