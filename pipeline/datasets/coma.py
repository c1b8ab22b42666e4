"""CoMA: `FaceTalk_170725_00137_TA/bareteeth/bareteeth.000001.ply`, sequences of extreme expressions.

Sequences have 60 frames per second. Source: the data of Ranjan et al., "Generating 3D faces using convolutional mesh
autoencoders", ECCV 2018. All mesh formats are accepted.
"""

import re

from smile_pipe.pipeline.datasets.adapter import SampleSource, count_sequences, find_sequences, make_key
from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.shards.formatting import pluralize

FRAME_RATE = 60.0
# VOCASET uses the same subject names; its folders are sentences, not expressions.
_FRAME = re.compile(
    r"(?:.*/)?(?P<subject>FaceTalk_\d{6}_\d{5}_TA)/(?P<word>(?!sentence\d)[^/.][^/]*)/[^/.][^/]*\.(?P<frame>\d+)\.\w+"
)


class Coma:
    """Finds sequences at any depth. The name of a folder is its expression."""

    name = "coma"

    def match_reason(self, index: FileIndex) -> str:
        """Count the folders named as in the dataset that hold numbered meshes."""
        count = count_sequences(index, _FRAME)
        return (
            f"{pluralize(count, 'folder')} of numbered meshes in folders named like FaceTalk_170725_00137_TA"
            if count
            else ""
        )

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return one sample per folder."""
        return [
            SampleSource(
                key=make_key(f"{sequence.match['subject']}_{sequence.match['word']}"),
                subject=sequence.match["subject"],
                expression=sequence.match["word"].lower(),
                level=None,
                frames=sequence.frames,
                numbers=sequence.numbers,
                frame_rate=FRAME_RATE,
            )
            for sequence in find_sequences(index, _FRAME)
        ]
