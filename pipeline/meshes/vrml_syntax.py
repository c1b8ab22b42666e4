"""The nodes of a VRML 2.0 file as a tree that holds only geometry.

One pass over the tokens keeps a stack of open nodes. Long arrays of numbers do not become tokens. `USE` adds a node to
the tree again, so the result is a graph; it has no cycles, because a node gets its name only when it is closed.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike, NDArray

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.numbers import read_integers, read_numbers
from smile_pipe.pipeline.meshes.source import Source

_MAX_DEPTH = 256
_MAX_NODES = 65536  # with repetitions
_MAX_NUMBERS = 4  # of a field that is not an array; the longest one is a rotation

# Possessive: no input causes backtracking.
_TOKEN = re.compile(rb'(?:[\s,]++|#[^\n]*+)*+("(?:[^"\\]|\\.)*+"|[{}\[\]]|[^\s,{}\[\]"#\x00]++)', re.DOTALL)
_BLANK = re.compile(rb"(?:[\s,]++|#[^\n]*+)*+\Z")
_NUMBERS = re.compile(rb"[-+0-9.eE,\s]*+\]")

_WIDTHS = {
    ("Coordinate", "point"): 3,
    ("TextureCoordinate", "point"): 2,
    ("Color", "color"): 3,
}
_INDICES = ("coordIndex", "texCoordIndex", "colorIndex")
_SCALARS = ("translation", "rotation", "scale", "scaleOrientation", "center")
_UNSUPPORTED = ("LOD", "Switch")  # show only some of their children, and do not occur in scans


@dataclass(eq=False)
class Node:
    """A node with the fields listed above.

    Attributes:
        kind: type, such as `Shape`.
        pos: byte of its opening brace.
        name: its DEF name, or "".
        children: nodes in its fields, in the order of the file, including those added by USE.
        values: [N, 2 or 3], by field.
        indices: int32 [N], by field.
        numbers: fields that are not arrays.
        words: first word or string of a field, such as TRUE or a file name.
        depth: depth of the subtree, at least 1.
        size: number of nodes in the subtree, with repetitions.
    """

    kind: str
    pos: int
    name: str = ""
    children: list["Node"] = field(default_factory=list)
    values: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    indices: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    depth: int = 1
    size: int = 1

    def add_child(self, child: "Node") -> None:
        """Add a child.

        Raises:
            MeshError: the tree is now too deep or too large.
        """
        self.depth, self.size = max(self.depth, child.depth + 1), self.size + child.size
        if self.depth > _MAX_DEPTH:
            raise MeshError(f"nodes nested too deeply: the limit is {_MAX_DEPTH} levels")
        if self.size > _MAX_NODES:
            raise MeshError(f"too many nodes: the limit is {_MAX_NODES}")
        self.children.append(child)


def read_nodes(source: Source, dtype: DTypeLike = np.float32) -> Node:
    """Read a whole file.

    Args:
        source: the file.
        dtype: type of the values of fields.

    Returns:
        A root node whose children are the top nodes of the file.

    Raises:
        MeshError: the text is malformed (with its line), nested too deeply, has too many nodes, or an LOD or a Switch.
    """
    stack, named = [Node("the scene", 0)], dict[str, Node]()
    pos, words = 0, ["", "", ""]  # the last three words: `DEF name Type {`
    num_opened = 0
    while match := _TOKEN.match(source.data, pos):
        token, start, pos = match.group(1).decode("latin-1"), match.start(1), match.end()
        try:
            if token == "{":
                num_opened += 1
                if num_opened > _MAX_NODES:  # `add_child` counts closed nodes only
                    raise MeshError(f"too many nodes: the limit is {_MAX_NODES}")
                _open_node(stack, words, start)
            elif token == "}":
                _close_node(stack, named)
            elif token == "[":
                pos = _read_list(source, stack[-1], words[-1], pos, dtype)
            elif token != "]":
                words = _read_token(stack[-1], named, words, match.group(1))
        except MeshError as error:
            raise error if str(error).startswith("line ") else source.error_at(start, str(error)) from error
    if len(stack) != 1 or not _BLANK.match(source.data, pos):
        raise source.error_at(source.size - 1, f"truncated file: it ends within {stack[-1].kind}")
    return stack[0]


def _open_node(stack: list[Node], words: list[str], start: int) -> None:
    """Open a node at byte `start`; the last word is its type."""
    if len(stack) > _MAX_DEPTH:
        raise MeshError(f"nodes nested too deeply: the limit is {_MAX_DEPTH} levels")
    if words[2] in _UNSUPPORTED:
        raise MeshError(f"unsupported node {words[2]}; export the file without it")
    stack.append(Node(words[2], start, words[1] if words[0] == "DEF" else ""))


def _close_node(stack: list[Node], named: dict[str, Node]) -> None:
    """Close a node and add it to the node around it."""
    if len(stack) == 1:
        raise MeshError("unmatched }")
    node = stack.pop()
    stack[-1].add_child(node)
    if node.name:
        named[node.name] = node


def _read_list(source: Source, node: Node, name: str, pos: int, dtype: DTypeLike) -> int:
    """Read or skip the numbers of field `name` after its bracket; return the next byte."""
    if width := _WIDTHS.get((node.kind, name)):
        numbers, pos = read_numbers(source, pos, dtype)
        if len(numbers) % width:
            raise MeshError(f"incomplete {node.kind}: {len(numbers)} numbers are not a multiple of {width}")
        node.values[name] = numbers.reshape(-1, width).copy()  # a view would keep more memory
    elif name in _INDICES and node.kind == "IndexedFaceSet":
        integers, pos = read_integers(source, pos)
        # A view would keep memory for as many as the rest of the file could hold.
        node.indices[name] = integers.copy()
    else:
        skipped = _NUMBERS.match(source.data, pos)
        return skipped.end() if skipped else pos
    if source.text[pos] != ord("]"):
        raise source.error_at(pos, f"expected a number or ] in {name}")
    return pos + 1


def _read_token(node: Node, named: dict[str, Node], words: list[str], raw: bytes) -> list[str]:
    """Store a token that is not a bracket in the node; return the last three words."""
    token = raw.decode("latin-1")
    if token[0] in "-+.0123456789":
        _number(node, words[-1], token)
        return words
    if token[0] == '"':
        if words[-1] == "url":
            node.words.setdefault(words[-1], _unquoted(raw))
        return words
    if words[-1] == "colorPerVertex":
        node.words.setdefault(words[-1], token)
    if words[-1] == "USE" and token in named:
        node.add_child(named[token])
    return [*words[1:], token]


def _number(node: Node, name: str, token: str) -> None:
    if name not in _SCALARS:
        return
    try:
        value = float(token)
    except ValueError as error:
        raise MeshError(f"invalid {name}: {token[:40]!r} is not a number") from error
    numbers = node.numbers.setdefault(name, [])
    if len(numbers) <= _MAX_NUMBERS:
        numbers.append(value)


def _unquoted(token: bytes) -> str:
    value = re.sub(rb"\\(.)", rb"\1", token[1:-1], flags=re.DOTALL)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
