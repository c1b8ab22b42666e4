"""Write fused embeddings as a parquet file, one row per sample, for any tool that reads tables.

The schema's metadata contains the fingerprints of the run and of the shards. Memory holds at most `ROWS_PER_GROUP` rows
and one batch of embeddings at a time, besides the rows of the index.
"""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.data.integrity import no_readable_sample
from smile_pipe.pipeline.runs.load_model import FaceEmbeddings, TrainedModel
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.index import INDEX_SCHEMA, SampleRow
from smile_pipe.shards.storage import PathLike, StoragePath

INDEX_COLUMNS = ("key", "subject", "expression", "level", "num_frames", "frame_rate", "layout", "labels")
ROWS_PER_GROUP = 1024


def write_embeddings(
    path: PathLike,
    model: TrainedModel,
    dataset: FaceDataset,
    rows: Sequence[SampleRow],
    run: RunManifest,
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the embeddings of rows, without those of damaged samples that the dataset skips.

    Args:
        path: output file.
        model: model of the run.
        dataset: reader of the rows.
        rows: samples to embed.
        run: manifest of the run.
        batch_size: number of samples at a time.
        on_progress: called with the number of written rows and of all rows.

    Returns:
        The number of written rows.

    Raises:
        BadSampleError: a sample is damaged, or, if these are skipped, all samples are; nothing has been written.
    """
    schema = _schema(model.model.embed_dim, run, dataset.shards.manifest.fingerprint)
    by_key, split_parts = {row.key: row for row in rows}, subject_split_parts(run)
    num_written, pending = 0, list[pa.RecordBatch]()
    with StoragePath(path).replacing() as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as table:
            for batch in model.embed_views(dataset, rows, batch_size):
                pending.append(_record_batch(batch, by_key, split_parts, schema))
                num_written += len(batch.keys)
                # Several batches at once, since each call writes a row group, the unit in which files are read.
                if sum(map(len, pending)) >= ROWS_PER_GROUP:
                    table.write_table(pa.Table.from_batches(pending))
                    pending.clear()
                on_progress(num_written, len(rows))
            if pending:
                table.write_table(pa.Table.from_batches(pending))
        if num_written == 0:
            raise no_readable_sample(dataset.shards, len(rows))
    return num_written


def subject_split_parts(run: RunManifest) -> dict[str, str]:
    """Return the part of the run's split that each subject is in: train, validation or test."""
    parts = {"test": run.test_subjects, "train": run.train_subjects, "validation": run.validation_subjects}
    return {subject: part for part, subjects in parts.items() for subject in subjects}


def _schema(dim: int, run: RunManifest, shards_fingerprint: str) -> pa.Schema:
    metadata: dict[bytes | str, bytes | str] = {
        "run_fingerprint": run.fingerprint,
        "shards_fingerprint": shards_fingerprint,
        "recipe": str(run.recipe["name"]),
        "channel": run.channel,
        "text_source": run.text_source,
        "embedding": "fused over the views, not of unit length",
    }
    fields = [INDEX_SCHEMA.field(name) for name in INDEX_COLUMNS]
    fields += [pa.field("side", pa.string()), pa.field("embedding", pa.list_(pa.float32(), dim))]
    return pa.schema(fields, metadata)


def _record_batch(
    batch: FaceEmbeddings, by_key: Mapping[str, SampleRow], split_parts: Mapping[str, str], schema: pa.Schema
) -> pa.RecordBatch:
    rows = [by_key[key] for key in batch.keys]
    columns = {name: [getattr(row, name) for row in rows] for name in INDEX_COLUMNS}
    columns["labels"] = [sorted(row.labels.items()) for row in rows]
    columns["side"] = [split_parts.get(row.subject, "other") for row in rows]
    arrays = [pa.array(values, schema.field(name).type) for name, values in columns.items()]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(batch.fused.ravel()), batch.fused.shape[1])
    return pa.RecordBatch.from_arrays([*arrays, embedding], schema=schema)
