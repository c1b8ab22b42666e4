"""The operator of GPUs: failures of a device, its memory, and workers that share it.

Ray has one GPU that does not exist, and the renderer is `zbuffer` with injected faults. What a real GPU raises is not
tested here.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import trimesh

from helpers.faulty_gpu import GpuJobs
from helpers.worlds import content
from smile_pipe.shards.index import FailureRow, read_failures

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]

OPTIONS = {"landmarks": "file", "size": 16, "channels": ("rgb",), "samples_per_shard": 16}
# Numbers of vertices of ico-spheres.
SMALL, LARGE = 42, 162


@pytest.fixture(scope="module")
def jobs() -> Iterator[GpuJobs]:
    with GpuJobs() as jobs:
        yield jobs


def write_scans(root: Path, count: int, large: int | None = None) -> None:
    """Write small spheres as scans, of which the one with number `large` has more vertices."""
    root.mkdir()
    for number in range(count):
        mesh = trimesh.creation.icosphere(subdivisions=2 if number == large else 1)
        mesh.export(root / f"s{number:02}.obj")
    rows = "".join(f"s{number:02}.obj,s{number:02},HA\n" for number in range(count))
    (root / "labels.csv").write_text(f"path,subject,expression\n{rows}")


def calls(folder: Path) -> list[list[float]]:
    """Number of meshes, process, start and end of each call of the renderer, by its start."""
    names = (path.name.split("-") for path in (folder / "log").iterdir() if "-" in path.name)
    return sorted(([float(part) for part in name] for name in names), key=lambda call: call[2])


def only_failure(folder: Path) -> FailureRow:
    (failure,) = read_failures(folder / "out/failures.parquet")
    return failure


def test_a_poisoned_process_is_replaced_and_no_scan_fails(jobs, tmp_path):
    write_scans(tmp_path / "faces", 48)
    done = jobs.run(tmp_path, {"poison_once": True}, **OPTIONS)
    assert (done["samples"], done["failures"]) == (48, 0)
    assert (tmp_path / "log/poisoned").exists() and len({call[1] for call in calls(tmp_path)}) > 1
    jobs.run(tmp_path, {}, **OPTIONS | {"out": str(tmp_path / "undisturbed")})
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("crash", "reason"),
    [(False, "the GPU failed: CUDA error: an illegal memory access was encountered"), (True, "the process crashed")],
)
def test_a_mesh_that_ends_its_workers_is_the_only_failure(jobs, tmp_path, crash, reason):
    write_scans(tmp_path / "faces", 20, large=5)
    done = jobs.run(tmp_path, {"guilty": [LARGE], "crash": crash}, **OPTIONS)
    assert (done["samples"], done["failures"]) == (19, 1)
    failure = only_failure(tmp_path)
    assert (failure.key, failure.stage) == ("s05", "render")
    assert failure.reason == f"given up: 2 GPU workers ended while rendering it: {reason}"
    assert "deaths" not in os.listdir(tmp_path / "out")


def test_calls_that_run_out_of_memory_are_halved(jobs, tmp_path):
    write_scans(tmp_path / "faces", 20, large=5)
    done = jobs.run(tmp_path, {"max_vertices": 3 * SMALL}, **OPTIONS)
    assert (done["samples"], done["failures"]) == (20 - 1, 1)
    reason = (
        "s05.obj: needs more memory than the GPU has left, even alone: CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    assert only_failure(tmp_path).reason == reason
    # Of the batch of 16: it, 8 + 8 and 4 + 4 + 4 + 4 fail. Of the batch of 4: it.
    sizes = Counter(call[0] for call in calls(tmp_path))
    assert sizes[16] == 1 and sizes[8] == 2 and sizes[4] == 5
    # The process goes on.
    assert len({call[1] for call in calls(tmp_path)}) == 1


def test_a_broken_gpu_is_one_error_of_the_job(jobs, tmp_path):
    write_scans(tmp_path / "faces", 4)
    done = jobs.run(tmp_path, {"is_broken": True}, **OPTIONS)
    assert done["error"].startswith("DeviceError: node ")
    assert done["error"].endswith(": the GPU failed: CUDA error: an illegal memory access was encountered")
    assert not (tmp_path / "out/failures.parquet").exists()


def test_a_gpu_without_memory_for_a_worker_is_one_error_of_the_job(jobs, tmp_path):
    write_scans(tmp_path / "faces", 4)
    done = jobs.run(tmp_path, {"max_vertices": 0}, **OPTIONS)
    assert done["error"].startswith("DeviceError: node ") and "CUDA out of memory" in done["error"]


@pytest.mark.parametrize("workers_per_gpu", [1, 2])
def test_workers_share_a_gpu(jobs, tmp_path, workers_per_gpu):
    write_scans(tmp_path / "faces", 160)
    done = jobs.run(tmp_path, {"seconds": 0.5}, **OPTIONS, workers_per_gpu=workers_per_gpu)
    assert (done["samples"], done["failures"]) == (160, 0)
    drawn = [call for call in calls(tmp_path) if call[0] > 1]
    are_parallel = any(a[1] != b[1] and a[2] < b[3] and b[2] < a[3] for a in drawn for b in drawn)
    assert are_parallel == (workers_per_gpu > 1)
    assert 0 < done["gpus"] <= 1
