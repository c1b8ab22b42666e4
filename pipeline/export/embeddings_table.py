"""Fused embeddings as a parquet file, one row a sample, for whatever reads tables.

Goes in: a trained model and rows of a shard set. Comes out: the file; its schema's metadata says of which run and
shards it is. Promised: memory does not grow with the number of samples by more than their rows of the index.
"""

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from smile_pipe.pipeline.data.dataset import FaceDataset
from smile_pipe.pipeline.data.integrity import nothing_left
from smile_pipe.pipeline.runs.load_model import FaceEmbeddings, TrainedModel
from smile_pipe.pipeline.runs.run_manifest import RunManifest
from smile_pipe.shards.index import INDEX_SCHEMA, IndexRow
from smile_pipe.shards.storage import PathLike, StoragePath

FROM_INDEX = ("key", "subject", "expression", "level", "num_frames", "frame_rate", "layout", "labels")
ROWS_PER_GROUP = 1024


def write_embeddings(
    path: PathLike,
    model: TrainedModel,
    reader: FaceDataset,
    rows: Sequence[IndexRow],
    run: RunManifest,
    batch_size: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write the embeddings of `rows`, without those that the reader skips; returns how many there are.

    Raises:
        BadSampleError: a sample is damaged, or where these are skipped, all are; nothing has been written.
    """
    schema = _schema(model.model.config.joint_dim, run, reader.shards.manifest.fingerprint)
    by_key, sides = {row.key: row for row in rows}, sides_of(run)
    num_written, waiting = 0, list[pa.RecordBatch]()
    with StoragePath(path).replacing() as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as table:
            for part in model.embed_views(reader, rows, batch_size):
                waiting.append(_columns(part, by_key, sides, schema))
                num_written += len(part.keys)
                # Batches together, since a row group is what a reader reads at once.
                if sum(map(len, waiting)) >= ROWS_PER_GROUP:
                    table.write_table(pa.Table.from_batches(waiting))
                    waiting.clear()
                on_progress(num_written, len(rows))
            if waiting:
                table.write_table(pa.Table.from_batches(waiting))
        if num_written == 0:
            raise nothing_left(reader.shards, len(rows))
    return num_written


def sides_of(run: RunManifest) -> dict[str, str]:
    """On which side of the run's split its subjects are: train, validation or test."""
    sides = {"test": run.test_subjects, "train": run.train_subjects, "validation": run.validation_subjects}
    return {subject: side for side, subjects in sides.items() for subject in subjects}


def _schema(dim: int, run: RunManifest, shards_fingerprint: str) -> pa.Schema:
    metadata = {
        "run_fingerprint": run.fingerprint,
        "shards_fingerprint": shards_fingerprint,
        "recipe": str(run.recipe["name"]),
        "channel": run.channel,
        "text_source": run.text_source,
        "embedding": "fused over the views, not of unit length",
    }
    fields = [INDEX_SCHEMA.field(name) for name in FROM_INDEX]
    fields += [pa.field("side", pa.string()), pa.field("embedding", pa.list_(pa.float32(), dim))]
    return pa.schema(fields, metadata)


def _columns(
    part: FaceEmbeddings, by_key: Mapping[str, IndexRow], sides: Mapping[str, str], schema: pa.Schema
) -> pa.RecordBatch:
    rows = [by_key[key] for key in part.keys]
    columns = {name: [getattr(row, name) for row in rows] for name in FROM_INDEX}
    columns["labels"] = [sorted(row.labels.items()) for row in rows]
    columns["side"] = [sides.get(row.subject, "other") for row in rows]
    arrays = [pa.array(values, schema.field(name).type) for name, values in columns.items()]
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(part.fused.ravel()), part.fused.shape[1])
    return pa.RecordBatch.from_arrays([*arrays, embedding], schema=schema)
