"""BU-3DFE: `F0001/F0001_AN01WH_F3D.wrl`, one static scan a file, labels in the name.

Source: the file naming of the BU-3DFE database (Yin et al., "A 3D facial expression database for facial behavior
research", FG 2006). Any mesh format may stand under these names.
"""

import re
from pathlib import PurePosixPath

from pipeline.layouts.layout import Listing, ScanSource
from pipeline.meshes.reader import SUFFIXES

_NAME = re.compile(r"([FM]\d{4})_(AN|DI|FE|HA|SA|SU|NE)(\d\d)(WH|AE|LA|BL|AM|IN)_F3D")
_TEXTURES = ("_F2D.bmp", "_F2D.png", "_F2D.jpg", "_F2D.jpeg")
_LANDMARKS = (".bnd", "_lmk68.txt")


class Bu3dfe:
    """Finds `..._F3D` scans at any depth; raw scans (`..._RAW`) and everything else are left out."""

    name = "bu3dfe"

    def fits(self, listing: Listing) -> bool:
        """Whether any file has a name of the database."""
        return any(self._parse(path) for path in listing.files)

    def samples(self, listing: Listing) -> list[ScanSource]:
        """One sample for each `..._F3D` mesh, with the texture and landmarks of the same name."""
        found = ((path, self._parse(path)) for path in listing.files)
        return [self._source(listing, path, match) for path, match in found if match]

    @staticmethod
    def _parse(path: str) -> re.Match[str] | None:
        pure = PurePosixPath(path)
        return _NAME.fullmatch(pure.stem) if pure.suffix.lower() in SUFFIXES else None

    @staticmethod
    def _source(listing: Listing, path: str, match: re.Match[str]) -> ScanSource:
        subject, expression, level, ancestry = match.groups()
        stem = path.removesuffix(PurePosixPath(path).suffix)
        return ScanSource(
            key=match.string.removesuffix("_F3D"),
            subject=subject,
            expression=expression,
            level=int(level) or None,
            mesh=path,
            texture=listing.first_of(stem.removesuffix("_F3D"), _TEXTURES),
            landmarks=listing.first_of(stem, _LANDMARKS),
            labels={"sex": subject[0], "ancestry": ancestry},
        )
