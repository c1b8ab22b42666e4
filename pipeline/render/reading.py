"""Read the frames of a unit, aligned to a common frame, with the digest of every file that was opened.

A scan is aligned to its own canonical frame. The frames of a sequence are aligned to the canonical frame of the onset,
so that motion is motion of the face and not of the camera.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.captions.geometry import measure
from smile_pipe.pipeline.datasets.adapter import SampleSource, ScanFiles
from smile_pipe.pipeline.datasets.data_dir import DataDir
from smile_pipe.pipeline.datasets.file_index import printable
from smile_pipe.pipeline.landmarks.alignment import apply_frame, canonical_frame, drop_wrong_landmarks
from smile_pipe.pipeline.landmarks.axes import UPRIGHT, matrix_of_axes, turn_problem
from smile_pipe.pipeline.landmarks.files import read_scan
from smile_pipe.pipeline.landmarks.landmark_fit import to_known_size
from smile_pipe.pipeline.landmarks.locate import locate_landmarks
from smile_pipe.pipeline.landmarks.surface import landmarks_problem, orientation_problem
from smile_pipe.pipeline.meshes.materials import MAX_STACK_PIXELS, apply_materials, load_images
from smile_pipe.pipeline.meshes.mesh import Material, Mesh, MeshError
from smile_pipe.pipeline.meshes.paths import escapes_root
from smile_pipe.pipeline.meshes.sidecar_files import SidecarFiles
from smile_pipe.pipeline.meshes.texture import downscale_texture, read_texture
from smile_pipe.pipeline.meshes.variation import Variation
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
_MAX_NAMES = 200  # letters of a note


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
        """Read a scan with its images: those that its mesh names, or if none of them exists that of the scan.

        An image that a labels table names replaces those of the mesh. A named image that is missing leaves its faces
        without one; its file is recorded, so that its arrival is noticed.

        Raises:
            MeshError: a file cannot be read.
            StorageError: the storage of the data directory failed.
        """
        try:
            sidecars = self._sidecars(scan, with_materials=not scan.is_texture_chosen)
            mesh = self._read_shape(scan, sidecars)
            return apply_materials(self._load_images(mesh, scan, sidecars)) if mesh.texture is None else mesh
        finally:
            self.files.clear()

    def read_for(self, scan: ScanFiles, settings: RenderSettings) -> Mesh:
        """Read a scan as its images need it: without its texture where that cannot be read and is not needed."""
        if "rgb" not in settings.channels:
            return self.read_shape(scan)
        try:
            return self.read(scan)
        except MeshError:
            if settings.needs_colors:
                raise
            return self.read_shape(scan)

    def read_shape(self, scan: ScanFiles) -> Mesh:
        """Read a scan's mesh and landmarks without a texture; see `read`."""
        try:
            mesh = self._read_shape(scan, self._sidecars(scan, with_materials=False))
            return replace(mesh, materials=(), face_materials=None)
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

    def _sidecars(self, scan: ScanFiles, with_materials: bool) -> SidecarFiles:
        return SidecarFiles(self.files.root, scan.mesh, self._record, with_materials, self._list_folder)

    def _read_shape(self, scan: ScanFiles, sidecars: SidecarFiles) -> Mesh:
        root = self.files.root
        self._record(*scan.paths)
        self._check_inside(scan.mesh, scan.landmarks)
        mesh = read_scan(root / scan.mesh, root / scan.landmarks if scan.landmarks else None, sidecars)
        for note in mesh.notes:
            self.note(scan.mesh, note)
        if mesh.landmarks is not None and (problem := landmarks_problem(mesh)):
            self.note(scan.landmarks or scan.mesh, problem)
            return replace(mesh, landmarks=None)
        mesh, problem = drop_wrong_landmarks(mesh)
        if problem:
            self.note(scan.landmarks or scan.mesh, problem)
        return mesh

    def align(self, mesh: Mesh, scan: ScanFiles, settings: RenderSettings) -> tuple[Mesh, Frame]:
        """Find the canonical frame of a scan; note if it shows no face, or looks turned, or its axes are wrong.

        Returns:
            The scan with the landmarks that are used, not yet transformed, and its frame.

        Raises:
            MeshError: the mesh has no extent, or its face has not the size of a face in its unit.
        """
        axes = scan.axes or settings.axes
        mesh, confidence, problem = self.locate(mesh, scan, settings)
        if problem:
            self.note(scan.mesh, problem)
        try:
            frame = canonical_frame(mesh, axes, confidence, settings.units)
        except MeshError as error:
            raise MeshError(f"{scan.mesh}: {error}") from None
        if frame.method == "bounds" and (problem := orientation_problem(mesh, matrix_of_axes(axes))):
            self.note(scan.mesh, problem)
        # The default is not a statement about the file.
        is_given = bool(scan.axes) or settings.axes != UPRIGHT
        if frame.method == "detected" and is_given and (problem := turn_problem(axes, frame.R)):
            self.note(scan.mesh, problem)
        return mesh, frame

    def locate(self, mesh: Mesh, scan: ScanFiles, settings: RenderSettings) -> tuple[Mesh, float | None, str]:
        """Give a scan the landmarks that `settings` select; see `locate_landmarks`."""
        if settings.landmarks != "detect" and mesh.landmarks is not None and to_known_size(mesh.landmarks) is None:
            self.note(scan.landmarks or scan.mesh, "landmarks are not used: not a known set")
        return locate_landmarks(mesh, scan.axes or settings.axes, settings.landmarks, settings.units)

    def note(self, path: str, text: str) -> None:
        """Add a note about a file."""
        self.notes.append(printable(f"{path}: {text}"))

    def _load_images(self, mesh: Mesh, scan: ScanFiles, sidecars: SidecarFiles) -> Mesh:
        if not scan.is_texture_chosen:
            names = dict.fromkeys(material.names for material in mesh.materials)
            # The images of one scan are in memory together.
            limit = MAX_STACK_PIXELS // max(len(names), 1)
            images: dict[str, NDArray[np.uint8]] = {}

            def load(material: Material) -> NDArray[np.uint8] | None:
                path = next(filter(None, map(sidecars.search, material.names)), None)
                if path is None and material.names:
                    self.note(scan.mesh, f"the image {' or '.join(material.names)[:_MAX_NAMES]} is missing")
                if path is not None and path not in images:
                    images[path] = downscale_texture(self._texture(path), limit)
                return None if path is None else images[path]

            mesh = load_images(mesh, load)
        if scan.texture is None or any(material.image is not None for material in mesh.materials):
            return mesh
        self._check_inside(scan.texture)
        texture = self._texture(scan.texture)
        return load_images(mesh, lambda material: texture)

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

    def _list_folder(self, path: str) -> Sequence[str]:
        with pause_limits():
            return self.files.list_folder(path)

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
    mesh, frame = reader.align(mesh, sample.frames[0], settings)
    mesh = _placement(mesh, frame, sample.subject, settings)(mesh)
    neutral = neutral_frame = None
    if sample.neutral is not None:
        neutral, neutral_frame = reader.align(reader.read_shape(sample.neutral), sample.neutral, settings)
        neutral = _placement(neutral, neutral_frame, sample.subject, settings)(neutral)
    if "flow" in settings.channels:
        if neutral is None and sample.expression != "NE":
            raise MeshError(
                f"{sample.frames[0].mesh}: the channel flow needs the subject's neutral scan, which is missing"
            )
        mesh = _apply_reference(mesh, neutral or mesh, sample.frames[0].mesh, settings)
    if settings.text_source != "geometry":
        return ReadInfo(frame), [mesh]
    reference = None
    if neutral is not None and neutral_frame is not None and _is_comparable(mesh, frame, neutral, neutral_frame):
        reference = _measure(neutral, neutral_frame)
    return ReadInfo(frame, measures=(_measure(mesh, frame),), reference=reference), [mesh]


def _read_sequence(unit: WorkUnit, reader: SourceReader, settings: RenderSettings) -> tuple[ReadInfo, list[Mesh]]:
    sample, sequences = unit.sample, settings.sequences
    files = dict(zip(sample.numbers, sample.frames, strict=True))
    start = sample.numbers[0]
    onset, frame = reader.align(reader.read_for(files[start], settings), files[start], settings)
    displacements = _displacements(onset, files, reader) if sequences.sampling == "apex" else {}
    place = _placement(onset, frame, sample.subject, settings)
    onset = place(onset)
    try:
        numbers, apex = sequences.select_frames(sample.numbers, displacements)
    except ValueError as error:
        raise MeshError(f"{files[start].mesh}: {error}") from None
    meshes, num_without_face = [], 0
    for number in numbers[unit.start : unit.stop]:
        if number == start:
            mesh = onset
        else:
            mesh = reader.read_for(files[number], settings)
            if settings.reads_landmarks and frame.method == "detected":
                # Landmarks of another source are at slightly other places, which would look like motion.
                search = settings.model_copy(update={"landmarks": "detect"})
                mesh, _, problem = reader.locate(mesh, files[number], search)
                if mesh.landmarks is None:
                    num_without_face += 1
                elif problem:
                    reader.note(files[number].mesh, problem)
            mesh = place(mesh)
        meshes.append(_apply_reference(mesh, onset, files[number].mesh, settings, sequences.magnify))
    if settings.text_source != "geometry":
        return ReadInfo(frame, numbers, apex, num_without_face=num_without_face), meshes
    measures = tuple(_measure(mesh, frame) for mesh in meshes)
    reference = _measure(onset, frame)
    return ReadInfo(frame, numbers, apex, measures, reference, num_without_face=num_without_face), meshes


def _placement(mesh: Mesh, frame: Frame, subject: str, settings: RenderSettings) -> Callable[[Mesh], Mesh]:
    """What brings the scans of a subject from the coordinates of `mesh` to the canonical frame.

    With a variant, shapes are changed there, and `mesh` is aligned again by its landmarks.
    """
    if not settings.variant:
        return lambda scan: apply_frame(scan, frame)
    vary = Variation.of(subject, settings.variant).apply
    if frame.method == "bounds":
        return lambda scan: vary(apply_frame(scan, frame))
    again = canonical_frame(vary(apply_frame(mesh, frame)), UPRIGHT)
    return lambda scan: apply_frame(vary(apply_frame(scan, frame)), again)


def _apply_reference(mesh: Mesh, reference: Mesh, path: str, settings: RenderSettings, magnify: float = 1.0) -> Mesh:
    try:
        mesh = magnify_motion(reference, mesh, magnify)
        return with_flow(reference, mesh) if "flow" in settings.channels else mesh
    except MeshError as error:
        raise MeshError(f"{path}: {error}") from None


def _displacements(onset: Mesh, files: Mapping[int, ScanFiles], reader: SourceReader) -> dict[int, float]:
    return {number: displacement(onset, reader.read_shape(scan)) for number, scan in files.items()}


def _is_comparable(mesh: Mesh, frame: Frame, reference: Mesh, reference_frame: Frame) -> bool:
    """Whether landmarks are of the same source and set: others are at slightly other places, which look like motion."""
    if mesh.landmarks is None or reference.landmarks is None:
        return False
    return frame.method == reference_frame.method and len(mesh.landmarks) == len(reference.landmarks)


def measure_aligned(reader: SourceReader, scan: ScanFiles, settings: RenderSettings) -> Measures:
    """Measure a scan in its canonical frame, as captions do; None without landmarks of a known set.

    Raises:
        MeshError: the scan cannot be read.
        StorageError: the storage of the data directory failed.
    """
    mesh, frame = reader.align(reader.read_shape(scan), scan, settings)
    return _measure(apply_frame(mesh, frame), frame)


def _measure(mesh: Mesh, frame: Frame) -> Measures:
    # Millimetres in a frame by bounds are not comparable.
    return None if mesh.landmarks is None or frame.method == "bounds" else measure(mesh.landmarks)
