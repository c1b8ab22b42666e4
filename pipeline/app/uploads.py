"""Unpack uploads of visitors: a mesh, or a zip of a mesh and its texture, or of the frames of a sequence.

A zip of two meshes, one of them named `neutral`, is a scan and the neutral scan of its subject.

Uploads are not trusted. Only the suffix of a file name is used; paths in a zip that lead out of the folder are refused;
at most `MAX_BYTES` are unpacked, whatever size the zip declares. Every error message is a sentence for the visitor.
"""

import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from smile_pipe.pipeline.datasets.file_index import LANDMARKS, MESH_SUFFIXES, TEXTURES, printable, stem_of, suffix_of
from smile_pipe.pipeline.predict.inputs import ScanInput, find_inputs
from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.formatting import truncate_list

MAX_BYTES = 512 << 20
MAX_FILES = 2000
MAX_FRAMES = 600
MAX_NAMES = 20_000
# Each entry of the central directory of a zip begins with this signature.
_ENTRY_SIGNATURE = b"PK\x01\x02"
# Errors of damaged zips: each compression method but BZ2 has its own, and an empty file name gives IndexError.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, IndexError),
    *(EOFError, NotImplementedError, RuntimeError, OSError, ValueError),
)
_CHUNK = 1 << 20
_PART = re.compile(r"[\w()+-][\w .()+-]{0,99}", re.ASCII)
_SUFFIXES = frozenset(suffix_of(f"x{ending}") for ending in (*TEXTURES, *LANDMARKS)) | MESH_SUFFIXES | {".mtl", ".bin"}
ACCEPTED = sorted(suffix.removeprefix(".") for suffix in {*MESH_SUFFIXES, ".zip"})
"""Suffixes of files that can be uploaded, without the dot."""


class UploadError(ValueError):
    """An upload cannot be used; the message is a sentence for the visitor."""


def unpack(name: str, content: bytes, folder: Path) -> ScanInput:
    """Write an upload into a folder, and find the scan or the sequence in it.

    Args:
        name: file name of the upload.
        content: its bytes.
        folder: an empty folder.

    Raises:
        UploadError: the upload has no scan or sequence, more than one, or is too large.
    """
    suffix = suffix_of(name)
    if suffix in MESH_SUFFIXES:
        (folder / f"scan{suffix}").write_bytes(content)
        return find_inputs([str(folder / f"scan{suffix}")])[0]
    if suffix != ".zip":
        raise UploadError(f"A file {suffix or 'without an ending'} cannot be read; send {', '.join(ACCEPTED)}.")
    # Count entries before opening the zip, which creates an object for each of them.
    if content.count(_ENTRY_SIGNATURE) > MAX_NAMES:
        raise UploadError(f"The zip holds over {MAX_NAMES:,} names; send one scan, or one sequence.")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _extract(archive, folder)
    except _ZIP_ERRORS as error:
        if isinstance(error, UploadError):
            raise
        raise UploadError("The zip is damaged or protected by a password; create it again.") from None
    return _find_single_input(folder)


def notes_on_upload(name: str, content: bytes) -> tuple[str, ...]:
    """Return a sentence about the files of an upload that `unpack` left out; () if there are none."""
    if suffix_of(name) != ".zip":
        return ()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [entry.filename for entry in archive.infolist() if _is_visible(entry) and not _is_wanted(entry)]
    if not names:
        return ()
    images = ", ".join(sorted({suffix_of(f"x{ending}") for ending in TEXTURES}))
    return (f"Not used: {truncate_list([printable(name[:80]) for name in names])}. Images are read from {images}.",)


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    entries = [entry for entry in archive.infolist() if _is_wanted(entry)]
    if len(entries) > MAX_FILES:
        raise UploadError(f"The zip holds {len(entries)} files; send {MAX_FILES} or fewer.")
    remaining = MAX_BYTES
    for entry in entries:
        target = folder.joinpath(*_parts(entry.filename))
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(entry) as source, target.open("xb") as file:
            while chunk := source.read(_CHUNK):
                remaining -= len(chunk)
                if remaining < 0:
                    raise UploadError(f"The zip unpacks to more than {MAX_BYTES >> 20} MB; send fewer frames.")
                file.write(chunk)


def _is_wanted(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry is a mesh or belongs to one, and was not added by the archiver."""
    return _is_visible(entry) and suffix_of(entry.filename) in _SUFFIXES


def _is_visible(entry: zipfile.ZipInfo) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in entry.filename.split("/"))
    return not entry.is_dir() and not hidden


def _parts(name: str) -> list[str]:
    parts = name.split("/")
    if len(parts) > 5 or not all(_PART.fullmatch(part) for part in parts):
        raise UploadError(f"The zip holds the name {name[:80]!a}; use letters, digits and few folders.")
    return parts


def _find_single_input(folder: Path) -> ScanInput:
    meshes = list(_meshes(folder))
    folders = {mesh.parent for mesh in meshes}
    if not meshes:
        raise UploadError(f"The zip holds no mesh; a mesh is a file {', '.join(sorted(MESH_SUFFIXES))}.")
    if len(folders) > 1:
        raise UploadError(f"The zip holds meshes in {len(folders)} folders; send one scan, or one sequence.")
    if len(meshes) > MAX_FRAMES:
        raise UploadError(f"The sequence has {len(meshes)} frames; send {MAX_FRAMES} or fewer.")
    # A scan and the neutral one of its subject are not the frames of a sequence.
    scans = [mesh for mesh in meshes if stem_of(mesh.name).lower() != "neutral"]
    is_scan = len(meshes) == 1 or (len(meshes) == 2 and len(scans) == 1)
    path = str((scans or meshes)[0] if is_scan else folders.pop())
    try:
        return find_inputs([path], sequence=not is_scan)[0]
    except UsageError as error:
        raise UploadError(str(error).replace(f"{folder}/", "")) from None


def _meshes(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and suffix_of(path.name) in MESH_SUFFIXES)
