"""The command line: what is refused, and what a dry run shows."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from launch import cli, job
from launch.discovery import Library
from launch.errors import UsageError
from launch.hosts import Host
from launch.placement import Available

HERE = Available(Host("localhost"), (0, 1, 2, 3))


def library() -> Library:
    return Library("Open MPI", (5, 0, 11))


@pytest.fixture
def openmpi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Open MPI 5 that is found first, and 4 cores."""
    mpirun = tmp_path / "mpirun"
    mpirun.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.11'\n")
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(job, "available_here", lambda: (HERE,))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return mpirun


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("", "COMMAND"),
        ("walk", "walk"),
        ("run", "-n"),
        ("run -n", "-n"),
        ("run -n 0", "'0'"),
        ("run -n -2", "-n"),
        ("run -n 1.5", "'1.5'"),
        ("run -n 2 --threads 0", "--threads: '0'"),
        ("run -n 2 --threads many", "'many'"),
        ("run -n 2 --thr 1", "--thr"),
        ("run -n 2 --model.name mlp", "--model.name"),
        ("run -n 2 stray", "stray"),
        ("run -n 2 --bind socket", "'socket'"),
        ("run -n 2 --mpi lam", "'lam'"),
        ("run -n 2 --max-restarts -1", "--max-restarts"),
        ("run -n 2 --max-restarts often", "'often'"),
        ("run -n 2 --mpi mpich", "--mpi mpich, but mpi4py loads Open MPI 5.0.11"),
        ("run -n 2 --env NAME", "'NAME'"),
        ("run -n 2 --env =x", "'=x'"),
        ("run -n 2 --env OMP_NUM_THREADS=7", "OMP_NUM_THREADS=7"),
        ("run -n 5 --bind core", "5 x 1"),
        ("run -n 2 -H", "-H"),
        ("run -n 2 -H a:0", "'a:0'"),
        ("run -n 2 -H -a:2", "-H"),
        ("run -n 2 -H=-a:2", "'-a'"),
        ("run -n 2 -H a;b", "'a;b'"),
        ("run -n 2 -H a,a", "a is there already"),
        ("run -n 2 -H a --hostfile f", "give one of them"),
        ("run -n 2 --hostfile no/such/file", "no/such/file"),
        ("run -n 9 --dry-run -H localhost:4", "localhost:4 have 4 slots"),
        ("run -n 2 --threads 1 -- --threads 2", "--threads 1 and --threads 2"),
        ("run -n 2 -- --threads=1 --threads 2", "--threads 1 and --threads 2"),
        ("run -n 2 -- --threads", "''"),
        ("run -n 2 -- --threads=two", "'two'"),
    ],
)
@pytest.mark.usefixtures("openmpi")
def test_mistakes_give_one_line_and_exit_code_2(arguments: str, named: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments.split(), program=["false"], library=library) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.index("\n") == len(err) - 1
    assert named in err


def test_no_mpirun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert cli.main(["run", "-n", "1"], library=library) == 2
    assert capfd.readouterr().err.startswith("error: no mpirun")


def test_dry_run_shows_plan_and_command(openmpi: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trainer = ["--model.hidden", "[8, 8]", "--", "-n"]
    arguments = ["run", "-n", "2", "--env", "X=a b", "--dry-run", "--"]
    assert cli.main(arguments + trainer, program=["prog"], library=library) == 0
    out, err = capfd.readouterr()
    plan, place, command = out.splitlines()
    assert plan == "2 ranks x 2 threads on 4 cores of 1 host, not bound; none idle"
    assert place == "  localhost: ranks 0-1 on cores 0-3; none idle"
    assert command == (
        "NUMBA_NUM_THREADS=2 OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 "
        "DDP_WORLD_SIZE=2 DDP_THREADS=2 X='a b' "
        f"{openmpi} -n 2 --stdin none --map-by :OVERSUBSCRIBE --bind-to none "
        "-x NUMBA_NUM_THREADS -x OMP_NUM_THREADS -x OPENBLAS_NUM_THREADS -x MKL_NUM_THREADS "
        "-x DDP_WORLD_SIZE -x DDP_THREADS -x X "
        "prog --model.hidden '[8, 8]' -- -n"
    )
    assert err == ""


@pytest.mark.usefixtures("openmpi")
def test_a_crowded_plan_is_run_but_warned_of(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-n", "8", "--dry-run"], program=["prog"], library=library) == 0
    assert "warning: 8 threads share 4 cores" in capfd.readouterr().err


@pytest.mark.usefixtures("openmpi")
@pytest.mark.parametrize("given", [["--threads", "3"], ["--threads=3"]])
def test_the_trainers_own_threads_are_the_plans(given: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-n", "1", "--dry-run", "--", *given], program=["prog"], library=library) == 0
    plan, _, command = capfd.readouterr().out.splitlines()
    assert plan.startswith("1 rank x 3 threads on 4 cores")
    assert shlex.split(command)[-1 - len(given) :] == ["prog", *given]
    assert "NUMBA_NUM_THREADS=3 " in command


@pytest.fixture
def several(openmpi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts `h1` and `h2` with 8 cores each; no other answers."""

    def available_on(hosts: list[Host]) -> tuple[list[Available], dict[Host, str]]:
        there = [Available(host, tuple(range(8))) for host in hosts if host.name in ("h1", "h2")]
        missing = [host for host in hosts if host.name not in ("h1", "h2")]
        return there, {host: f"ssh: Could not resolve hostname {host.name}: Name or service" for host in missing}

    monkeypatch.setattr(job, "available_on", available_on)
    monkeypatch.delenv("PYTHONPATH", raising=False)


@pytest.mark.usefixtures("several")
def test_dry_run_on_several_hosts(openmpi: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-n", "4", "-H", "h1:4,h2:4", "--dry-run"], program=["prog"], library=library) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[:3] == [
        "4 ranks x 4 threads on 16 cores of 2 hosts, not bound; none idle",
        "  h1: ranks 0-1 on cores 0-7; none idle",
        "  h2: ranks 2-3 on cores 0-7; none idle",
    ]
    assert out[3] == "printf '%s\\n' 'h1 slots=2' 'h2 slots=2' > ddp-hosts"
    assert f"{openmpi} -n 4 --hostfile ddp-hosts --stdin none --map-by slot --bind-to none " in out[4]
    assert " -x PATH " in out[4]


@pytest.mark.usefixtures("several")
def test_a_host_that_does_not_answer(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-n", "4", "-H", "h1:4,gone:4"], program=["false"], library=library) == 2
    assert capfd.readouterr().err == "error: gone: no such host; correct its name in -H or --hostfile\n"
    assert cli.main(["run", "-n", "4", "-H", "h1:4,gone:4", "--dry-run"], program=["x"], library=library) == 0
    out, err = capfd.readouterr()
    assert "warning: gone: ssh: Could not resolve" in err
    assert "  gone: ranks 2-3 on cores 0-3" in out


def test_agreed_threads() -> None:
    assert cli.agreed_threads(None, ["--seed", "1"]) is None
    assert cli.agreed_threads(2, ["--threads", "2", "--threads=2"]) == 2
    assert cli.agreed_threads(None, ["--threads=4"]) == 4
    with pytest.raises(UsageError, match="--threads 2 and --threads 4 differ"):
        cli.agreed_threads(2, ["--threads=4"])


def test_the_default_program_is_the_trainer(openmpi: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "-n", "1", "--dry-run"], library=library) == 0
    assert f"{cli.TRAINER[0]} -m ddp.train\n" in capfd.readouterr().out


@pytest.mark.parametrize("command", [["--help"], ["run", "--help"]])
def test_help(command: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 0
    assert "run" in capfd.readouterr().out
