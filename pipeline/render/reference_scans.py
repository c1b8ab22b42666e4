"""Choose the scans that captions are measured relative to, without the label that marks the neutral one.

The choice is made before the plan. The chosen scan takes the place of the neutral one in the samples, so fingerprints
and records cover it. For that, every scan of the subjects is read once more.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from smile_pipe.pipeline.captions.prompts import Measures
from smile_pipe.pipeline.captions.resting_face import least_active
from smile_pipe.pipeline.common.worker_processes import WorkerProcesses, available_cores
from smile_pipe.pipeline.datasets.adapter import SampleSource
from smile_pipe.pipeline.datasets.data_dir import open_data_dir
from smile_pipe.pipeline.render.limits import Limits, enforce_limits
from smile_pipe.pipeline.render.settings import RenderSettings
from smile_pipe.shards.errors import StorageError
from smile_pipe.shards.storage import StoragePath


def add_least_active_scans(
    samples: Sequence[SampleSource],
    candidates: Sequence[SampleSource],
    root: StoragePath,
    settings: RenderSettings,
    limits: Limits,
    in_process: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[SampleSource]:
    """Give each scan its subject's scan of least activity as the reference.

    That scan itself has no reference, as a neutral one. Sequences are unchanged: they start with their own.

    Args:
        samples: the samples to render.
        candidates: all samples of the dataset, from which the references are chosen.
        root: the data directory.
        settings: how scans are aligned.
        limits: limits on the reading of one scan.
        in_process: read in this process, without limits: other processes cannot see the data.
        on_progress: called with the number of measured scans and of all scans to measure.

    Raises:
        StorageError: the storage of the data directory failed.
        ProcessDiedError: a process died repeatedly.
    """
    subjects = {sample.subject for sample in samples if sample.frame_rate is None}
    scans = [sample for sample in candidates if sample.frame_rate is None and sample.subject in subjects]
    measured = _measure_all(scans, root, settings, limits, in_process)
    by_subject: dict[str, list[tuple[SampleSource, Measures]]] = {}
    for done, (scan, measures) in enumerate(zip(scans, measured, strict=True), start=1):
        on_progress(done, len(scans))
        by_subject.setdefault(scan.subject, []).append((scan, measures))
    chosen: dict[str, SampleSource] = {}
    for subject, own in by_subject.items():
        number = least_active([measures for _, measures in own])
        if number is not None:
            chosen[subject] = own[number][0]
    return [_with_reference(sample, chosen.get(sample.subject)) for sample in samples]


def _with_reference(sample: SampleSource, reference: SampleSource | None) -> SampleSource:
    if sample.frame_rate is not None:
        return sample
    is_itself = reference is not None and reference.key == sample.key
    return replace(sample, neutral=None if reference is None or is_itself else reference.frames[0])


def _measure_all(
    scans: Sequence[SampleSource], root: StoragePath, settings: RenderSettings, limits: Limits, in_process: bool
) -> Iterator[Measures]:
    if in_process or not scans:
        yield from (_measure_scan(scan, root, settings, None, "") for scan in scans)
        return
    with tempfile.TemporaryDirectory() as deaths, WorkerProcesses(min(available_cores(), len(scans))) as processes:
        measure = partial(_measure_scan, root=root, settings=settings, limits=limits, deaths=deaths)
        yield from processes.map(measure, scans)


def _measure_scan(
    scan: SampleSource, root: StoragePath, settings: RenderSettings, limits: Limits | None, deaths: str
) -> Measures:
    """Measure a scan; None if it cannot be read, or has no landmarks."""
    # Imported here: the process of the command does not need what reads meshes.
    from smile_pipe.pipeline.render.reading import SourceReader, measure_aligned

    with open_data_dir(root) as data_dir:
        try:
            if limits is None:
                return measure_aligned(SourceReader(data_dir), scan.frames[0], settings)
            with enforce_limits(limits, deaths, scan.key):
                return measure_aligned(SourceReader(data_dir), scan.frames[0], settings)
        except StorageError:
            raise
        except Exception:
            # The render reads the scan again, and records why it fails.
            return None
