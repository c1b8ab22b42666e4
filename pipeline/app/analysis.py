"""Analyze a face for the page: its meshes, views and embeddings, which are computed once; and example faces.

Examples are synthetic, so they need no download and show no real person.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from smile_pipe.pipeline.app.uploads import notes_on_upload, unpack
from smile_pipe.pipeline.landmarks.axes import UPRIGHT
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.predict.inputs import ScanInput, find_inputs
from smile_pipe.pipeline.predict.predictor import Predictor
from smile_pipe.pipeline.render.process import read_meshes
from smile_pipe.pipeline.runs.load_model import FaceEmbeddings
from smile_pipe.pipeline.synth.config import SynthConfig
from smile_pipe.pipeline.synth.stage import run
from smile_pipe.shards.sample import Sample


@dataclass(frozen=True, eq=False)
class FaceAnalysis:
    """One analyzed scan or sequence.

    Attributes:
        name: name of the upload or the example.
        sample: the rendered views.
        meshes: one a rendered frame, in the canonical frame.
        times: seconds from the start of the recording, one a rendered frame; empty for a scan.
        embeddings: of the scan or the whole sequence, [1, V, D] and fused [1, D].
        frame_embeddings: of each frame as if it were a scan, [T, V, D] and fused [T, D]; None for a scan, and if the
            run uses dynamic images only.
        neutral: of the neutral scan of the subject; None if it is not given.
        notes: what of the upload is not shown, as sentences for the visitor.
    """

    name: str
    sample: Sample
    meshes: list[Mesh]
    times: list[float]
    embeddings: FaceEmbeddings
    frame_embeddings: FaceEmbeddings | None
    neutral: FaceEmbeddings | None = None
    notes: tuple[str, ...] = ()


def analyze_upload(predictor: Predictor, name: str, content: bytes) -> FaceAnalysis:
    """Analyze an uploaded file; its files are deleted afterwards.

    Args:
        predictor: the model.
        name: file name of the upload.
        content: its bytes.

    Raises:
        UploadError, MeshError: the upload cannot be read; the message is a sentence for the visitor.
    """
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
        face = analyze(predictor, unpack(name, content, Path(folder)), name)
        return replace(face, notes=(*face.notes, *notes_on_upload(name, content)))


def analyze(predictor: Predictor, scan: ScanInput, name: str) -> FaceAnalysis:
    """Analyze a scan or a sequence on disk.

    Raises:
        MeshError: it cannot be read.
    """
    sample = predictor.render(scan)
    meshes, notes = _read_meshes(predictor, scan)
    timeline = sample.record.timeline
    times = [] if timeline is None else [frame / timeline.frame_rate for frame in timeline.frames]
    has_frames = times and predictor.settings.sequences.temporal != "dynamic"
    frame_embeddings = predictor.embed_frames(sample) if has_frames else None
    neutral = predictor.embed_neutral(scan)
    return FaceAnalysis(name, sample, meshes, times, predictor.embed(sample), frame_embeddings, neutral, notes)


def _read_meshes(predictor: Predictor, scan: ScanInput) -> tuple[list[Mesh], tuple[str, ...]]:
    """Read the meshes, and note what of their colours is missing or cannot be read."""
    notes: list[str] = []
    try:
        strict = predictor.settings.model_copy(update={"needs_colors": True})
        meshes, found = read_meshes(scan.source, scan.root, strict)
    except MeshError as error:
        reason = str(error).replace(f"{scan.root}/", "")
        notes.append(f"Shown without its texture, which the predictions do not use: {reason}")
        meshes, found = read_meshes(scan.source, scan.root, predictor.settings)
    return meshes, (*notes, *found)


# Gives a subject that no demo dataset has: those use seeds from 0.
_SEED = 2506
EXAMPLES = {
    "a smile": ("scans", "HA04"),
    "a surprise": ("scans", "SU04"),
    "a sad face": ("scans", "SA04"),
    "a smile over time": ("sequences", "HA"),
}
"""Kind of synthetic data, and a part of the sample's key, by the name of the example."""


def analyze_example(predictor: Predictor, name: str) -> FaceAnalysis:
    """Create and analyze one of `EXAMPLES`.

    Raises:
        MeshError: it cannot be read, as the run needs a neutral scan of the subject (channel flow).
    """
    # Axes and units of the predictor are those of uploads.
    settings = predictor.settings.model_copy(update={"axes": UPRIGHT, "units": "auto"})
    with tempfile.TemporaryDirectory(prefix="smile-pipe-") as folder:
        kind, key_part = EXAMPLES[name]
        options = {"kind": "sequences", "frames": 16} if kind == "sequences" else {"levels": (4,)}
        run(SynthConfig.model_validate({"out": Path(folder) / "faces", "subjects": 1, "seed": _SEED, **options}))
        scans = find_inputs([str(Path(folder) / "faces")])
        scan = next(scan for scan in scans if key_part in scan.source.key)
        return analyze(replace(predictor, settings=settings), scan, name)
