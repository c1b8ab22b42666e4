"""The material files of an OBJ (`.mtl`): the image and the colour of each material.

Names of files are written in many ways: with options before them, in quotes, with a comment behind, with paths of
another machine. `SidecarFiles.search` finds them.
"""

import math
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from smile_pipe.pipeline.meshes.mesh import Material, MeshError, Wrap
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.meshes.source import Source

_MAX_BYTES = 1 << 20  # of a material file, which normally has a few lines
_MAX_LINE = 4096
_MAX_FILES = 8
_MAX_NAME = 200  # letters of a name in a note
_MAX_NUMBER = 1e4
# `-s 1 1 1 -clamp on -imfchan r face.png`: values of most options are numbers or on/off; the rest is the name.
_OPTION = re.compile(
    r"-(?:(?P<word>imfchan|type|colorspace)\s+(?P<choice>\S+)"
    r"|(?P<name>[a-zA-Z]+)(?P<values>(?:\s+(?:on|off|[-+]?\.?\d[\d.eE+-]*)(?=\s))*))\s+",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"(['\"])(.+?)\1.*")
_COMMENT = re.compile(r"(.*\.\w{2,5})\s+#.*")
_LIBRARIES = re.compile(r"(?<=\.mtl)\s+", re.IGNORECASE)


@dataclass(frozen=True)
class MaterialLibrary:
    """The material files of an OBJ.

    Attributes:
        materials: the materials of all files by name.
        notes: which files are missing or cannot be read.
    """

    materials: dict[str, Material]
    notes: tuple[str, ...] = ()

    def find(self, name: str | None) -> Material:
        """Return the material of the faces after `usemtl name`, or before any `usemtl` (None).

        For faces without one it is the first that has an image. A name that no file defines stands for the only
        material with an image, or the only material.
        """
        pictured = [material for material in self.materials.values() if material.names]
        if name is None:
            return next(iter(pictured or self.materials.values()), Material())
        if name in self.materials:
            return self.materials[name]
        candidates = pictured or list(self.materials.values())
        return candidates[0] if len(candidates) == 1 else Material()


def statement(line: bytes) -> tuple[str, str]:
    """Split a line into its keyword in lower case and the rest, both stripped."""
    line = line[:_MAX_LINE].strip()
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    word, _, rest = text.replace("\t", " ").partition(" ")
    return word.lower(), rest.strip()


def read_libraries(sidecars: SidecarFiles, values: Iterable[str]) -> MaterialLibrary:
    """Read material files.

    Args:
        sidecars: files that the OBJ may refer to.
        values: what follows `mtllib` in its lines: one name, or several that end in `.mtl`.

    Returns:
        The materials; of equal names the first. A file that is missing or too large counts as empty.
    """
    names = [clean_name(name) for value in values for name in _LIBRARIES.split(value)]
    materials: dict[str, Material] = {}
    notes: list[str] = []
    for name in list(dict.fromkeys(filter(None, names)))[:_MAX_FILES]:
        found = _read_library(sidecars, name)
        if found is None:
            notes.append(f"the material file {name[:_MAX_NAME]} is missing or cannot be read")
        materials = (found or {}) | materials
    return MaterialLibrary(materials, tuple(notes))


def _read_library(sidecars: SidecarFiles, name: str) -> dict[str, Material] | None:
    found = sidecars.search(name)
    try:
        if found is None or (sidecars.root / found).stat().st_size > _MAX_BYTES:
            return None
        source = Source.read(sidecars.root / found).as_text()
    except (MeshError, OSError):
        return None
    folder = posixpath.relpath(posixpath.dirname(found) or ".", posixpath.dirname(sidecars.mesh) or ".")
    lines = source.slice(0, _MAX_BYTES).splitlines()
    materials: dict[str, Material] = {}
    ambient: dict[str, Material] = {}
    material = ""
    for word, value in map(statement, lines):
        if word == "newmtl":
            material = value
        elif word in ("map_kd", "map_ka") and (image := _read_map(value, folder)).names:
            maps = materials if word == "map_kd" else ambient
            if not maps.get(material, Material()).names:
                maps[material] = replace(image, color=maps.get(material, Material()).color)
        elif word == "kd" and (color := _read_color(value)) is not None:
            old = materials.get(material, Material())
            materials[material] = replace(old, color=old.color or color)
    for name, image in ambient.items():
        known = materials.get(name, Material())
        materials[name] = known if known.names else replace(image, color=known.color)
    return materials


def _read_map(value: str, folder: str) -> Material:
    """Read the options and the name of an image; the name becomes relative to the mesh."""
    wrap: Wrap = "repeat"
    numbers: dict[str, tuple[float, float]] = {}
    value += " "
    while match := _OPTION.match(value):
        value = value[match.end() :]
        option, values = (match["name"] or "").lower(), (match["values"] or "").split()
        if option == "clamp":
            wrap = "clamp" if values == ["on"] else "repeat"
        elif option in ("s", "o"):
            numbers[option] = _pair(values, 1.0 if option == "s" else 0.0)
    name = clean_name(value).replace("\\", "/")
    return Material(
        (posixpath.normpath(posixpath.join(folder, name)),) if name else (),
        wrap=(wrap, wrap),
        uv_scale=numbers.get("s", (1.0, 1.0)),
        uv_offset=numbers.get("o", (0.0, 0.0)),
    )


def clean_name(text: str) -> str:
    """Remove quotes around a name, and a comment after it."""
    text = text.strip()
    if match := _QUOTED.fullmatch(text):
        return match[2].strip()
    return match[1] if (match := _COMMENT.fullmatch(text)) else text


def _pair(values: Sequence[str], default: float) -> tuple[float, float]:
    """Return the first two numbers; missing or unusable ones are `default`."""
    first, second = (*map(_number, values[:2]), None, None)[:2]
    return default if first is None else first, default if second is None else second


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and abs(value) <= _MAX_NUMBER else None


def _read_color(value: str) -> tuple[int, int, int] | None:
    """Read `Kd r g b`, fractions of 1; one number is a grey."""
    numbers = [_number(word) for word in value.split()[:3]]
    values = [round(255 * min(max(number, 0.0), 1.0)) for number in numbers if number is not None]
    if len(values) == 1:
        values *= 3
    return (values[0], values[1], values[2]) if len(values) == 3 else None
