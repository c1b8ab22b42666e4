"""The output directory of a render: the final tables, and the receipts of a run that is under way.

    SHARDS/manifest.json, index.parquet, failures.parquet, shards/000000.tar ...
    SHARDS/.progress/000000.tar.json      one receipt a finished shard; gone once the manifest is written

A shard counts as made when its receipt (or the manifest) says so; an interrupted run therefore loses only the shards
that it was working on.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter, ValidationError

from smile_pipe.pipeline.common.directory_lock import NAME as LOCK
from smile_pipe.pipeline.runs.cards import shards_card
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.index import FailureRow, IndexRow, read_failures, read_index, write_failures, write_index
from smile_pipe.shards.manifest import SHARD_NAME, ShardEntry, ShardManifest, ShardName, ShardSetPaths
from smile_pipe.shards.storage import PathLike, StoragePath


@dataclass(frozen=True)
class ShardRecord:
    """What the making of one shard gave.

    Attributes:
        settings: fingerprint of the settings that decide the images.
        entry: None where all of its samples failed and there is no shard.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: ShardName
    settings: str
    entry: ShardEntry | None
    rows: tuple[IndexRow, ...]
    failures: tuple[FailureRow, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of all samples, rendered or failed, in order."""
        return tuple(sorted([row.key for row in self.rows] + [failure.key for failure in self.failures]))


_RECEIPT = TypeAdapter(ShardRecord)


class RenderOutput(ShardSetPaths):
    """One output directory, read and written by the render stage alone."""

    def __init__(self, root: PathLike) -> None:
        super().__init__(root)
        self.deaths = self.progress / "deaths"

    def check_writable(self) -> None:
        """Raise UsageError where the directory cannot be made or written, before any work is done."""
        self.root.check_output_folder()
        if (
            self.root.is_dir()
            and not self.manifest_path.exists()
            and not self.progress.exists()
            and any(path.name != LOCK for path in self.root.iterdir())
        ):
            raise UsageError(
                "holds files that are not of a render; name a new or empty directory", field="out", value=self.root
            )

    def manifest(self) -> ShardManifest | None:
        """The manifest of a finished run, if there is one."""
        return ShardManifest.read(self.manifest_path) if self.manifest_path.exists() else None

    def receipts(self) -> list[ShardRecord]:
        """What earlier runs made, by shard name; a receipt of an unfinished run stands over the manifest."""
        found = {receipt.name: receipt for receipt in self._finished()}
        for path in self.progress.files("*.json"):
            # A receipt that this release cannot read is no receipt: its shard is made again. Nor is one in the file of
            # another, which would outlive its shard.
            with suppress(ValidationError):
                receipt = _RECEIPT.validate_json(path.read_bytes())
                if path.name == self._receipt_path(receipt.name).name:
                    found[receipt.name] = receipt
        return [found[name] for name in sorted(found)]

    def shard_sizes(self) -> dict[str, int]:
        """The shards that lie in the directory, by name, with their sizes in bytes."""
        return {name: size for name, size in self.shards.file_sizes().items() if SHARD_NAME.fullmatch(name)}

    def begin(self, removed: Iterable[str]) -> None:
        """Make the directories, clear what a killed run was writing, and withdraw the manifest.

        What it said of finished shards is kept as receipts.
        """
        # First what tells a next run that the directory is a render's.
        self.progress.mkdir(parents=True, exist_ok=True)
        self.shards.mkdir(exist_ok=True)
        # An object store knows no empty folders.
        (self.progress / "begun").write_bytes(b"")
        # What workers of a run that was killed were reading is under no suspicion.
        self.deaths.remove_tree()
        for folder in (self.root, self.shards, self.progress):
            folder.remove_leftovers()
        if self.manifest_path.exists():
            for receipt in self.receipts():
                self.write_receipt(receipt)
            self.manifest_path.unlink()
        for name in removed:
            (self.shards / name).unlink(missing_ok=True)
            self.forget_receipt(name)

    def write_receipt(self, receipt: ShardRecord) -> None:
        """Record that a shard is made."""
        self._receipt_path(receipt.name).write_atomically(_RECEIPT.dump_json(receipt))

    def forget_receipt(self, name: str) -> None:
        """Take back that a shard is made."""
        self._receipt_path(name).unlink(missing_ok=True)

    def refresh(self, receipts: Sequence[ShardRecord]) -> None:
        """Write the tables of a finished run again, with the times that files have now."""
        write_index(self.index_path, (row for receipt in receipts for row in receipt.rows))
        write_failures(self.failures_path, [failure for receipt in receipts for failure in receipt.failures])

    def finish(self, manifest: ShardManifest, receipts: Sequence[ShardRecord]) -> None:
        """Write the tables, the card and, last, the manifest; then forget the receipts."""
        self.refresh(receipts)
        card = shards_card(manifest, [row for receipt in receipts for row in receipt.rows])
        self.card_path.write_atomically(card.encode())
        manifest.write(self.manifest_path)
        self.progress.remove_tree()

    def _receipt_path(self, name: str) -> StoragePath:
        return self.progress / f"{name}.json"

    def _finished(self) -> list[ShardRecord]:
        manifest = self.manifest()
        if manifest is None:
            return []
        entries = {entry.name: entry for entry in manifest.shards}
        rows, failures = read_index(self.index_path), read_failures(self.failures_path)
        by_shard: dict[str, tuple[list[IndexRow], list[FailureRow]]] = {name: ([], []) for name in entries}
        for row in rows:
            by_shard.setdefault(row.shard, ([], []))[0].append(row)
        for failure in failures:
            by_shard.setdefault(failure.shard, ([], []))[1].append(failure)
        return [
            ShardRecord(
                name=name,
                settings=manifest.images_fingerprint,
                entry=entries.get(name),
                rows=tuple(r),
                failures=tuple(f),
            )
            for name, (r, f) in by_shard.items()
        ]
