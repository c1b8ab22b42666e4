"""Which texture an OBJ file wants, by way of its material file.

Nothing outside the OBJ's own directory tree is ever opened, whatever the files say.
"""

import re
from pathlib import PurePosixPath

from pipeline.meshes.companions import Companions
from pipeline.meshes.mesh import MeshError
from pipeline.meshes.source import Source

_MAX_BYTES = 1 << 20  # a material file has a few lines
_MAX_LINE = 4096
_MAX_FILES = 8
# `map_Kd -s 1 1 1 -clamp on face.png`: an option's values are numbers or on/off, so what is left is the name.
_OPTION = re.compile(r"-[a-zA-Z]+(?:\s+(?:on|off|[-+]?\.?\d[\d.eE+-]*)(?=\s))*\s+")


def texture_of(companions: Companions, lines: list[bytes]) -> str:
    """Find the texture that an OBJ file names.

    Args:
        companions: the files that the OBJ may name.
        lines: its `mtllib` and `usemtl` lines, in order; others are ignored.

    Returns:
        the `map_Kd` of the first material in use that has one (or of any, if the OBJ uses none), relative to the
        OBJ; "" if there is none. A material file that is missing, oversized or elsewhere counts as having none.
    """
    if not companions.looks:
        return ""
    statements = [_statement(line) for line in lines]
    libraries = list(dict.fromkeys(name for word, name in statements if word == "mtllib" and name))
    textures: dict[str, str] = {}
    for library in libraries[:_MAX_FILES]:
        textures = _textures(companions, library) | textures
    used = [name for word, name in statements if word == "usemtl"]
    return next((textures[name] for name in used or textures if name in textures), "")


def _textures(companions: Companions, library: str) -> dict[str, str]:
    """Material name -> texture, of one material file."""
    path = companions.find(library)
    try:
        if path is None or path.stat().st_size > _MAX_BYTES:
            return {}
        source = Source.read(path)
    except (MeshError, OSError):
        return {}
    folder = PurePosixPath(library.replace("\\", "/")).parent
    found: dict[str, str] = {}
    material = ""
    for line in source.cut(0, _MAX_BYTES).splitlines():
        word, value = _statement(line)
        if word == "newmtl":
            material = value
        elif word == "map_kd" and (texture := _without_options(value)):
            found.setdefault(material, str(folder / texture.replace("\\", "/")))
    return found


def _statement(line: bytes) -> tuple[str, str]:
    """The keyword of a line in lower case and the rest, both without the blanks around them."""
    line = line[:_MAX_LINE].strip()
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    word, _, rest = text.replace("\t", " ").partition(" ")
    return word.lower(), rest.strip()


def _without_options(value: str) -> str:
    while match := _OPTION.match(value):
        value = value[match.end() :]
    return value
