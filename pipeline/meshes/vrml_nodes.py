"""The node tree of a VRML 2.0 file, read only as far as geometry needs it.

A pass over the tokens keeps the stack of open nodes. What counts is the fields of Coordinate, TextureCoordinate,
Color, IndexedFaceSet, ImageTexture and Transform; all else is skipped. Long number arrays never become tokens.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.meshes.mesh import MeshError
from pipeline.meshes.source import Source
from pipeline.meshes.tokens import read_integers, read_numbers
from pipeline.meshes.vrml_shapes import Shape, shape_of
from pipeline.meshes.vrml_transforms import FIELDS, moved

_MAX_DEPTH = 256
_MAX_NODES = 65536  # shapes and named nodes that are kept

# Possessive, so that no input makes it go back.
_TOKEN = re.compile(rb'(?:[\s,]++|#[^\n]*+)*+("(?:[^"\\]|\\.)*+"|[{}\[\]]|[^\s,{}\[\]"#\x00]++)', re.DOTALL)
_NUMBERS = re.compile(rb"[-+0-9.eE,\s]*+\]")
_WIDTHS = {"Coordinate": ("point", 3), "TextureCoordinate": ("point", 2), "Color": ("color", 3)}
_BLANK = re.compile(rb"(?:[\s,]++|#[^\n]*+)*+\Z")
_NO_UVS, _NO_COLORS = np.empty((0, 2), np.float32), np.empty((0, 3), np.float32)
_INDICES = ("coordIndex", "texCoordIndex", "colorIndex")


@dataclass(eq=False)
class _Node:
    """An open node: its type, its name if DEF gave it one, and what was found in it so far."""

    kind: str
    name: str = ""
    first_shape: int = 0
    numbers: dict[str, list[float]] = field(default_factory=dict)  # of a Transform, by field
    indices: dict[str, NDArray[np.int32]] = field(default_factory=dict)  # of an IndexedFaceSet, by field
    arrays: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # [N, width], by the kind of node it is from


@dataclass(eq=False)
class _Scene:
    """What a pass over the file has gathered."""

    source: Source
    stack: list[_Node] = field(default_factory=lambda: [_Node("the scene")])
    named: dict[str, tuple[str, NDArray[np.float32]]] = field(default_factory=dict)
    shapes: list[Shape] = field(default_factory=list)
    texture_name: str = ""


def read_scene(source: Source) -> tuple[list[Shape], str]:
    """Read the shapes of a VRML 2.0 file, and the first texture it names, or "".

    Raises:
        MeshError: the text is malformed (with its line).
    """
    scene = _Scene(source)
    at, words = 0, ["", "", ""]  # the last three words: `DEF name Type {`
    while match := _TOKEN.match(source.data, at):
        token, start, at = match.group(1).decode("latin-1"), match.start(1), match.end()
        try:
            if token == "{":
                _open(scene, words)
            elif token == "}":
                _close(scene)
            elif token == "[":
                at = _list(scene, words[-1], at)
            elif token[0] == '"':
                _string(scene, words[-1], match.group(1))
            elif token[0] in "-+.0123456789":
                _scalar(scene.stack[-1], words[-1], token)
            elif token != "]":
                words = [*words[1:], token]
                _use(scene, words)
        except MeshError as error:
            raise error if str(error).startswith("line ") else source.error(start, str(error)) from error
    if len(scene.stack) != 1 or not _BLANK.match(source.data, at):
        raise source.error(source.size - 1, f"the file ends or breaks off within {scene.stack[-1].kind}")
    return scene.shapes, scene.texture_name


def _open(scene: _Scene, words: list[str]) -> None:
    """A brace opens: a node of the type that the last word says."""
    if len(scene.stack) > _MAX_DEPTH:
        raise MeshError(f"nodes are nested more than {_MAX_DEPTH} deep")
    scene.stack.append(_Node(words[2], words[1] if words[0] == "DEF" else "", len(scene.shapes)))


def _close(scene: _Scene) -> None:
    """A brace closes: what the node gives goes to the node around it, or to the shapes."""
    if len(scene.stack) == 1:
        raise MeshError("a } closes nothing")
    node = scene.stack.pop()
    if node.kind in _WIDTHS and node.kind in node.arrays:
        array = scene.stack[-1].arrays[node.kind] = node.arrays[node.kind]
        if node.name and len(scene.named) < _MAX_NODES:
            scene.named[node.name] = node.kind, array
    elif node.kind == "IndexedFaceSet" and "coordIndex" in node.indices and "Coordinate" in node.arrays:
        if len(scene.shapes) == _MAX_NODES:
            raise MeshError(f"there are more than {_MAX_NODES} shapes")
        colors = _NO_COLORS if "colorIndex" in node.indices else node.arrays.get("Color", _NO_COLORS)
        uvs = node.arrays.get("TextureCoordinate", _NO_UVS)
        indices = node.indices["coordIndex"], node.indices.get("texCoordIndex")
        scene.shapes.append(shape_of(node.arrays["Coordinate"], uvs, colors, *indices))
    elif node.kind == "Transform" and node.numbers:
        scene.shapes[node.first_shape :] = [moved(s, node.numbers) for s in scene.shapes[node.first_shape :]]


def _list(scene: _Scene, name: str, at: int) -> int:
    """A bracket opens for field `name`: read its numbers, or step over them; the byte to go on from."""
    node, source = scene.stack[-1], scene.source
    wanted, width = _WIDTHS.get(node.kind, ("", 0))
    if name == wanted:
        numbers, at = read_numbers(source, at, np.float32)
        if len(numbers) % width:
            raise MeshError(f"{node.kind} has {len(numbers)} numbers, not a multiple of {width}")
        node.arrays[node.kind] = numbers.reshape(-1, width).astype(np.float32)
    elif name in _INDICES and node.kind == "IndexedFaceSet":
        node.indices[name], at = read_integers(source, at)
    else:
        skipped = _NUMBERS.match(source.data, at)
        return skipped.end() if skipped else at
    if source.text[at] != ord("]"):
        raise source.error(at, f"{name} holds something that is not a number, or is not closed")
    return at + 1


def _string(scene: _Scene, name: str, token: bytes) -> None:
    if name == "url" and scene.stack[-1].kind == "ImageTexture" and not scene.texture_name:
        value = re.sub(rb"\\(.)", rb"\1", token[1:-1], flags=re.DOTALL)
        try:
            scene.texture_name = value.decode("utf-8")
        except UnicodeDecodeError:
            scene.texture_name = value.decode("latin-1")


def _scalar(node: _Node, name: str, token: str) -> None:
    if node.kind == "Transform" and name in FIELDS:
        try:
            node.numbers.setdefault(name, []).append(float(token))
        except ValueError as error:
            raise MeshError(f"{name} has {token[:40]!r}, which is not a number") from error


def _use(scene: _Scene, words: list[str]) -> None:
    """After `USE name`: the arrays of the node of that name, if they were kept."""
    if words[1] == "USE" and words[2] in scene.named:
        kind, array = scene.named[words[2]]
        scene.stack[-1].arrays[kind] = array
