"""Sequences whose frames are numbered files of one folder."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.layouts.layout import ScanFiles
from pipeline.layouts.listing import Listing, printable
from shards.errors import UsageError


@dataclass(frozen=True)
class NumberedSequence:
    """One folder of numbered meshes.

    Attributes:
        name: what the pattern found in the path of the first frame.
        frames: in the order of their numbers.
    """

    name: re.Match[str]
    frames: tuple[ScanFiles, ...]


def num_sequences(listing: Listing, pattern: re.Pattern[str]) -> int:
    """How many folders hold meshes whose paths fit `pattern`."""
    return len({path[: path.rfind("/")] for path in listing.meshes if pattern.fullmatch(path)})


def numbered_sequences(listing: Listing, pattern: re.Pattern[str]) -> Iterator[NumberedSequence]:
    """The sequences of all folders that hold meshes whose paths fit `pattern`; its group `frame` is the number.

    Raises:
        UsageError: two meshes of a folder have the same number.
    """
    folders: dict[str, dict[int, re.Match[str]]] = {}
    for path in listing.meshes:
        if match := pattern.fullmatch(path):
            frames = folders.setdefault(path[: path.rfind("/")], {})
            first = frames.setdefault(int(match["frame"]), match)
            if first is not match:
                paths = f"{printable(first.string)} and {printable(path)}"
                raise UsageError(f"{listing.root}: {paths} are the same frame of a sequence; move one away")
    for frames in folders.values():
        matches = [frames[number] for number in sorted(frames)]
        yield NumberedSequence(matches[0], tuple(ScanFiles.beside(match.string, listing) for match in matches))
