"""Manifests: typed, immutable records that describe the output of a stage to the stages after it.

They are written as canonical JSON (sorted keys, UTF-8, no timestamps). Equal content gives equal bytes on every
machine, so equal fingerprints mean that there is nothing to do.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath

TextSource = Literal["label", "geometry", "au", "none"]

SCHEMA_VERSION: Literal[3] = 3
"""The version of the shards that this release writes; see `ShardManifest`."""

MANIFEST_NAME, INDEX_NAME, SHARDS_FOLDER = "manifest.json", "index.parquet", "shards"

SHARD_NAME = re.compile(r"[0-9]+\.tar")
"""Pattern of all shard names. Files are opened, written and removed by name, so a name must not leave the folder."""

ShardName = Annotated[str, StringConstraints(pattern=rf"^{SHARD_NAME.pattern}$")]
"""Field type of a shard name."""


class Frozen(BaseModel):
    """Base class of all records on disk: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the fields, with other values for some; values of cached properties are computed again."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Manifest(Frozen):
    """Base class of the manifests. A manifest is written last, so its presence means that the stage is complete."""

    schema_version: int
    stage: str
    fingerprint: str

    def write(self, path: PathLike) -> None:
        """Write canonical JSON to `path` atomically."""
        StoragePath(path).write_atomically(canonical_json(self).encode())

    @classmethod
    def parse(cls, text: str | bytes, origin: str) -> Self:
        """Parse a manifest.

        Args:
            text: JSON.
            origin: Name of the manifest in error messages.

        Raises:
            UsageError: It is not a manifest of this stage, or this release does not know its schema version.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            if first["loc"] == ("schema_version",):
                known = " and ".join(map(str, get_args(cls.model_fields["schema_version"].annotation)))
                raise UsageError(
                    f"{origin}: unknown schema version {first['input']}, this release of smile-pipe reads version "
                    f"{known}; create it again, or use the release that wrote it"
                ) from None
            where = ".".join(map(str, first["loc"])) or "document"
            raise UsageError(f"{origin}: not a valid {cls.__name__} ({where}: {first['msg']})") from None

    @classmethod
    def read(cls, path: PathLike) -> Self:
        """Read and parse the manifest at `path`; see `parse`."""
        return cls.parse(StoragePath(path).read_bytes(), str(path))


class ShardEntry(Frozen):
    """One shard in the manifest.

    Attributes:
        bytes: Size of the tar file.
        fingerprint: Of the fingerprints of its samples.
    """

    name: ShardName
    num_samples: int
    bytes: int
    sha256: str
    fingerprint: str


class ShardManifest(Manifest):
    """Manifest of a shard set: what was rendered, how, and into which shards. README.md describes the fields.

    Attributes:
        schema_version: Of the shards; the records in them have their own. The members of a sample are in alphabetical
            order since version 3; in version 2 they are in the order of the record.
    """

    schema_version: Literal[2, 3] = SCHEMA_VERSION
    stage: Literal["render"] = "render"
    layout: str
    settings: Mapping[str, Any]
    images_fingerprint: str
    renderer: str
    views: tuple[str, ...]
    channels: tuple[str, ...]
    image_size: int
    text_source: TextSource
    prompts: Mapping[str, tuple[str, ...]]
    expressions: tuple[str, ...]
    num_samples: int
    num_sequences: int
    num_subjects: int
    num_failures: int
    shards: tuple[ShardEntry, ...]


class ShardSetPaths:
    """The paths of a shard set on disk or under a URL.

    Attributes:
        root: Directory of the shard set.
        manifest_path: The manifest, written last.
        index_path: One row per sample.
        failures_path: One row per sample that could not be rendered.
        card_path: Description for people.
        shards: Folder of the tar files.
        progress: Folder of the records of an unfinished render; it does not exist in a finished shard set.
    """

    def __init__(self, root: PathLike) -> None:
        self.root = root = StoragePath(root)
        self.manifest_path = root / MANIFEST_NAME
        self.index_path = root / INDEX_NAME
        self.failures_path = root / "failures.parquet"
        self.card_path = root / "README.md"
        self.shards = root / SHARDS_FOLDER
        self.progress = root / ".progress"


def canonical_json(value: BaseModel | Any, *, indent: int | None = 2) -> str:
    """JSON with sorted keys and a final newline; `indent=None` gives the compact form that is hashed."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    separators = None if indent else (",", ":")
    return json.dumps(plain, sort_keys=True, ensure_ascii=False, indent=indent, separators=separators) + "\n"


def fingerprint(*parts: BaseModel | Any) -> str:
    """128-bit hex digest (BLAKE3) of the canonical JSON of `parts`."""
    digest = blake3()
    for part in parts:
        digest.update(canonical_json(part, indent=None).encode())
    return digest.hexdigest(length=16)


def joined_fingerprint(fingerprints: Sequence[str]) -> str:
    """Fingerprint of shard sets that are read as one."""
    return fingerprints[0] if len(fingerprints) == 1 else fingerprint(list(fingerprints))
