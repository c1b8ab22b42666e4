"""Manifests: the typed, frozen records by which one stage tells the next what it made.

Goes in: values. Comes out: canonical JSON (sorted keys, UTF-8, no timestamps), and fingerprints of it.
Promised: equal content gives equal bytes, on every machine, so that equal fingerprints mean "nothing to do".
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import PathLike, StoragePath

TextSource = Literal["label", "geometry", "au", "none"]

SHARD_NAME = re.compile(r"[0-9]+\.tar")
"""What every shard is called. Files are opened, written and removed by these names, so none may lead elsewhere."""

ShardName = Annotated[str, StringConstraints(pattern=rf"^{SHARD_NAME.pattern}$")]
"""A field of a record that is the name of a shard."""


class Frozen(BaseModel):
    """Base of every record on disk: immutable, and strict about fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Manifest(Frozen):
    """What a stage says of its output; written last, so that its presence means the stage is complete."""

    schema_version: int
    stage: str
    fingerprint: str

    def write(self, path: PathLike) -> None:
        """Write canonical JSON to `path` by way of a temporary name."""
        StoragePath(path).write_atomically(canonical_json(self).encode())

    @classmethod
    def parse(cls, text: str | bytes, origin: str) -> Self:
        """Parse a manifest; `origin` names it in the error.

        Raises:
            UsageError: it is not this kind of manifest, or of a schema version that this release does not know.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            if first["loc"] == ("schema_version",):
                raise UsageError(
                    f"{origin}: written in schema version {first['input']}, and this release of smile-pipe reads "
                    f"{cls.model_fields['schema_version'].default}; make it again, or use the release that wrote it"
                ) from None
            where = ".".join(map(str, first["loc"])) or "document"
            raise UsageError(f"{origin}: not a valid {cls.__name__} ({where}: {first['msg']})") from None

    @classmethod
    def read(cls, path: PathLike) -> Self:
        """Read and parse the manifest at `path`; see `parse`."""
        return cls.parse(StoragePath(path).read_bytes(), str(path))


class ShardEntry(Frozen):
    """One shard as the manifest knows it."""

    name: ShardName
    num_samples: int
    bytes: int
    sha256: str
    fingerprint: str


class ShardManifest(Manifest):
    """The whole truth about a render: what was rendered, how, and which shards hold it."""

    schema_version: Literal[2] = 2
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
