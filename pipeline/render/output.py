"""The output directory of a render: the final tables, and the shard records of an unfinished run.

    SHARDS/manifest.json, index.parquet, failures.parquet, shards/000000.tar ...
    SHARDS/.progress/000000.tar.json      one record a finished shard; removed after the manifest is written

A shard is finished if it has a record or is in the manifest, so an interrupted run loses only the shards that it was
working on.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, TypeAdapter, ValidationError

from smile_pipe.pipeline.common.directory_lock import NAME as LOCK
from smile_pipe.pipeline.runs.cards import shards_card
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import (
    FailureRow,
    IndexRow,
    read_failures,
    read_index_by_shard,
    write_failures,
    write_index,
)
from smile_pipe.shards.manifest import (
    SHARD_NAME,
    ShardEntry,
    ShardManifest,
    ShardName,
    ShardSetPaths,
    fingerprint,
)
from smile_pipe.shards.storage import PathLike, StoragePath


@dataclass(frozen=True)
class ShardRecord:
    """The content of one finished shard.

    Attributes:
        name: file name of the shard.
        settings: fingerprint of the settings that its images depend on.
        entry: the shard in the manifest; None if all of its samples failed and there is no file.
        rows: its samples in the index; of a finished run as columns.
        failures: its failed samples.
        schema_version: see `ShardManifest`; records of releases that wrote version 2 do not have it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: ShardName
    settings: str
    entry: ShardEntry | None
    # A tuple also if it was read from a record, so that it equals the one that was written.
    rows: Annotated[Sequence[IndexRow], AfterValidator(tuple)]
    failures: tuple[FailureRow, ...]
    schema_version: int = 2

    @property
    def samples(self) -> list[IndexRow | FailureRow]:
        """All samples, rendered or failed."""
        return [*self.rows, *self.failures]


_SHARD_RECORD = TypeAdapter(ShardRecord)


class RenderOutput(ShardSetPaths):
    """An output directory, which only the render stage reads and writes.

    Attributes:
        root: the directory.
        shards: the folder of the tars.
        progress: the folder of the records of an unfinished run.
        deaths: the folder in which `limits.py` counts deaths of workers, if it is on a disk.
    """

    def __init__(self, root: PathLike) -> None:
        super().__init__(root)
        self.deaths = self.progress / "deaths"

    def worker_deaths(self, job: str = "") -> str:
        """The folder in which workers count deaths.

        It is in the output directory, or, as requests to a storage would be slow, in the workers' current directory.
        Ray has one such folder on each node, so there a sample may cost two workers a node. It may outlive a driver
        that is killed with its workers, so each `job` has its own: such deaths are not the fault of samples.
        """
        return str(self.deaths) if self.deaths.is_local else f".deaths-{fingerprint(str(self.root), job)}"

    def check_writable(self) -> None:
        """Check before any work that the directory can be created and written.

        Raises:
            UsageError: it cannot, or it holds files of something else.
        """
        self.root.check_output_folder()
        if (
            self.root.is_dir()
            and not self.manifest_path.exists()
            and not self.progress.exists()
            and any(path.name != LOCK for path in self.root.iterdir())
        ):
            raise UsageError(
                "holds files that are not of a render; choose a new or empty directory", field="out", value=self.root
            )

    def manifest(self) -> ShardManifest | None:
        """Return the manifest of a finished run, if there is one."""
        return ShardManifest.read(self.manifest_path) if self.manifest_path.exists() else None

    def read_records(self) -> list[ShardRecord]:
        """Return the finished shards by name; records of an unfinished run take precedence over the manifest."""
        found = {record.name: record for record in self._finished()}
        for path in (self.progress / name for name in self.progress.file_sizes() if name.endswith(".json")):
            # A record that this release cannot read is ignored, and its shard is built again. So is one in the file of
            # another shard, as it would not be removed with its own.
            with suppress(ValidationError):
                record = _SHARD_RECORD.validate_json(path.read_bytes())
                if path.name == self._record_path(record.name).name:
                    found[record.name] = record
        return [found[name] for name in sorted(found)]

    def shard_sizes(self) -> dict[str, int]:
        """Return the sizes in bytes of all shards in the directory, by name."""
        return {name: size for name, size in self.shards.file_sizes().items() if SHARD_NAME.fullmatch(name)}

    def begin(self, removed: Iterable[str]) -> None:
        """Start a run: create the folders, remove leftovers of a killed run, and remove the manifest.

        The finished shards of the manifest become records.

        Args:
            removed: names of shards to remove.
        """
        # First, as it marks the directory as one of a render.
        self.progress.mkdir(parents=True, exist_ok=True)
        self.shards.mkdir(exist_ok=True)
        # Object stores have no empty folders.
        (self.progress / "begun").write_bytes(b"")
        # Deaths of a killed run are not the fault of the samples that its workers were reading.
        self.deaths.remove_tree()
        for folder in (self.root, self.shards, self.progress):
            folder.remove_leftovers()
        if self.manifest_path.exists():
            for record in self.read_records():
                self.write_record(record)
            self.manifest_path.unlink()
        for name in removed:
            (self.shards / name).unlink(missing_ok=True)
            self.remove_record(name)

    def write_record(self, record: ShardRecord) -> None:
        """Record that a shard is finished."""
        self._record_path(record.name).write_atomically(
            _SHARD_RECORD.dump_json(replace(record, rows=tuple(record.rows)))
        )

    def remove_record(self, name: str) -> None:
        """Remove the record of a shard, if there is one."""
        self._record_path(name).unlink(missing_ok=True)

    def refresh(self, records: Sequence[ShardRecord]) -> None:
        """Write the tables; after a finished run this updates the times of files."""
        write_index(self.index_path, (row for record in records for row in record.rows))
        write_failures(self.failures_path, [failure for record in records for failure in record.failures])

    def finish(self, manifest: ShardManifest, records: Sequence[ShardRecord]) -> None:
        """Finish a run: write the tables, the card and, last, the manifest; then remove the records."""
        self.refresh(records)
        card = shards_card(manifest, (row for record in records for row in record.rows))
        self.card_path.write_atomically(card.encode())
        manifest.write(self.manifest_path)
        self.progress.remove_tree()

    def _record_path(self, name: str) -> StoragePath:
        return self.progress / f"{name}.json"

    def _finished(self) -> list[ShardRecord]:
        manifest = self.manifest()
        if manifest is None:
            return []
        entries = {entry.name: entry for entry in manifest.shards}
        rows = read_index_by_shard(self.index_path)
        failures: dict[str, list[FailureRow]] = {}
        for failure in read_failures(self.failures_path):
            failures.setdefault(failure.shard, []).append(failure)
        return [
            ShardRecord(
                name=name,
                settings=manifest.images_fingerprint,
                entry=entries.get(name),
                rows=rows.get(name, ()),
                failures=tuple(failures.get(name, ())),
                schema_version=manifest.schema_version,
            )
            for name in {**entries, **rows, **failures}
        ]
