"""BU-4DFE: `F001/Happy/000.wrl`, one sequence per subject and expression, 25 frames per second.

Source: the file naming of the BU-4DFE database (Yin et al., "A high-resolution 3D dynamic facial expression database",
FG 2008). All mesh formats are accepted.
"""

import re
from dataclasses import replace

from smile_pipe.pipeline.common.expressions import expression_code
from smile_pipe.pipeline.datasets.adapter import SampleSource, count_sequences, find_sequences
from smile_pipe.pipeline.datasets.file_index import FileIndex, stem_of
from smile_pipe.shards.formatting import pluralize

FRAME_RATE = 25.0
_FRAME = re.compile(
    r"(?:.*/)?(?P<subject>[FM]\d{3})/(?P<word>(?i:angry|disgust|fear|happy|sad|surprise))/(?P<frame>\d+)\.\w+"
)


class Bu4dfe:
    """Finds sequences at any depth. Landmarks are in the folder of the meshes, or in a separate tree."""

    name = "bu4dfe"

    def match_reason(self, index: FileIndex) -> str:
        """Count the folders named as in the database that hold numbered meshes."""
        count = count_sequences(index, _FRAME)
        return f"{pluralize(count, 'folder')} named like F001/Happy with numbered meshes" if count else ""

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return one sample per folder."""
        landmarks = _landmark_tree(index)
        sources = []
        for sequence in find_sequences(index, _FRAME):
            subject, expression = sequence.match["subject"], expression_code(sequence.match["word"])
            frames = (
                scan if scan.landmarks else replace(scan, landmarks=landmarks.get(_last_three(scan.mesh)))
                for scan in sequence.frames
            )
            sources.append(
                SampleSource(
                    key=f"{subject}_{expression}",
                    subject=subject,
                    expression=expression,
                    level=None,
                    frames=tuple(frames),
                    numbers=sequence.numbers,
                    frame_rate=FRAME_RATE,
                    labels={"sex": subject[0]},
                )
            )
        return sources


def _landmark_tree(index: FileIndex) -> dict[str, str]:
    """Map `f001/happy/000` to the `.bnd` file of that name, in any folder; the first by name if there are several."""
    files = sorted((path for path in index.files if path.endswith(".bnd")), reverse=True)
    return {_last_three(path): path for path in files}


def _last_three(path: str) -> str:
    return "/".join(stem_of(path).split("/")[-3:]).lower()
