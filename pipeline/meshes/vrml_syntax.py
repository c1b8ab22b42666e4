"""The nodes of a VRML file, 1.0 or 2.0: a tree that holds only what geometry needs.

A pass over the tokens keeps the stack of open nodes. Long number arrays never become tokens. `USE` puts a node into the
tree once more, which makes it a graph without cycles: a node has a name only once it is closed.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.meshes.mesh import MeshError
from smile_pipe.pipeline.meshes.numbers import read_integers, read_numbers
from smile_pipe.pipeline.meshes.source import Source

_MAX_DEPTH = 256
_MAX_NODES = 65536  # each counted as often as it is used
_MAX_NUMBERS = 16  # of a field that is not an array: a matrix

# Possessive, so that no input makes it go back.
_TOKEN = re.compile(rb'(?:[\s,]++|#[^\n]*+)*+("(?:[^"\\]|\\.)*+"|[{}\[\]]|[^\s,{}\[\]"#\x00]++)', re.DOTALL)
_BLANK = re.compile(rb"(?:[\s,]++|#[^\n]*+)*+\Z")
_NUMBERS = re.compile(rb"[-+0-9.eE,\s]*+\]")

_WIDTHS = {
    ("Coordinate", "point"): 3,
    ("Coordinate3", "point"): 3,
    ("TextureCoordinate", "point"): 2,
    ("TextureCoordinate2", "point"): 2,
    ("Color", "color"): 3,
    ("Material", "diffuseColor"): 3,
}
_INDICES = ("coordIndex", "texCoordIndex", "textureCoordIndex", "colorIndex", "materialIndex")
_SWITCHES = ("whichChoice", "whichChild")
_SCALARS = ("translation", "rotation", "scale", "scaleFactor", "scaleOrientation", "center", "matrix", *_SWITCHES)
_WORDS = ("value", "colorPerVertex")
_STRINGS = ("url", "filename")
_ALL = -3  # what a Switch of VRML 1.0 chooses to show all


@dataclass(eq=False)
class Node:
    """A node, with those of its fields that are listed above.

    Attributes:
        kind: its type, such as `Shape`.
        at: the byte where its brace opens.
        name: what DEF calls it, or "".
        children: the nodes in its fields, in the order of the file; nodes put there by USE included.
        values: float32 [N, 2 or 3], by field.
        indices: int32 [N], by field.
        numbers: of fields that are not arrays.
        words: the first word or string of a field, such as TRUE or a file's name.
        depth: of the tree below it, itself included.
        size: nodes in the tree below it, itself included, each as often as it is used.
    """

    kind: str
    pos: int
    name: str = ""
    children: list["Node"] = field(default_factory=list)
    values: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    indices: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    depth: int = 1
    size: int = 1

    def add_child(self, child: "Node") -> None:
        """Add a child.

        Raises:
            MeshError: that makes the tree too deep or too large.
        """
        self.depth, self.size = max(self.depth, child.depth + 1), self.size + child.size
        if self.depth > _MAX_DEPTH:
            raise MeshError(f"nodes are nested more than {_MAX_DEPTH} deep")
        if self.size > _MAX_NODES:
            raise MeshError(f"there are more than {_MAX_NODES} nodes")
        self.children.append(child)

    def visible_children(self) -> list["Node"]:
        """The children that are to be seen: all, but of an LOD the first, and of a Switch the one it chooses."""
        if self.kind == "LOD":
            return self.children[:1]
        if self.kind == "Switch":
            which = next((self.numbers[name][0] for name in _SWITCHES if name in self.numbers), -1.0)
            return [child for i, child in enumerate(self.children) if which in (i, _ALL)]
        return self.children


def read_nodes(source: Source) -> Node:
    """Read a whole file; its top nodes are the children of what is returned.

    Raises:
        MeshError: the text is malformed (with its line), nested too deep, or has too many nodes.
    """
    stack, named = [Node("the scene", 0)], dict[str, Node]()
    pos, words = 0, ["", "", ""]  # the last three words: `DEF name Type {`
    num_opened = 0
    while match := _TOKEN.match(source.data, pos):
        token, start, pos = match.group(1).decode("latin-1"), match.start(1), match.end()
        try:
            if token == "{":
                num_opened += 1
                if num_opened > _MAX_NODES:  # of which none need be closed, and so counted by `add_child`
                    raise MeshError(f"there are more than {_MAX_NODES} nodes")
                _open_node(stack, words, start)
            elif token == "}":
                _close_node(stack, named)
            elif token == "[":
                pos = _read_list(source, stack[-1], words[-1], pos)
            elif token != "]":
                words = _read_token(stack[-1], named, words, match.group(1))
        except MeshError as error:
            raise error if str(error).startswith("line ") else source.error_at(start, str(error)) from error
    if len(stack) != 1 or not _BLANK.match(source.data, pos):
        raise source.error_at(source.size - 1, f"the file ends or breaks off within {stack[-1].kind}")
    return stack[0]


def _open_node(stack: list[Node], words: list[str], start: int) -> None:
    """A brace opens at byte `start`: a node of the type that the last word says."""
    if len(stack) > _MAX_DEPTH:
        raise MeshError(f"nodes are nested more than {_MAX_DEPTH} deep")
    stack.append(Node(words[2], start, words[1] if words[0] == "DEF" else ""))


def _close_node(stack: list[Node], named: dict[str, Node]) -> None:
    """A brace closes: the node goes to the one around it."""
    if len(stack) == 1:
        raise MeshError("a } closes nothing")
    node = stack.pop()
    stack[-1].add_child(node)
    if node.name:
        named[node.name] = node


def _read_list(source: Source, node: Node, name: str, pos: int) -> int:
    """A bracket opens for field `name`: read its numbers, or step over them; the byte to go on from."""
    if width := _WIDTHS.get((node.kind, name)):
        numbers, pos = read_numbers(source, pos, np.float32)
        if len(numbers) % width:
            raise MeshError(f"{node.kind} has {len(numbers)} numbers, not a multiple of {width}")
        node.values[name] = numbers.reshape(-1, width).astype(np.float32)
    elif name in _INDICES and node.kind == "IndexedFaceSet":
        integers, pos = read_integers(source, pos)
        # A view would keep room for as many as the rest of the file could hold.
        node.indices[name] = integers.copy()
    else:
        skipped = _NUMBERS.match(source.data, pos)
        return skipped.end() if skipped else pos
    if source.text[pos] != ord("]"):
        raise source.error_at(pos, f"{name} holds something that is not a number, or is not closed")
    return pos + 1


def _read_token(node: Node, named: dict[str, Node], words: list[str], raw: bytes) -> list[str]:
    """A token that is no bracket: what it says goes into the node; the last three words, now."""
    token = raw.decode("latin-1")
    if token[0] in "-+.0123456789":
        _number(node, words[-1], token)
        return words
    if token[0] == '"':
        if words[-1] in _STRINGS:
            node.words.setdefault(words[-1], _unquoted(raw))
        return words
    if words[-1] in _WORDS:
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
        raise MeshError(f"{name} has {token[:40]!r}, which is not a number") from error
    numbers = node.numbers.setdefault(name, [])
    if len(numbers) <= _MAX_NUMBERS:
        numbers.append(value)


def _unquoted(token: bytes) -> str:
    value = re.sub(rb"\\(.)", rb"\1", token[1:-1], flags=re.DOTALL)
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
