"""Bosphorus: `bs000/bs000_E_HAPPY_0.bnt`, one static scan per file, labels in the file name.

Source: the file naming of the Bosphorus database (Savran et al., "Bosphorus database for 3D face analysis", BIOID
2008). All mesh formats are accepted. The intensity of weak or one-sided action units is our choice.
"""

import re

from smile_pipe.pipeline.common.expressions import expression_code
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.datasets.file_index import FileIndex, stem_of
from smile_pipe.shards.formatting import pluralize

_NAME = re.compile(r"(?:.*/)?((bs\d{3})_(N|E|LFAU|UFAU|CAU)_([A-Za-z0-9]{1,40})_\d+)\.\w+")
_EMOTION = re.compile(r"ANGER|DISGUST|FEAR|HAPPY|SADNESS|SURPRISE")
_UNIT = re.compile(r"A?(\d{1,2})(LW|L|R)?", re.IGNORECASE)
_UNITS = re.compile(rf"(?:{_UNIT.pattern})(?:A\d{{1,2}}(?:LW|L|R)?)*", re.IGNORECASE)
_WEAK_OR_ONE_SIDED = 0.5


class Bosphorus:
    """Finds neutral scans, emotions and action units at any depth. Poses and occlusions are skipped."""

    name = "bosphorus"

    def match_reason(self, index: FileIndex) -> str:
        """Count the meshes named as in the database."""
        count = len(self.samples(index))
        return f"{pluralize(count, 'mesh', 'meshes')} named like bs000_E_HAPPY_0.bnt" if count else ""

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return one sample per scan of a neutral face, an emotion, or action units."""
        matches = (match for path in index.meshes if (match := _NAME.fullmatch(path)))
        return [source for match in matches if (source := _source(index, match))]


def _source(index: FileIndex, match: re.Match[str]) -> SampleSource | None:
    key, subject, kind, code = match.groups()
    units: dict[str, float] | None = None
    if kind == "N" and code == "N":
        expression = "NE"
    elif kind == "E" and _EMOTION.fullmatch(code):
        expression = expression_code(code)
    elif kind.endswith("AU") and _UNITS.fullmatch(code):
        parts = list(_UNIT.finditer(code))
        expression = "_".join(f"au{int(part[1])}{(part[2] or '').lower()}" for part in parts)
        units = {f"AU{int(part[1])}": _WEAK_OR_ONE_SIDED if part[2] else 1.0 for part in parts}
    else:
        return None
    stem = stem_of(match.string)
    scan = ScanFiles(match.string, index.first_existing(stem, (".png",)), index.first_existing(stem, (".lm3",)))
    return SampleSource(key, subject, expression, level=None, frames=(scan,), action_units=units)
