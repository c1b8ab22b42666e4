"""`docker/slurm.sh` with substitutes for Slurm, whose nodes are all this machine, and for Ray.

`make test-faults` runs it with Ray itself, too.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY
from helpers.processes import wait_until
from helpers.worlds import content

pytestmark = pytest.mark.faults

IN_FULL = pytest.mark.skipif(not os.environ.get("SMILE_PIPE_FAULTS"), reason="takes long: make test-faults")
SCRIPT = REPOSITORY / "docker" / "slurm.sh"

SLURM = {
    "scontrol": """tr , '\\n' <<<"$3" """,
    "srun": """
        while [[ $1 == --* ]]; do [[ $1 != --nodelist=* ]] || export SLURMD_NODENAME=${1#*=}; shift; done
        exec "$@" """,
    "python": f"""exec {sys.executable} "$@" """,
}
REAL = {
    "ray": f"""exec {sys.executable} -m ray.scripts.scripts "$@" """,
    "smile-pipe": f"""exec {sys.executable} -c 'from smile_pipe.cli.main import main; main()' "$@" """,
}
# They record calls and stops in $NOTES. Messages of Ray appear in order, after a delay.
RECORDING = {
    "ray": """
        echo "$SLURMD_NODENAME: ray $*" >>"$NOTES"
        echo "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" >>"$NOTES.tokens"
        [[ $SLURMD_NODENAME != "$MISSING" ]] || { echo "no room"; exit 1; }
        [[ $* =~ --temp-dir=([^ ]*) ]] && touch "${BASH_REMATCH[1]}/$SLURMD_NODENAME"
        trap 'kill $!; echo "$SLURMD_NODENAME: stopped" >>"$NOTES"; exit' TERM
        echo "Ray runtime started."
        [[ $* != *--head* ]] || { sleep "$LATER"; echo "  ray start --address='10.0.0.1:4242'"; }
        sleep 100 & wait""",
    "smile-pipe": """
        echo "smile-pipe $*" >>"$NOTES"
        [[ $1 != "$FAILS" ]] || exit 3
        [[ $1 == "$LASTS" ]] || exit 0
        trap 'kill $!; sleep 0.5; echo "$1: stopped" >>"$NOTES"; exit 143' TERM
        sleep 100 & wait""",
}


class SlurmJob:
    """A job of three nodes.

    Attributes:
        process: the script, after `start`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.out, self.programs = folder, folder / "out", folder / "bin"
        self.programs.mkdir()
        self.notes_path = folder / "notes"
        self.environment = os.environ | {
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NODELIST": "a,b,c",
            "SLURM_CPUS_PER_TASK": "1",
            "NOTES": str(self.notes_path),
            "LATER": "0.1",
            **dict.fromkeys(("MISSING", "FAILS", "LASTS"), "nothing"),
        }
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE"):
            self.environment.pop(name, None)

    def start(self, programs: dict[str, str], scans: Path = Path("/scans"), **environment: str) -> subprocess.Popen:
        for name, text in (SLURM | programs).items():
            (self.programs / name).write_text(f"#!/bin/bash\n{text}\n")
            (self.programs / name).chmod(0o755)
        self.process = subprocess.Popen(
            ["bash", SCRIPT, scans, self.out],
            env=self.environment | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self.process

    def run(self, **environment: str) -> tuple[int, str]:
        """Exit code and stderr of the job."""
        _, stderr = self.start(RECORDING, **environment).communicate(timeout=60)
        return self.process.returncode, stderr

    @property
    def notes(self) -> list[str]:
        return self.notes_path.read_text().splitlines() if self.notes_path.exists() else []

    @property
    def commands(self) -> list[str]:
        return [note for note in self.notes if note.startswith("smile-pipe")]

    @property
    def folders(self) -> list[Path]:
        """Temporary folders of the nodes."""
        return [Path(path) for note in self.notes for path in re.findall(r"--temp-dir=(\S+)", note)]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[SlurmJob]:
    job = SlurmJob(tmp_path)
    yield job
    # Processes remain only after a failed test.
    with suppress(ProcessLookupError):
        os.killpg(job.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> SlurmJob:
    """A finished job without failures."""
    job = SlurmJob(tmp_path_factory.mktemp("slurm"))
    # Later than the first check of the script.
    code, stderr = job.run(LATER="1.5")
    assert code == 0, stderr
    return job


def test_nodes_join_the_head_before_the_stages_run(done):
    head, *others = done.notes[:3]
    assert head.startswith("a: ray start --block") and "--head --port=0" in head
    assert sorted(other[:2] for other in others) == ["b:", "c:"]
    assert all("--address=10.0.0.1:4242" in other and "--num-cpus=1" in other for other in others)
    shards, run, at = f"{done.out}/shards", f"{done.out}/run", "--address 10.0.0.1:4242"
    assert done.commands == [
        f"smile-pipe render /scans --out {shards} --renderer zbuffer {at}",
        f"smile-pipe train --shards {shards} --out {run} --num-workers 3 {at}",
        f"smile-pipe evaluate {run} --shards {shards}",
    ]


def test_each_node_has_its_own_folder_which_is_removed_at_the_end(done):
    assert len(set(done.folders)) == 3
    assert not any(folder.exists() for folder in done.folders)


def test_nodes_share_one_token_that_is_in_no_command_line_and_no_log(done):
    (line,) = set(Path(f"{done.notes_path}.tokens").read_text().splitlines())
    mode, token = line.split()
    assert mode == "token" and len(token) == 64
    logs = [path.read_text() for path in done.out.rglob("*.log")]
    assert len(logs) == 3 and token not in "".join([*done.notes, *logs])


def test_stages_use_gpus_of_the_job(job):
    job.run(SLURM_GPUS_ON_NODE="4", RENDER_OPTIONS="--size 112", TRAIN_OPTIONS="--epochs 1 --seed 2")
    render, train, evaluate = job.commands
    assert "--size 112 --renderer pytorch3d " in render
    assert "--epochs 1 --seed 2 --num-workers 12 --use-gpu " in train
    assert evaluate.endswith("--use-gpu")


def test_existing_run_is_resumed(job):
    (job.out / "run").mkdir(parents=True)
    (job.out / "run" / "config.json").touch()
    job.run()
    assert "--resume" in job.commands[1]


def test_failed_stage_ends_the_job_with_its_exit_code(job):
    code, _ = job.run(FAILS="train")
    assert code == 3
    assert [command.split()[1] for command in job.commands] == ["render", "train"]
    assert not any(folder.exists() for folder in job.folders)


def test_missing_node_ends_the_job_and_its_log_is_named(job):
    code, stderr = job.run(MISSING="c")
    assert code == 1 and f"Ray did not start on a node; see {job.out}/slurm-7/worker-2.log" in stderr
    assert not job.commands
    assert not any(folder.exists() for folder in job.folders)


def test_stopped_job_stops_its_command_before_its_nodes(job):
    job.start(RECORDING, LASTS="train")
    wait_until(lambda: len(job.commands) == 2)
    assert all(folder.exists() for folder in job.folders)
    job.process.send_signal(signal.SIGTERM)
    job.process.communicate(timeout=60)
    assert job.process.returncode == 143
    assert next(note for note in job.notes if note.endswith("stopped")) == "train: stopped"
    assert sorted(job.notes[-3:]) == ["a: stopped", "b: stopped", "c: stopped"]
    assert not any(folder.exists() for folder in job.folders)


@IN_FULL
def test_shards_of_a_ray_cluster_are_those_of_one_machine(job, faces_dir, shards_dir):
    # As in the fixture `shards_dir`.
    options = {"RENDER_OPTIONS": "--size 48 --samples-per-shard 8", "TRAIN_OPTIONS": "--epochs 1 --split kfold:5:0"}
    job.start(REAL, faces_dir, SLURM_JOB_NODELIST="a,b", **options)
    _, stderr = job.process.communicate()
    assert job.process.returncode == 0, stderr
    assert content(job.out / "shards") == content(shards_dir)
    assert json.loads((job.out / "run" / "manifest.json").read_text())["world_size"] == 2
    assert (job.out / "run" / "evaluation" / "report.html").exists()
    logs = "".join(path.read_text() for path in job.out.glob("slurm-7/*.log"))
    folders = set(re.findall(r"/tmp/ray-\w+", logs))
    assert len(folders) == 2 and not any(Path(folder).exists() for folder in folders)
