"""A face as the page shows it: its meshes, its views, and its embeddings, all that is computed once.

Faces to try the page with: made here, so that they need no download and show nobody.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from smile_pipe.pipeline.app.uploads import unpack
from smile_pipe.pipeline.meshes.mesh import Mesh
from smile_pipe.pipeline.predict.inputs import Input, find_inputs
from smile_pipe.pipeline.predict.predictor import Predictor
from smile_pipe.pipeline.render.process import read_meshes
from smile_pipe.pipeline.runs.load_model import FaceEmbeddings
from smile_pipe.pipeline.synth.stage import SynthConfig, run
from smile_pipe.shards.sample import Sample


@dataclass(frozen=True, eq=False)
class FaceAnalysis:
    """One scan or sequence.

    Attributes:
        meshes: of each frame that is looked at, in the canonical frame.
        times: seconds from the start of the recording, a frame; none for a scan.
        whole: embeddings of the whole, [1, V, D] and [1, D].
        moments: of each frame alone, as if it were a scan, [T, V, D] and [T, D]; None for a scan,
            and where the run looks at dynamic images alone.
    """

    name: str
    sample: Sample
    meshes: list[Mesh]
    times: list[float]
    whole: FaceEmbeddings
    moments: FaceEmbeddings | None


def analyze_upload(predictor: Predictor, name: str, content: bytes) -> FaceAnalysis:
    """Look at what a visitor sent; nothing of it stays on disk.

    Raises:
        UploadError, MeshError: it cannot be read; the message is a sentence.
    """
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
        return see(predictor, unpack(name, content, Path(folder)), name)


def see(predictor: Predictor, given: Input, name: str) -> FaceAnalysis:
    """Look at a scan or a sequence that lies on disk.

    Raises:
        MeshError: it cannot be read.
    """
    sample = predictor.see(given)
    meshes = read_meshes(given.source, given.root, predictor.settings)
    timeline = sample.record.timeline
    times = [] if timeline is None else [frame / timeline.frame_rate for frame in timeline.frames]
    has_frames = times and predictor.settings.sequences.temporal != "dynamic"
    moments = predictor.embed_moments(sample) if has_frames else None
    return FaceAnalysis(name, sample, meshes, times, predictor.embed(sample), moments)


# Of a subject that no demo has: those count from seed 0.
_SEED = 2506
EXAMPLES = {
    "a smile": ("scans", "HA04"),
    "a surprise": ("scans", "SU04"),
    "a sad face": ("scans", "SA04"),
    "a smile over time": ("sequences", "HA"),
}
"""What there is, of which kind it is, and what its key has in it."""


def example(predictor: Predictor, name: str) -> FaceAnalysis:
    """One of `EXAMPLES`.

    Raises:
        MeshError: it cannot be read, as the run needs a neutral scan of the subject (channel flow).
    """
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
        kind, sign = EXAMPLES[name]
        options = {"kind": "sequences", "frames": 16} if kind == "sequences" else {"levels": (4,)}
        run(SynthConfig.model_validate({"out": Path(folder) / "faces", "subjects": 1, "seed": _SEED, **options}))
        found = find_inputs([str(Path(folder) / "faces")])
        return see(predictor, next(given for given in found if sign in given.source.key), name)
