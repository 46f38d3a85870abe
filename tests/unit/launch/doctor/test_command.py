"""The command as a whole, with an mpirun that starts nothing but says what ranks would."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import cli
from launch.discovery import Library
from launch.doctor import ranks
from launch.doctor.finding import Finding, not_made, worst
from launch.errors import UsageError
from launch.hosts import this_host

MPIRUN = """#!/bin/sh
if [ "$1" = --version ]; then echo 'mpirun (Open MPI) 5.0.11'; exit; fi
cat {said}
exec sleep {seconds}
"""
ROOT = Path(__file__).parents[4]
CHECKS = [
    "MPI library", "mpirun", "ssh", "packages", "clock", "directory", "world", "affinity", "plain mpirun",
    "threading layer", "threads", "network", "peak",
]  # fmt: skip
RANK = {"rank": 0, "host": "a", "cores": [0], "blas_threads": 1, "variables": {}}
KERNELS = {"threading_layer": "omp", "threads": 1, "pool": 1, "cores": [0], "loaded": {}, "peak_gflops": 9.0}
STAGES: list[dict[str, Any]] = [
    {"stage": "started", **RANK},
    {"stage": "world", "size": 1, "hosts": 1},
    {"stage": "ranks", "ranks": [RANK]},
    {"stage": "kernels", "ranks": [{**RANK, **KERNELS}]},
    {"stage": "network", "links": []},
]


class Doctor:
    """Runs the command in a folder with such an mpirun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.says(STAGES)

    def says(self, stages: list[dict[str, Any]], seconds: int = 0) -> None:
        (self.folder / "said").write_text("".join(f"{ranks.MARK}{json.dumps(stage)}\n" for stage in stages))
        (self.folder / "mpirun").write_text(MPIRUN.format(said=self.folder / "said", seconds=seconds))
        (self.folder / "mpirun").chmod(0o755)

    def __call__(self, *arguments: str) -> int:
        return cli.main(["doctor", *arguments], library=lambda: Library("Open MPI", (5, 0, 11)))


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Doctor(tmp_path)


def findings(capfd: pytest.CaptureFixture[str]) -> tuple[str, dict[str, dict[str, Any]]]:
    document = json.loads(capfd.readouterr().out)
    return document["state"], {one["check"]: one for one in document["checks"]}


def test_json(doctor: Doctor, capfd: pytest.CaptureFixture[str]) -> None:
    assert doctor("--json", "-n", "1", "--threads", "1") == 0
    state, checks = findings(capfd)
    assert state == "ok"
    assert list(checks) == CHECKS
    for check in checks.values():
        assert set(check) == {"check", "state", "measured", "fix", "details"}
    assert {path.name for path in doctor.folder.iterdir()} == {"said", "mpirun"}  # no runs, no files


def test_table(doctor: Doctor, capfd: pytest.CaptureFixture[str]) -> None:
    assert doctor("-n", "1", "--threads", "2") == 1
    heading, *rows, total = capfd.readouterr().out.splitlines()
    assert heading.split() == ["check", "state", "measured"]
    assert [row.partition("  ")[0] for row in rows if not row.startswith(" ")] == CHECKS
    place = next(index for index, row in enumerate(rows) if row.startswith("affinity"))
    assert rows[place].split()[1:] == "error rank 0 on a has 1 core (0) for 2 threads".split()
    assert rows[place + 1].strip().startswith("fix: ")
    assert total.endswith("1 error")


def test_ranks_that_hang_in_the_middle(
    doctor: Doctor, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "LIMIT_S", 1)
    monkeypatch.setattr(ranks, "WHERE_LIMIT_S", 1)
    doctor.says(STAGES[:3], seconds=100)
    assert doctor("--json", "-n", "1", "--threads", "1") == 1
    _, checks = findings(capfd)
    assert list(checks) == CHECKS
    states = {name: check["state"] for name, check in checks.items()}
    assert states["world"] == states["affinity"] == "ok"  # told before
    assert states["threading layer"] == "error"
    assert "did not end within 1 s, after ranks" in checks["threading layer"]["measured"]
    assert str(doctor.folder / "mpirun") in checks["threading layer"]["fix"]
    assert states["threads"] == states["network"] == states["peak"] == "warning"


def test_without_mpirun_the_hosts_are_examined_all_the_same(doctor: Doctor, capfd: pytest.CaptureFixture[str]) -> None:
    (doctor.folder / "mpirun").unlink()
    assert doctor("--json") == 1
    state, checks = findings(capfd)
    assert state == "error"
    assert [name for name, check in checks.items() if check["state"] == "error"] == ["mpirun"]
    assert checks["directory"]["state"] == "ok"
    assert checks["world"]["measured"] == "not checked: no mpirun to start ranks with"


def test_no_mpi(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def none() -> Library:
        raise UsageError("mpi4py finds no MPI library")

    assert cli.main(["doctor", "--json", "--directory", str(tmp_path)], library=none) == 1
    _, checks = findings(capfd)
    assert checks["MPI library"]["state"] == "error"
    assert "mpirun" not in checks
    assert checks["packages"]["state"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "number"),
    [("-n 3", "3"), ("", "2"), ("-H {here}", "2"), ("-H {here}:5", "5"), ("-H {here}:5 -n 4", "4")],
)
def test_the_number_of_ranks(arguments: str, number: str, doctor: Doctor, capfd: pytest.CaptureFixture[str]) -> None:
    mpirun = doctor.folder / "mpirun"
    mpirun.write_text(mpirun.read_text().replace("cat", f'echo "$2" >> {doctor.folder}/numbers\ncat'))
    doctor("--json", *arguments.format(here=this_host().name).split())
    assert (doctor.folder / "numbers").read_text().split()[0] == number
    _, checks = findings(capfd)
    assert checks["world"]["details"] == {"wanted": int(number), "worlds": [1]}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("-n 0", "'0'"),
        ("-n two", "'two'"),
        ("--threads 0", "'0'"),
        ("-n 5 -H a:2,b:2", "-n 5"),
        ("-H a,-b", "'-b'"),
        ("-H a --hostfile b", "give one of them"),
        ("--hostfile nowhere", "nowhere"),
        ("--mpi lam", "'lam'"),
        ("stray", "stray"),
        ("--output.name x", "--output.name"),
        ("-- --threads 2", "--threads after a --"),
    ],
)
@pytest.mark.usefixtures("doctor")
def test_mistakes_give_one_line_and_exit_code_2(arguments: str, named: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", *arguments.split()]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


def test_the_worst_state_is_that_of_the_whole() -> None:
    good, bad = Finding("a", "ok", ""), Finding("b", "error", "")
    assert worst([]) == "ok"
    assert worst([good, not_made("c", "why")]) == "warning"
    assert worst([bad, good]) == "error"
