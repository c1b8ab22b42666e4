"""Reading the frames of a sample, in the frame that they share, with the digest of every file that was opened.

A scan has a canonical frame of its own. The frames of a sequence share that of its onset, so that motion is motion of
the face and not of the camera.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.captions.geometry import measure
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.datasets.data_dir import DataDir
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.files import read_scan
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.paths import escapes_root
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.meshes.texture import read_texture, resolve_texture_name
from smile_pipe.pipeline.render.fingerprints import digested
from smile_pipe.pipeline.render.limits import not_limited
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import WorkUnit
from smile_pipe.pipeline.sequences.flow import displacement, magnified, with_flow
from smile_pipe.shards.index import SourceFile
from smile_pipe.shards.sample import Frame

Measures = Mapping[str, float] | None

# Textures by the digest of their file, the one that was decoded first at the front.
MAX_TEXTURES_BYTES = 64 << 20
_TEXTURES: dict[str, NDArray[np.uint8]] = {}


@dataclass
class SourceReader:
    """Reads scans of a data directory and notes each file that a result depends on.

    Every file is noted before it is opened, and fetched by that where it is not on this machine.
    """

    files: DataDir
    sources: dict[str, SourceFile] = field(default_factory=dict)

    def read(self, scan: ScanFiles) -> Mesh:
        """Read a scan, with the texture that its mesh names where no other is known.

        A texture that is named and missing leaves the mesh without one; it is noted, so that its arrival is noticed.

        Raises:
            MeshError: a file cannot be read.
            StorageError: the storage of the data directory fails.
        """
        try:
            return self._textured(self._shape(scan, looks=scan.texture is None), scan)
        finally:
            self.files.clear()

    def read_shape(self, scan: ScanFiles) -> Mesh:
        """Read a scan's mesh and landmarks alone; see `read`."""
        try:
            return self._shape(scan, looks=False)
        finally:
            self.files.clear()

    def note(self, *paths: str) -> None:
        """Digest files that were not read, each once."""
        for path in paths:
            if path not in self.sources:
                self._note(path)
                self.files.clear()

    def _shape(self, scan: ScanFiles, looks: bool) -> Mesh:
        root = self.files.root
        self._note(*scan.paths)
        self._check(scan.mesh, scan.landmarks)
        companions = SidecarFiles(root, scan.mesh, self._note, looks)
        return read_scan(root / scan.mesh, root / scan.landmarks if scan.landmarks else None, companions)

    def _textured(self, mesh: Mesh, scan: ScanFiles) -> Mesh:
        root = self.files.root
        if scan.texture is not None:
            self._check(scan.texture)
            return replace(mesh, texture=self._texture(scan.texture))
        named = resolve_texture_name(root, scan.mesh, mesh.texture_name) if mesh.texture is None else None
        if named is None:
            return mesh
        self._note(named)
        present = self.sources[named].size >= 0
        return replace(mesh, texture=self._texture(named)) if present else mesh

    def _texture(self, path: str) -> NDArray[np.uint8]:
        """A texture that was noted; of those that many scans share, one that this process has decoded before."""
        digest = self.sources[path].blake3
        if digest not in _TEXTURES:
            texture = read_texture(self.files.root / path)
            texture.flags.writeable = False
            if not digest or texture.nbytes > MAX_TEXTURES_BYTES:
                return texture
            _TEXTURES[digest] = texture
            while sum(kept.nbytes for kept in _TEXTURES.values()) > MAX_TEXTURES_BYTES:
                del _TEXTURES[next(iter(_TEXTURES))]
        return _TEXTURES[digest]

    def _check(self, *paths: str | None) -> None:
        for path in paths:
            if path is not None and escapes_root(self.files.root, path):
                raise MeshError(f"{path}: is by a link outside of the data directory; put the file itself there")

    def _note(self, *paths: str) -> None:
        for path in paths:
            if path not in self.sources or not self.files.has(path):
                with not_limited():
                    stat = self.files.fetch(path)
                self.sources[path] = digested(self.files.root, path, stat)


@dataclass(frozen=True)
class ReadInfo:
    """What the reading of a piece found out about its sample.

    Attributes:
        frame: what took the meshes to the canonical frame.
        numbers: which frames of the recording all of the sample's rendered frames are.
        apex: that of the largest displacement, where it was looked for.
        measures: of each mesh of the piece, for captions.
        reference: what they are compared with: of the subject's neutral scan or of the onset; None for the population.
    """

    frame: Frame
    numbers: tuple[int, ...] = (0,)
    apex: int | None = None
    measures: tuple[Measures, ...] = ()
    reference: Measures = None


def read_piece(piece: WorkUnit, reader: SourceReader, settings: RenderSettings) -> tuple[ReadInfo, list[Mesh]]:
    """Read the frames of a piece; the meshes are in the canonical frame.

    Raises:
        MeshError: a file cannot be read, or the meshes cannot be compared where an option needs it.
    """
    if piece.sample.frame_rate is None:
        return _read_scan(piece.sample, reader, settings)
    return _read_frames(piece, reader, settings)


def _read_scan(sample: SampleSource, reader: SourceReader, settings: RenderSettings) -> tuple[ReadInfo, list[Mesh]]:
    mesh = reader.read(sample.frames[0])
    frame = _frame(mesh, sample.frames[0])
    mesh = apply_frame(mesh, frame)
    neutral = None
    if sample.neutral is not None:
        neutral = reader.read_shape(sample.neutral)
        neutral = apply_frame(neutral, _frame(neutral, sample.neutral))
    if "flow" in settings.channels:
        if neutral is None and sample.expression != "NE":
            raise MeshError(f"{sample.frames[0].mesh}: the channel flow needs the subject's neutral scan, and has none")
        mesh = _compared(mesh, neutral or mesh, sample.frames[0].mesh, settings)
    if settings.text_source != "geometry":
        return ReadInfo(frame), [mesh]
    return ReadInfo(frame, measures=(_measure(mesh),), reference=_measure(neutral) if neutral else None), [mesh]


def _frame(mesh: Mesh, scan: ScanFiles) -> Frame:
    try:
        return canonical_frame(mesh)
    except MeshError as error:
        raise MeshError(f"{scan.mesh}: {error}") from None


def _read_frames(piece: WorkUnit, reader: SourceReader, settings: RenderSettings) -> tuple[ReadInfo, list[Mesh]]:
    sample, sequences = piece.sample, settings.sequences
    files = dict(zip(sample.numbers, sample.frames, strict=True))
    start = sample.numbers[0]
    onset = reader.read(files[start])
    frame = _frame(onset, files[start])
    displacements = _displacements(onset, files, reader) if sequences.sampling == "apex" else {}
    onset = apply_frame(onset, frame)
    try:
        numbers, apex = sequences.chosen(sample.num_recorded, displacements)
    except ValueError as error:
        raise MeshError(f"{files[start].mesh}: {error}") from None
    meshes = []
    for number in numbers[piece.start : piece.stop]:
        mesh = onset if number == start else apply_frame(reader.read(files[number]), frame)
        meshes.append(_compared(mesh, onset, files[number].mesh, settings, sequences.magnify))
    if settings.text_source != "geometry":
        return ReadInfo(frame, numbers, apex), meshes
    return ReadInfo(frame, numbers, apex, tuple(map(_measure, meshes)), _measure(onset)), meshes


def _compared(mesh: Mesh, reference: Mesh, path: str, settings: RenderSettings, magnify: float = 1.0) -> Mesh:
    try:
        mesh = magnified(reference, mesh, magnify)
        return with_flow(reference, mesh) if "flow" in settings.channels else mesh
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from None


def _displacements(onset: Mesh, files: Mapping[int, ScanFiles], reader: SourceReader) -> dict[int, float]:
    return {number: displacement(onset, reader.read_shape(scan)) for number, scan in files.items()}


def _measure(mesh: Mesh) -> Measures:
    return None if mesh.landmarks is None else measure(mesh.landmarks)
