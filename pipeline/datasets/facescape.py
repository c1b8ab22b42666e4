"""FaceScape: `1/models_reg/4_anger.obj`, twenty registered scans per subject, the expression in the file name.

Source: the data of Yang et al., "FaceScape: a large-scale high quality 3D face dataset", CVPR 2020. All mesh formats
are accepted.
"""

import re

from smile_pipe.pipeline.common.expressions import expression_code
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.datasets.file_index import FileIndex
from smile_pipe.shards.formatting import pluralize

_NAME = re.compile(r"(?:.*/)?(\d{1,9})/models_reg/((?:[1-9]|1\d|20)_([a-z_]{1,40}))\.\w+")


class Facescape:
    """Finds the registered models at any depth."""

    name = "facescape"

    def match_reason(self, index: FileIndex) -> str:
        """Count the meshes named as in the dataset."""
        count = sum(_NAME.fullmatch(path) is not None for path in index.meshes)
        return f"{pluralize(count, 'mesh', 'meshes')} named like 1/models_reg/4_anger.obj" if count else ""

    def samples(self, index: FileIndex) -> list[SampleSource]:
        """Return one sample per mesh, with the texture of the same name."""
        return [
            SampleSource(
                key=f"{match[1]}_{match[2]}",
                subject=match[1],
                expression=expression_code(match[3]),
                level=None,
                frames=(ScanFiles.with_sidecars(path, index),),
            )
            for path in index.meshes
            if (match := _NAME.fullmatch(path))
        ]
