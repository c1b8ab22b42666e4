"""A face as the page shows it: its meshes, its views, and its embeddings, all that is computed once."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.app.uploads import unpack
from pipeline.data_dir import DataDir
from pipeline.making.pieces import needed, pieces_of
from pipeline.making.reading import SourceReader, read_piece
from pipeline.meshes.mesh import Mesh
from pipeline.predict import Predictor
from pipeline.prediction.inputs import Input
from pipeline.training.trained import FaceEmbeddings
from shards.sample import Sample


@dataclass(frozen=True, eq=False)
class Seen:
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


def see_upload(predictor: Predictor, name: str, content: bytes) -> Seen:
    """Look at what a visitor sent; nothing of it stays on disk.

    Raises:
        UploadError, MeshError: it cannot be read; the message is a sentence.
    """
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
        return see(predictor, unpack(name, content, Path(folder)), name)


def see(predictor: Predictor, given: Input, name: str) -> Seen:
    """Look at a scan or a sequence that lies on disk.

    Raises:
        MeshError: it cannot be read.
    """
    sample = predictor.see(given)
    source = needed(given.source, predictor.settings)
    reader = SourceReader(DataDir(Path(str(given.root))))
    pieces = pieces_of(source, predictor.settings)
    meshes = [mesh for piece in pieces for mesh in read_piece(piece, reader, predictor.settings)[1]]
    timeline = sample.record.timeline
    times = [] if timeline is None else [frame / timeline.frame_rate for frame in timeline.frames]
    has_frames = times and predictor.settings.sequences.temporal != "dynamic"
    moments = predictor.embed_moments(sample) if has_frames else None
    return Seen(name, sample, meshes, times, predictor.embed(sample), moments)
