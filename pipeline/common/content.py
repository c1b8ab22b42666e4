"""What a file holds that is not what its name says: downloads that went wrong, archives, other formats."""

import re

HEAD_BYTES = 512
"""`describe_content` needs these first bytes of a file."""

UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")

_SIGNATURES = (
    (b"version https://git-lfs.github.com/", "a Git LFS pointer; run `git lfs pull`"),
    (b"\x1f\x8b", "gzip data; unpack it"),
    (b"PK\x03\x04", "a ZIP archive; unpack it"),
    (b"BZh", "bzip2 data; unpack it"),
    (b"\xfd7zXZ\x00", "xz data; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstd data; unpack it"),
    (b"%PDF-", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"Kaydara FBX", "an FBX file; convert it to glTF, PLY or OBJ"),
    (b"ply\n", "a PLY file; rename it"),
    (b"ply\r", "a PLY file; rename it"),
    (b"OFF\n", "an OFF file; rename it"),
    (b"#VRML", "a VRML file; rename it"),
    (b"glTF\x01", "glTF 1.0; convert it to glTF 2.0"),
    (b"glTF\x02", "a binary glTF file; rename it to .glb"),
)
# By suffix: what files of that name start with.
_OWN: dict[str, tuple[bytes, ...]] = {
    ".npz": (b"PK",),
    ".ply": (b"ply",),
    ".off": (b"OFF",),
    ".wrl": (b"#VRML",),
    ".glb": (b"glTF\x02",),
    ".gltf": (b"glTF\x02",),
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"), (b"\x89PNG", b"\xff\xd8\xff")),
}
_MARKUP = (
    (re.compile(rb"\s*(<!doctype html|<html|<head|<body)", re.IGNORECASE), "an HTML page; download the file again"),
    (re.compile(rb"\s*<(\?xml|error)", re.IGNORECASE), "an XML document"),
)


def describe_content(head: bytes, suffix: str = "") -> str:
    """Describe what a file is, from its first bytes, if that is not what its suffix says.

    Args:
        head: the first `HEAD_BYTES` of the file, or all of it.
        suffix: of its name, in lower case and with the dot.

    Returns:
        A description and often what to do, or "" if the content is not recognised.
    """
    if head and not head.strip(b"\0"):
        return "zeros only, as an interrupted copy leaves them; copy the file again"
    head = head.removeprefix(b"\xef\xbb\xbf")
    own = _OWN.get(suffix, ())
    found = (what for magic, what in _SIGNATURES if head.startswith(magic) and not magic.startswith(own))
    return next(found, "") or next((what for pattern, what in _MARKUP if pattern.match(head)), "")
