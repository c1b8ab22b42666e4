"""Read the frames of a unit, aligned to a common frame, with the digest of every file that was opened.

A scan is aligned to its own canonical frame. The frames of a sequence are aligned to the canonical frame of the onset,
so that motion is motion of the face and not of the camera.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.captions.geometry import measure
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.datasets.data_dir import DataDir
from smile_pipe.pipeline.datasets.file_index import printable
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame
from smile_pipe.pipeline.landmarks.axes import matrix_of_axes
from smile_pipe.pipeline.landmarks.files import read_scan
from smile_pipe.pipeline.landmarks.surface import landmarks_problem, orientation_problem
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.meshes.paths import escapes_root
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.meshes.texture import read_texture, resolve_texture_name
from smile_pipe.pipeline.render.fingerprints import hash_source
from smile_pipe.pipeline.render.limits import pause_limits
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.units import Measures, ReadInfo, WorkUnit
from smile_pipe.pipeline.sequences.flow import displacement, magnify_motion, with_flow
from smile_pipe.shards.index import SourceFile
from smile_pipe.shards.sample import Frame

# Size of the cache of decoded textures, which maps the digest of a file to its pixels; the oldest entry goes first.
MAX_TEXTURES_BYTES = 64 << 20
_TEXTURES: dict[str, NDArray[np.uint8]] = {}


@dataclass
class SourceReader:
    """Reads scans of a data directory and records each file that the result depends on.

    A file is recorded before it is opened. Under a URL this also downloads it.

    Attributes:
        files: the data directory.
        sources: the recorded files by path.
        notes: what is odd about the scans that were read, each with the path of its file.
    """

    files: DataDir
    sources: dict[str, SourceFile] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def read(self, scan: ScanFiles) -> Mesh:
        """Read a scan, with the texture that its mesh names if the layout knows of none.

        If a named texture is missing, the mesh has no texture; the file is recorded, so that its arrival is noticed.

        Raises:
            MeshError: a file cannot be read.
            StorageError: the storage of the data directory failed.
        """
        try:
            return self._add_texture(self._read_shape(scan, find_texture=scan.texture is None), scan)
        finally:
            self.files.clear()

    def read_for(self, scan: ScanFiles, settings: RenderSettings) -> Mesh:
        """Read a scan as its images need it: a texture that cannot be read is no problem where no colours are drawn."""
        return self.read(scan) if "rgb" in settings.channels else self.read_shape(scan)

    def read_shape(self, scan: ScanFiles) -> Mesh:
        """Read a scan's mesh and landmarks without a texture; see `read`."""
        try:
            return self._read_shape(scan, find_texture=False)
        finally:
            self.files.clear()

    def record(self, *paths: str) -> None:
        """Record files that were not read, each once.

        Raises:
            StorageError: the storage of the data directory failed.
        """
        for path in paths:
            if path not in self.sources:
                self._record(path)
                self.files.clear()

    def _read_shape(self, scan: ScanFiles, find_texture: bool) -> Mesh:
        root = self.files.root
        self._record(*scan.paths)
        self._check_inside(scan.mesh, scan.landmarks)
        sidecar_files = SidecarFiles(root, scan.mesh, self._record, find_texture)
        mesh = read_scan(root / scan.mesh, root / scan.landmarks if scan.landmarks else None, sidecar_files)
        for note in mesh.notes:
            self.note(scan.mesh, note)
        if mesh.landmarks is not None and (problem := landmarks_problem(mesh)):
            self.note(scan.landmarks or scan.mesh, problem)
            return replace(mesh, landmarks=None)
        return mesh

    def frame_of(self, mesh: Mesh, scan: ScanFiles, settings: RenderSettings) -> Frame:
        """Return the canonical frame of a scan; note if landmarks give none, or if the scan looks turned.

        Raises:
            MeshError: the mesh has no extent.
        """
        axes = scan.axes or settings.axes
        try:
            frame = canonical_frame(mesh, axes)
        except MeshError as error:
            raise MeshError(f"{scan.mesh}: {error}") from None
        if frame.method == "bounds" and mesh.landmarks is not None:
            self.note(scan.landmarks or scan.mesh, "landmarks give no alignment: too few of a known set, or not a face")
        if frame.method == "bounds" and (problem := orientation_problem(mesh, matrix_of_axes(axes))):
            self.note(scan.mesh, problem)
        return frame

    def note(self, path: str, text: str) -> None:
        """Add a note about a file."""
        self.notes.append(f"{printable(path)}: {text}")

    def _add_texture(self, mesh: Mesh, scan: ScanFiles) -> Mesh:
        root = self.files.root
        if scan.texture is not None:
            self._check_inside(scan.texture)
            return replace(mesh, texture=self._texture(scan.texture))
        named = resolve_texture_name(root, scan.mesh, mesh.texture_name) if mesh.texture is None else None
        if named is None:
            return mesh
        self._record(named)
        is_present = self.sources[named].size >= 0
        return replace(mesh, texture=self._texture(named)) if is_present else mesh

    def _texture(self, path: str) -> NDArray[np.uint8]:
        """Decode a recorded texture, or take it from the cache: many scans may share one."""
        digest = self.sources[path].blake3
        if digest not in _TEXTURES:
            texture = read_texture(self.files.root / path)
            texture.flags.writeable = False
            if not digest or texture.nbytes > MAX_TEXTURES_BYTES:
                return texture
            _TEXTURES[digest] = texture
            while sum(cached.nbytes for cached in _TEXTURES.values()) > MAX_TEXTURES_BYTES:
                del _TEXTURES[next(iter(_TEXTURES))]
        return _TEXTURES[digest]

    def _check_inside(self, *paths: str | None) -> None:
        for path in paths:
            if path is not None and escapes_root(self.files.root, path):
                raise MeshError(f"{path}: is a link to a file outside the data directory; copy the file into it")

    def _record(self, *paths: str) -> None:
        for path in paths:
            if path not in self.sources or not self.files.has(path):
                with pause_limits():
                    stat = self.files.fetch(path)
                self.sources[path] = hash_source(self.files.root, path, stat)


def read_frames(unit: WorkUnit, reader: SourceReader, settings: RenderSettings) -> tuple[ReadInfo, list[Mesh]]:
    """Read the frames of a unit.

    Returns:
        What the record and the prompt need to know, and one mesh a frame, in the canonical frame.

    Raises:
        MeshError: a file cannot be read, or flow or magnification needs meshes that are not in correspondence.
        StorageError: the storage of the data directory failed.
    """
    is_scan = unit.sample.frame_rate is None
    info, meshes = _read_scan(unit.sample, reader, settings) if is_scan else _read_sequence(unit, reader, settings)
    return replace(info, notes=tuple(dict.fromkeys(reader.notes))), meshes


def _read_scan(sample: SampleSource, reader: SourceReader, settings: RenderSettings) -> tuple[ReadInfo, list[Mesh]]:
    mesh = reader.read_for(sample.frames[0], settings)
    frame = reader.frame_of(mesh, sample.frames[0], settings)
    mesh = apply_frame(mesh, frame)
    neutral = None
    if sample.neutral is not None:
        neutral = reader.read_shape(sample.neutral)
        neutral = apply_frame(neutral, reader.frame_of(neutral, sample.neutral, settings))
    if "flow" in settings.channels:
        if neutral is None and sample.expression != "NE":
            raise MeshError(
                f"{sample.frames[0].mesh}: the channel flow needs the subject's neutral scan, which is missing"
            )
        mesh = _apply_reference(mesh, neutral or mesh, sample.frames[0].mesh, settings)
    if settings.text_source != "geometry":
        return ReadInfo(frame), [mesh]
    return ReadInfo(frame, measures=(_measure(mesh),), reference=_measure(neutral) if neutral else None), [mesh]


def _read_sequence(unit: WorkUnit, reader: SourceReader, settings: RenderSettings) -> tuple[ReadInfo, list[Mesh]]:
    sample, sequences = unit.sample, settings.sequences
    files = dict(zip(sample.numbers, sample.frames, strict=True))
    start = sample.numbers[0]
    onset = reader.read_for(files[start], settings)
    frame = reader.frame_of(onset, files[start], settings)
    displacements = _displacements(onset, files, reader) if sequences.sampling == "apex" else {}
    onset = apply_frame(onset, frame)
    try:
        numbers, apex = sequences.select_frames(sample.numbers, displacements)
    except ValueError as error:
        raise MeshError(f"{files[start].mesh}: {error}") from None
    meshes = []
    for number in numbers[unit.start : unit.stop]:
        mesh = onset if number == start else apply_frame(reader.read_for(files[number], settings), frame)
        meshes.append(_apply_reference(mesh, onset, files[number].mesh, settings, sequences.magnify))
    if settings.text_source != "geometry":
        return ReadInfo(frame, numbers, apex), meshes
    return ReadInfo(frame, numbers, apex, tuple(map(_measure, meshes)), _measure(onset)), meshes


def _apply_reference(mesh: Mesh, reference: Mesh, path: str, settings: RenderSettings, magnify: float = 1.0) -> Mesh:
    try:
        mesh = magnify_motion(reference, mesh, magnify)
        return with_flow(reference, mesh) if "flow" in settings.channels else mesh
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from None


def _displacements(onset: Mesh, files: Mapping[int, ScanFiles], reader: SourceReader) -> dict[int, float]:
    return {number: displacement(onset, reader.read_shape(scan)) for number, scan in files.items()}


def _measure(mesh: Mesh) -> Measures:
    return None if mesh.landmarks is None else measure(mesh.landmarks)
