"""Read, render and encode samples in this process: the public interface of the render stage for other stages.

    read_units -> render_units -> encode_unit          units of samples, see `units.py`
    build_samples -> build_shard                       samples and shards, see `build.py`

On CPUs `process_units` does the first three steps unit by unit. Where GPUs render, each step is an operator of a Ray
Data job, see `job.py`, so that CPUs read and encode while GPUs render. A sample that fails in any step has a `Failure`,
which becomes a row of `failures.parquet`; the other samples go on.
"""

import functools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.data_dir import DataDir, open_data_dir
from smile_pipe.pipeline.landmarks.outlines import draw_outlines
from smile_pipe.pipeline.meshes.mesh import Mesh, MeshError
from smile_pipe.pipeline.render.build import BuiltSample, build_samples
from smile_pipe.pipeline.render.fingerprints import SampleFingerprints
from smile_pipe.pipeline.render.limits import Limits, enforce_limits
from smile_pipe.pipeline.render.reading import SourceReader, read_frames
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.pipeline.render.timings import StepSeconds
from smile_pipe.pipeline.render.units import (
    STORAGE,
    Failure,
    ProcessedUnit,
    ReadInfo,
    WorkUnit,
    notes_of,
    select_inputs,
    split_into_units,
)
from smile_pipe.pipeline.rendering.backend import DeviceError, OutOfDeviceMemoryError, QuantisedViews, Renderer
from smile_pipe.pipeline.rendering.cameras import Rig
from smile_pipe.pipeline.rendering.choose_backend import RendererName, build_renderer
from smile_pipe.pipeline.rendering.device_errors import as_device_error, free_device_memory
from smile_pipe.pipeline.rendering.encoding import encode_frame
from smile_pipe.pipeline.sequences.dynamic_images import rank_pooling_weights, weighted_sum
from smile_pipe.shards.images import LANDMARKS
from smile_pipe.shards.sample import MeshStatistics, Temporal
from smile_pipe.shards.storage import StoragePath


def process_sample(sample: SampleSource, root: StoragePath, settings: RenderSettings, layout: str) -> BuiltSample:
    """Read, render and encode one sample.

    Args:
        sample: a scan or a sequence with all its files.
        root: the data directory that the sample's paths are relative to.
        settings: how to render.
        layout: name of the layout for the sample's record.

    Returns:
        The sample as a shard would hold it, or its failure.

    Raises:
        StorageError: the storage of the data directory failed.
    """
    units = process_units(split_into_units(select_inputs(sample, settings), settings), root, settings)
    (built,) = build_samples(list(units), settings, SampleFingerprints.of(settings, layout))
    return built


def read_meshes(
    sample: SampleSource, root: StoragePath, settings: RenderSettings
) -> tuple[list[Mesh], tuple[str, ...]]:
    """Read the meshes that `process_sample` renders.

    Returns:
        One mesh a rendered frame, in the canonical frame; and notes, see `SampleRecord.notes`.

    Raises:
        MeshError: a file cannot be read.
        StorageError: the storage of the data directory failed.
    """
    units = split_into_units(select_inputs(sample, settings), settings)
    with open_data_dir(root) as data_dir:
        reader = SourceReader(data_dir)
        infos, meshes = zip(*(read_frames(unit, reader, settings) for unit in units), strict=True)
        return [*chain.from_iterable(meshes)], tuple(notes_of(sample, infos))


def process_units(
    units: Iterable[WorkUnit],
    root: str | StoragePath,
    settings: RenderSettings,
    limits: Limits | None = None,
    deaths: str | StoragePath = "",
) -> Iterator[ProcessedUnit]:
    """Read, render and encode units on one core, one after the other; see `read_units` for the arguments.

    Only the meshes of one unit are in memory, and they are rendered while the processor's caches still hold them.
    """
    for read in read_units(units, root, settings, limits, deaths):
        for rendered in render_units([read], settings):
            yield encode_unit(rendered, settings)


def read_units(
    units: Iterable[WorkUnit],
    root: str | StoragePath,
    settings: RenderSettings,
    limits: Limits | None = None,
    deaths: str | StoragePath = "",
) -> Iterator[ProcessedUnit]:
    """Read and align the frames of units, with the digests of their files.

    Args:
        units: the frames to read.
        root: the data directory.
        settings: how to render.
        limits: limits on time and memory of a unit; None for no limits.
        deaths: folder in which `limits` count how many workers died of a unit.

    Yields:
        One result a unit, in order. After a failure of the storage the units that follow are not read.
    """
    storage_failure: Failure | None = None
    with open_data_dir(StoragePath(root)) as data_dir:
        for unit in units:
            if storage_failure is not None:
                yield ProcessedUnit(unit, failure=storage_failure)
                continue
            read = _read_unit(unit, data_dir, settings, limits, deaths)
            if read.failure is not None and read.failure.stage == STORAGE:
                storage_failure = read.failure
            yield read


def _read_unit(
    unit: WorkUnit, data_dir: DataDir, settings: RenderSettings, limits: Limits | None, deaths: str | StoragePath
) -> ProcessedUnit:
    began = time.perf_counter()
    reader = SourceReader(data_dir)
    info: ReadInfo | None = None
    meshes: Sequence[Mesh] = ()
    failure: Failure | None = None
    try:
        with enforce_limits(limits, StoragePath(deaths), unit.name) if limits else nullcontext():
            info, meshes = read_frames(unit, reader, settings)
    except Exception as error:
        failure = Failure.of("read", error, str(data_dir.root))
        if failure.stage != STORAGE:
            failure = _record_all_sources(unit, reader) or failure
    seconds = StepSeconds(read=time.perf_counter() - began)
    return ProcessedUnit(unit, tuple(reader.sources.values()), failure, seconds, info, meshes=meshes)


def _record_all_sources(unit: WorkUnit, reader: SourceReader) -> Failure | None:
    """Record the files of a failed unit that were not read: a change in any of them is a reason to try it again."""
    try:
        reader.record(*unit.sample.paths)
    except Exception as error:
        return Failure.of("read", error, str(reader.files.root))
    return None


def render_units(units: Sequence[ProcessedUnit], settings: RenderSettings) -> Iterator[ProcessedUnit]:
    """Render all meshes in as few calls of the renderer as possible, see `draw`.

    Yields:
        The units in order, with quantised images; each has an equal part of the time of the common calls.

    Raises:
        DeviceError: the GPU failed, which is no failure of any sample.
    """
    renderer = cached_renderer(settings.renderer)
    began = time.perf_counter()
    readable = [unit for unit in units if unit.failure is None]
    rigs = [settings.rig_of(unit.work.sample.key) for unit in readable]
    pairs = [(mesh, rig) for unit, rig in zip(readable, rigs, strict=True) for mesh in unit.meshes]
    drawn = iter(draw(renderer, pairs, settings.rendered_channels, settings.samples))
    common_seconds = (time.perf_counter() - began) / max(len(readable), 1)
    rig_of_unit = iter(rigs)
    for unit in units:
        if unit.failure is not None:
            yield unit
            continue
        began = time.perf_counter()
        rig = next(rig_of_unit)
        result, own = replace(unit, meshes=()), [next(drawn) for _ in unit.meshes]
        try:
            pixels = [_visible_pixels(images) for images in own]
            if LANDMARKS in settings.channels:
                if unit.info is not None and unit.info.frame.method == "bounds":
                    raise MeshError(f"has no landmarks to draw (channel `{LANDMARKS}`), in its file or found")
                pixels = [*map(partial(_add_outlines, settings, rig), pixels, unit.meshes)]
            result = replace(result, pixels=pixels, statistics=_statistics(unit.meshes[0]))
        except MeshError as error:
            path = unit.work.sample.frames[0].mesh
            result = replace(result, failure=Failure.of("render", MeshError(f"{path}: {error}")))
        except Exception as error:
            result = replace(result, failure=Failure.of("render", error))
        if settings.jpeg == "gpu" and result.failure is None:
            result = _encode_rgb_on_gpu(result, settings)
        seconds = StepSeconds(render=common_seconds + time.perf_counter() - began)
        yield replace(result, seconds=unit.seconds + seconds)


def draw(
    renderer: Renderer, pairs: Sequence[tuple[Mesh, Rig]], channels: Sequence[str], samples_per_pixel: int
) -> list[QuantisedViews | Exception]:
    """Draw meshes, each from all views of its rig, in one call; if it fails, each half in a call, and so on.

    This finds the meshes that cannot be drawn, and calls that are small enough for the memory of the GPU.

    Args:
        renderer: What draws.
        pairs: Meshes and their rigs.
        channels: Channels to draw.
        samples_per_pixel: See `smile_pipe.pipeline.rendering.downsample`.

    Returns:
        The images of each mesh, or why it cannot be drawn.

    Raises:
        DeviceError: the GPU failed.
    """
    if not pairs:
        return []
    try:
        meshes, rigs = zip(*pairs, strict=True)
        return [*renderer.render_quantised(meshes, rigs, channels, samples_per_pixel)]
    except Exception as error:
        reason = as_device_error(error)
        if isinstance(reason, DeviceError):
            raise reason from error
        if len(pairs) == 1:
            return [reason]
    # Not in the block above: its exception refers to the tensors of the call.
    if isinstance(reason, OutOfDeviceMemoryError):
        free_device_memory()
    half = len(pairs) // 2
    halves = (pairs[:half], pairs[half:])
    return [images for part in halves for images in draw(renderer, part, channels, samples_per_pixel)]


def encode_unit(unit: ProcessedUnit, settings: RenderSettings) -> ProcessedUnit:
    """Encode the images of the frames that are stored, and add up the frames of dynamic images."""
    if unit.failure is not None or unit.info is None:
        return unit
    began = time.perf_counter()
    work, result = unit.work, replace(unit, pixels=())
    temporal = _temporal(work, settings)
    try:
        if temporal != "dynamic":
            images = [image for frame in range(len(unit.pixels)) for image in _encode_frame(unit, frame, settings)]
            result = replace(result, images=images)
        if temporal != "frames":
            weights = rank_pooling_weights(len(unit.info.numbers))[work.start : work.stop]
            channels = unit.pixels[0]
            sums = {name: weighted_sum([pixels[name] for pixels in unit.pixels], weights) for name in channels}
            result = replace(result, weighted_sums=sums)
    except Exception as error:
        result = replace(unit, pixels=(), failure=Failure.of("encode", error))
    return replace(result, seconds=unit.seconds + StepSeconds(encode=time.perf_counter() - began))


def _encode_rgb_on_gpu(unit: ProcessedUnit, settings: RenderSettings) -> ProcessedUnit:
    """Encode `rgb` of the frames that are stored, and remove its pixels if no dynamic image needs them."""
    temporal = _temporal(unit.work, settings)
    if temporal == "dynamic":
        return unit
    # Here, because it imports torch.
    from smile_pipe.pipeline.rendering.gpu_jpeg import encode_jpegs

    images = [jpeg for pixels in unit.pixels for jpeg in encode_jpegs(pixels["rgb"])]
    if temporal == "frames":
        others = [{name: array for name, array in pixels.items() if name != "rgb"} for pixels in unit.pixels]
        unit = replace(unit, pixels=others)
    return replace(unit, images=images)


def _encode_frame(unit: ProcessedUnit, frame: int, settings: RenderSettings) -> list[bytes]:
    if not unit.images:
        return encode_frame(unit.pixels[frame])
    from smile_pipe.pipeline.rendering.gpu_jpeg import encode_other_channels

    num_views = len(settings.views)
    return encode_other_channels(unit.pixels[frame], unit.images[frame * num_views : (frame + 1) * num_views])


def _temporal(work: WorkUnit, settings: RenderSettings) -> Temporal:
    return "frames" if work.sample.frame_rate is None else settings.sequences.temporal


@functools.cache
def cached_renderer(name: RendererName) -> Renderer:
    """Return the renderer of this process, built on first use."""
    return build_renderer(name)


def _visible_pixels(images: QuantisedViews | Exception) -> Mapping[str, NDArray]:
    if isinstance(images, OutOfDeviceMemoryError):
        raise MeshError(f"needs more memory than the GPU has left, even alone: {images}")
    if isinstance(images, Exception):
        raise images
    if not images.is_visible:
        raise MeshError("shows nothing in any view: the mesh is empty, degenerate or out of sight")
    return images.pixels


def _add_outlines(
    settings: RenderSettings, rig: Rig, pixels: Mapping[str, NDArray], mesh: Mesh
) -> Mapping[str, NDArray]:
    """Add the channel `landmarks`; it is empty for a frame of a sequence without landmarks."""
    outlines = draw_outlines(mesh.landmarks, rig)
    return {name: outlines if name == LANDMARKS else pixels[name] for name in settings.channels}


def _statistics(mesh: Mesh) -> MeshStatistics:
    surface: Literal["texture", "vertex-colors", "plain"] = (
        "texture" if mesh.texture is not None else "plain" if mesh.colors is None else "vertex-colors"
    )
    num_landmarks = 0 if mesh.landmarks is None else int(np.isfinite(mesh.landmarks).all(axis=1).sum())
    return MeshStatistics(
        num_vertices=len(mesh.vertices), num_faces=len(mesh.faces), surface=surface, num_landmarks=num_landmarks
    )
