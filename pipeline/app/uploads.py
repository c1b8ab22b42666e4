"""What visitors send: a mesh, or a zip with a mesh and its texture, or with the frames of a sequence.

Goes in: a name and bytes. Comes out: a folder of this process with the files in it. Promised: of a name only its ending
is used, and paths in a zip are taken only if they lead nowhere else; no more than `MAX_BYTES` are unpacked, whatever
the zip says of itself; every refusal is a sentence.
"""

import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from smile_pipe.pipeline.datasets.file_index import LANDMARKS, MESH_SUFFIXES, TEXTURES, suffix_of
from smile_pipe.pipeline.predict.inputs import Input, find_inputs
from smile_pipe.shards.errors import UsageError

MAX_BYTES = 512 << 20
MAX_FILES = 2000
MAX_FRAMES = 600
MAX_NAMES = 20_000
# What each name in the directory of a zip begins with.
_NAME = b"PK\x01\x02"
# What a damaged zip raises: each way of packing has an error of its own, but for BZ2, and so has a file without a name.
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, IndexError),
    *(EOFError, NotImplementedError, RuntimeError, OSError, ValueError),
)
_CHUNK = 1 << 20
_PART = re.compile(r"[\w()+-][\w .()+-]{0,99}", re.ASCII)
_SUFFIXES = frozenset(suffix_of(f"x{ending}") for ending in (*TEXTURES, *LANDMARKS)) | MESH_SUFFIXES | {".mtl", ".bin"}
ACCEPTED = sorted(suffix.removeprefix(".") for suffix in {*MESH_SUFFIXES, ".zip"})
"""Endings of what can be sent."""


class UploadError(ValueError):
    """What was sent cannot be used; the message is a sentence for whoever sent it."""


def unpack(name: str, content: bytes, folder: Path) -> Input:
    """Put what was sent into an empty folder, and find the scan or the sequence in it.

    Raises:
        UploadError: it holds nothing that can be read, or more than is read.
    """
    suffix = suffix_of(name)
    if suffix in MESH_SUFFIXES:
        (folder / f"scan{suffix}").write_bytes(content)
        return find_inputs([str(folder / f"scan{suffix}")])[0]
    if suffix != ".zip":
        raise UploadError(f"A file {suffix or 'without an ending'} cannot be read; send {', '.join(ACCEPTED)}.")
    # To open a zip is to make an object of each name in it, before any can be counted.
    if content.count(_NAME) > MAX_NAMES:
        raise UploadError(f"The zip holds over {MAX_NAMES:,} names; send one scan, or one sequence.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _extract(archive, folder)
    except _DAMAGE as error:
        if isinstance(error, UploadError):
            raise
        raise UploadError("The zip is damaged, or locked by a password; make it again.") from None
    return _only_input(folder)


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    wanted = [entry for entry in archive.infolist() if _is_wanted(entry)]
    if len(wanted) > MAX_FILES:
        raise UploadError(f"The zip holds {len(wanted)} files; send {MAX_FILES} or fewer.")
    left = MAX_BYTES
    for entry in wanted:
        target = folder.joinpath(*_parts(entry.filename))
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("xb") as file:
            for chunk in iter(lambda source=source: source.read(_CHUNK), b""):  # type: ignore[misc]
                left -= len(chunk)
                if left < 0:
                    raise UploadError(f"The zip unpacks to more than {MAX_BYTES >> 20} MB; send fewer frames.")
                file.write(chunk)


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    """Meshes and what belongs to them; not what archivers add of their own."""
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in entry.filename.split("/"))
    return not entry.is_dir() and not hidden and suffix_of(entry.filename) in _SUFFIXES


def _parts(name: str) -> list[str]:
    parts = name.split("/")
    if len(parts) > 5 or not all(_PART.fullmatch(part) for part in parts):
        raise UploadError(f"The zip holds the name {name[:80]!a}; use letters, digits and few folders.")
    return parts


def _only_input(folder: Path) -> Input:
    meshes = list(_meshes(folder))
    folders = {mesh.parent for mesh in meshes}
    if not meshes:
        raise UploadError(f"The zip holds no mesh; a mesh is a file {', '.join(sorted(MESH_SUFFIXES))}.")
    if len(folders) > 1:
        raise UploadError(f"The zip holds meshes in {len(folders)} folders; send one scan, or one sequence.")
    if len(meshes) > MAX_FRAMES:
        raise UploadError(f"The sequence has {len(meshes)} frames; send {MAX_FRAMES} or fewer.")
    named = str(meshes[0] if len(meshes) == 1 else folders.pop())
    try:
        return find_inputs([named], sequence=len(meshes) > 1)[0]
    except UsageError as error:
        raise UploadError(str(error).replace(f"{folder}/", "")) from None


def _meshes(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and suffix_of(path.name) in MESH_SUFFIXES)
