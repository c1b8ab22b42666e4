"""BU-3DFE: `F0001/F0001_AN01WH_F3D.wrl`, one static scan per file, labels in the file name.

Source: the file naming of the BU-3DFE database (Yin et al., "A 3D facial expression database for facial behavior
research", FG 2006). All mesh formats are accepted.
"""

import re
from collections.abc import Mapping
from functools import cache
from sys import intern

from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.shards.formatting import pluralize

_NAME = re.compile(r"((?:.*/)?(([FM]\d{4})_(AN|DI|FE|HA|SA|SU|NE)(\d\d)(WH|AE|LA|BL|AM|IN))_F3D)\.\w+")
_TEXTURES = ("_F2D.bmp", "_F2D.png", "_F2D.jpg", "_F2D.jpeg")
_LANDMARKS = (".bnd", "_lmk68.txt")


class Bu3dfe:
    """Finds `..._F3D` scans at any depth. Raw scans (`..._RAW`) and everything else are skipped."""

    name = "bu3dfe"

    def match_reason(self, index: FileIndex) -> str:
        """Count the meshes named as in the database."""
        count = sum(_NAME.fullmatch(path) is not None for path in index.meshes)
        return f"{pluralize(count, 'mesh', 'meshes')} named like F0001_AN01WH_F3D.wrl" if count else ""

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return one sample per `..._F3D` mesh, with the texture and landmarks of the same name."""
        return [_source(index, match) for path in index.meshes if (match := _NAME.fullmatch(path))]


def _source(index: FileIndex, match: re.Match[str]) -> SampleSource:
    stem, key, subject, expression, level, ancestry = match.groups()
    texture = index.first_existing(stem.removesuffix("_F3D"), _TEXTURES)
    return SampleSource(
        key=key,
        # These three are shared: a dataset may have a million scans.
        subject=intern(subject),
        expression=intern(expression),
        level=int(level) or None,
        frames=(ScanFiles(match.string, texture, index.first_existing(stem, _LANDMARKS)),),
        labels=_labels(subject[0], ancestry),
    )


@cache
def _labels(sex: str, ancestry: str) -> Mapping[str, str]:
    return {"sex": sex, "ancestry": ancestry}
