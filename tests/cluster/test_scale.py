"""`python -m launch scale` on several hosts, and as jobs of Slurm itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from launch.scaling.records import Measurement, read_measurements
from launch.scaling.study import read_study
from launch.scaling.submit import read_jobs
from tests.cluster.cluster import Cluster
from tests.cluster.jobs import ENVIRONMENT, Mpi
from tests.cluster.processes import wait_until
from tests.cluster.slurm import Slurm
from tests.system.jobs import ROOT, SET_FOR_TESTS

POINTS = ["--mode", "strong", "--repeats", "1", "--steps", "20", "--output", "study"]
SMALL = ["--", "--model.hidden", "[16]"]
TOGETHER_S = 240.0


def environment(**variables: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    inherited = {name: value for name, value in os.environ.items() if name not in SET_FOR_TESTS}
    return {**inherited, **ENVIRONMENT, "PYTHONPATH": path, **variables}


def measured(folder: Path) -> dict[int, Measurement]:
    return {one.point.ranks: one for one in read_measurements(folder / "study" / "points.jsonl")}


def check(runs: dict[int, Measurement]) -> None:
    assert {ranks: len(set(run.hosts)) for ranks, run in runs.items()} == {1: 1, 2: 2}
    assert len({run.parameters_sha256 for run in runs.values()}) == 1
    assert "one machine" in runs[2].flags  # namespaces of this machine: no speed-up is to be believed
    assert "one machine" not in runs[1].flags
    assert runs[2].cores == runs[1].cores == len(os.sched_getaffinity(0))


@pytest.mark.timeout(600)
def test_a_study_on_two_hosts(cluster: Cluster, mpi: Mpi, tmp_path: Path) -> None:
    command = [mpi.python, "-m", "launch", "scale", "--ranks", "1,2", "-H", "node1:1,node2:1", *POINTS, *SMALL]
    done = cluster.exec(1, command, tmp_path, TOGETHER_S, environment())
    assert "trained the same bits" in done.stdout
    assert "one machine: several hosts are one machine" in done.stdout
    runs = measured(tmp_path)
    assert {ranks: run.hosts for ranks, run in runs.items()} == {1: ("node1",), 2: ("node1", "node2")}
    check(runs)


@pytest.mark.timeout(600)
def test_more_ranks_than_slots_are_refused_before_anything_runs(cluster: Cluster, mpi: Mpi, tmp_path: Path) -> None:
    command = [mpi.python, "-m", "launch", "scale", "--ranks", "1,4", "-H", "node1:1,node2:2", *POINTS, *SMALL]
    done = cluster.exec(1, command, tmp_path, TOGETHER_S, environment(), check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ("error: --ranks 4: the hosts have 3 slots; give at most as many ranks, or more slots\n")
    assert not (tmp_path / "study").exists()


@pytest.mark.timeout(600)
def test_a_study_as_jobs_of_slurm(slurm: Slurm, mpich: Mpi, tmp_path: Path) -> None:
    variables = environment(SLURM_CONF=str(slurm.folder / "slurm.conf"))
    scale = [mpich.python, "-m", "launch", "scale"]
    resources = ["--submit", "slurm", "--ranks-per-node", "1", "--time", "00:05:00"]
    command = [*scale, "--ranks", "1,2", *resources, *POINTS, *SMALL]
    done = slurm.cluster.exec(1, command, tmp_path, TOGETHER_S, variables)
    assert done.stdout.startswith("2 jobs submitted, 0 on their way, 0 runs measured")
    again = slurm.cluster.exec(1, command, tmp_path, TOGETHER_S, variables)
    assert again.stdout.startswith("0 jobs submitted, 2 on their way, 0 runs measured")
    jobs = read_jobs(tmp_path / "study")
    assert jobs.keys() == {run.name for run in read_study(tmp_path / "study").runs()}
    for job in jobs.values():
        slurm.wait_for(int(job), "COMPLETED", timeout_s=TOGETHER_S)
    report = slurm.cluster.exec(1, [*scale, "report", "study"], tmp_path, TOGETHER_S, variables)
    assert "trained the same bits" in report.stdout
    check(measured(tmp_path))
    wait_until(lambda: slurm.left() == [], "the end of all processes")
