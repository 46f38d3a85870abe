"""Batch scripts under Slurm itself: submitted, told to end, queued again, resumed, cancelled."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.conftest import Bits
from tests.cluster.jobs import ENDLESS, ENVIRONMENT, JOB, Mpi, final_sha256
from tests.cluster.processes import wait_until
from tests.cluster.slurm import Slurm
from tests.system.jobs import ROOT, SET_FOR_TESTS, records

STEPS = (*JOB, "--output.name", "run", "--train.epochs", "1000", "--train.steps", "800")
INTERRUPTED = "interrupted by SIGUSR1: checkpoint of step "


def write_script(mpi: Mpi, folder: Path, arguments: tuple[str, ...], *options: str) -> Path:
    resources = ["--nodes", "2", "--ranks-per-node", "1", "--threads", "1", "--time", "00:05:00"]
    at = arguments.index("--threads")  # the script's own
    trainer = [*arguments[:at], *arguments[at + 2 :]]
    command = [mpi.python, "-m", "launch", "script", "slurm", *resources, *options, "--", *trainer]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    script = folder / "job.sh"
    script.write_text(done.stdout)
    return script


def environment() -> dict[str, str]:
    """What a user of this checkout has set; sbatch hands it on."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name not in SET_FOR_TESTS}
    return {**inherited, **ENVIRONMENT, "PYTHONPATH": path}


def submit(slurm: Slurm, script: Path, *options: str) -> int:
    return slurm.submit(script, "--output=job.log", *options, environment={**environment(), "PATH": os.environ["PATH"]})


def steps(folder: Path) -> int:
    metrics = folder / "runs" / "run" / "metrics.jsonl"
    return metrics.read_text().count('"event": "step"') if metrics.exists() else 0


@pytest.mark.parametrize("by", ["mpirun", "srun"])
def test_told_to_end_it_queues_again_and_resumes_to_the_same_bits(
    by: str, slurm: Slurm, mpi: Mpi, undisturbed: Bits, tmp_path: Path
) -> None:
    script = write_script(mpi, tmp_path, STEPS, *(["--mpi", "srun"] if by == "srun" else []))
    job = submit(slurm, script)
    log = tmp_path / "job.log"
    wait_until(lambda: steps(tmp_path) >= 10, "ten steps of the job")
    slurm.command("scancel", "--batch", "--signal=USR1", str(job))
    slurm.wait_for(job, "PENDING", restarts=1)
    assert INTERRUPTED in log.read_text()
    slurm.release(job)
    ended = slurm.wait_for(job, "COMPLETED", restarts=1)
    assert ended["ExitCode"] == "0:0", log.read_text()
    text = log.read_text()
    assert "resumed at step" in text
    assert "resumed at step 0" not in text
    starts = [record for record in records(tmp_path / "runs" / "run") if record["event"] == "start"]
    assert [(start["world_size"], start["hosts"]) for start in starts] == [(2, ["node1", "node2"])] * 2
    assert final_sha256(tmp_path) == undisturbed(STEPS)
    wait_until(lambda: slurm.left() == [], "the end of all processes")


@pytest.mark.parametrize("mpi", ["openmpi"], indirect=True)  # whose daemons a signal to all would end
def test_out_of_time_it_queues_again_and_when_cancelled_it_does_not(slurm: Slurm, mpi: Mpi, tmp_path: Path) -> None:
    job = submit(slurm, write_script(mpi, tmp_path, ENDLESS), "--time=1")
    slurm.wait_for(job, "PENDING", restarts=1, timeout_s=90)  # Slurm looks at the clock twice a minute
    assert INTERRUPTED in (tmp_path / "job.log").read_text()
    slurm.command("scontrol", "update", f"JobId={job}", "TimeLimit=5")
    slurm.release(job)
    before = steps(tmp_path)
    wait_until(lambda: steps(tmp_path) > before, "the resumed job")
    slurm.command("scancel", str(job))
    ended = slurm.wait_for(job, "CANCELLED", restarts=1)
    assert ended["Requeue"] == "1"
    wait_until(lambda: slurm.left() == [], "the end of all processes")
    assert slurm.job(job)["JobState"] == "CANCELLED"
