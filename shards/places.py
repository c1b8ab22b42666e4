"""Places: a file or a folder here, or under any URL that fsspec knows (s3://, gs://, memory://), used in one way.

Goes in: what a user wrote. Comes out: a `Place`, a `pathlib.Path` or what looks like one. Promised: what is published
under a name is whole, on a disk and in an object store; no place carries credentials, which the storage libraries take
from the environment, so none reaches a log or a manifest.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema
from upath import UPath

from shards.errors import UsageError

Place = Path | UPath

# What an object store has received in whole, and nothing else, gets the name; elsewhere a file grows under its name.
WHOLE_WHEN_PUT = frozenset(("memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci"))
_SECRET = re.compile(r"key|token|secret|password|signature|credential|^sig$", re.IGNORECASE)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def place(text: str | Place) -> Place:
    """The place that `text` names.

    Raises:
        UsageError: a URL of an unknown kind, or one that carries credentials.
    """
    if not isinstance(text, str):
        return text
    scheme = scheme_of(text)
    if scheme in ("", "file"):
        return Path(text.removeprefix("file://"))
    check_no_credentials(text)
    try:
        # Listings are not remembered: other processes write to the same place.
        return UPath(text, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise UsageError(f"{text}: {error}") from None


AnyPlace = Annotated[
    Place, PlainValidator(place), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]
"""A field of a config that is a place."""


def scheme_of(text: str) -> str:
    """The scheme of a URL, in lower case; "" of a path."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else ""


def check_no_credentials(text: str) -> None:
    """Refuse a URL with credentials in it; the message does not repeat them.

    Raises:
        UsageError: it has a password, or a parameter such as a signature.
    """
    if not scheme_of(text):
        return
    parts = urlsplit(text)
    if parts.password is not None or any(_SECRET.search(name) for name, _ in parse_qsl(parts.query)):
        bare = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"
        raise UsageError(f"{bare}: credentials do not belong in a URL; set them in the environment")


def is_of_this_process(where: Place) -> bool:
    """Whether no other process can see the place, as is so with memory://."""
    return isinstance(where, UPath) and where.protocol == "memory"


def write_atomically(path: Place, content: bytes) -> None:
    """Write `content` so that `path` holds either its old content or all of the new."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Place) -> Iterator[Path]:
    """A file of this machine to write to: it takes the place of `path` at the end, or is removed after an error."""
    if not isinstance(path, Path):
        with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            _put(temporary, path)
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        # Without this a power cut could leave the new name on a file whose content never reached the disk.
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _put(file: Path, path: UPath) -> None:
    if path.protocol in WHOLE_WHEN_PUT:
        path.fs.put_file(str(file), path.path)
        return
    beside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.fs.put_file(str(file), beside.path)
        path.fs.mv(beside.path, path.path)
    except BaseException:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


def read_range(path: Place, start: int, size: int) -> bytes:
    """At most `size` bytes from byte `start` on; less where the file ends before."""
    if not isinstance(path, Path):
        return path.fs.cat_file(path.path, start=start, end=start + size)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)


def remove_tree(folder: Place) -> None:
    """Remove a folder with all that is in it, if it is there."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(FileNotFoundError):
        folder.fs.rm(folder.path, recursive=True)
