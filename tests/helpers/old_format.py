"""Shard sets as releases before schema version 3 wrote them: the members of a sample in the order of its record."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

from smile_pipe.pipeline.render.output import RenderOutput
from smile_pipe.shards.images import extension
from smile_pipe.shards.index import read_index, write_index
from smile_pipe.shards.manifest import ShardManifest
from smile_pipe.shards.reader import ShardSet
from smile_pipe.shards.sample import Sample, to_members
from smile_pipe.shards.writer import PackedSample, write_shard


def to_version_2(root: Path) -> Path:
    """Rewrite a finished shard set in place as an earlier release would have written it."""
    shards, rows, before = ShardSet.open(str(root)), [], read_index(root / "index.parquet")
    packed = {row.key: PackedSample(_pack(shards.read(row)), row.fingerprint) for row in shards.rows}
    entries = []
    for entry in shards.manifest.shards:
        own = [row for row in before if row.shard == entry.name]
        written, locations = write_shard(root / "shards" / entry.name, [packed[row.key] for row in own])
        entries.append(written)
        rows += [replace(row, **vars(at)) for row, at in zip(own, locations, strict=True)]
    write_index(root / "index.parquet", rows)
    content = shards.manifest.model_dump(mode="json") | {"schema_version": 2}
    ShardManifest.model_validate_json(json.dumps(content)).model_copy(update={"shards": tuple(entries)}).write(
        root / "manifest.json"
    )
    return root


def interrupt(root: Path) -> None:
    """Give a finished set of version 2 the files of an interrupted run of that time: records and no manifest."""
    output = RenderOutput(root)
    output.begin(())
    for path in output.progress.local.glob("*.json"):
        record = json.loads(path.read_bytes())
        assert record.pop("schema_version") == 2
        path.write_text(json.dumps(record))
    for path in (output.index_path, output.failures_path, output.card_path):
        path.unlink()


def _pack(sample: Sample) -> bytes:
    record, members = sample.record, dict(to_members(sample))
    images = [f"{record.key}.{view}.{name}.{extension(name)}" for view, name in record.images]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in (f"{record.key}.json", f"{record.key}.txt", *images):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            tar.addfile(info, io.BytesIO(members[name]))
        end = tar.offset
    return buffer.getvalue()[:end]
