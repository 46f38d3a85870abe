"""`python -m launch verify` without MPI: a program in place of mpirun's ranks that writes what a test wants."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import cli
from launch.discovery import Library
from launch.verify import shards_for

# An mpirun that runs the program once, with the number of ranks in a variable.
MPIRUN = """#!/bin/sh
if [ "$1" = --version ]; then echo 'mpirun (Open MPI) 5.0.11'; exit; fi
RANKS=$2
while [ "$1" != PROGRAM ]; do shift; done
shift
export RANKS
exec "$@"
"""
# Steps as long as asked for; DIFFERS says at which ranks and step another tensor is computed.
TRAINER = r"""
import json, os, sys
arguments = sys.argv[1:]
if "--print-config" in arguments:
    if "--wrong" in arguments:
        sys.stderr.write("error: --wrong: use right\n")
        sys.exit(2)
    sys.stderr.write("a warning of the MPI library\n")
    print('[model]\nname = "m"\n[data]\nname = "d"\n[batch]\nsize = 6\nshards = 2\n[comm]\nexact = true')
    sys.exit(0)
def value(name):
    return arguments[arguments.index(name) + 1]
ranks, (differing, step_of_difference) = int(os.environ["RANKS"]), map(int, os.environ["DIFFERS"].split())
with open(os.environ["DDP_PARAMETER_LOG"], "w") as log:
    for step in range(int(value("--train.steps")) + 1):
        if ranks == int(os.environ["FAILS"]) and step == 2:
            print("first line\nlast line")
            sys.exit(3)
        is_other = ranks == differing and step >= step_of_difference
        digests = {"0.weight": "a", "1.weight": str(is_other), "arguments": value("--batch.shards")}
        log.write(json.dumps({"step": step, "digests": digests}) + "\n")
assert value("--threads") == os.environ["NUMBA_NUM_THREADS"]
assert os.path.isdir(value("--output.dir"))
"""


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command with such an mpirun; all points compute the same unless the environment says otherwise."""
    mpirun = tmp_path / "mpirun"
    mpirun.write_text(MPIRUN)
    mpirun.chmod(0o755)
    (tmp_path / "trainer.py").write_text(TRAINER)
    python = sys.executable
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("DIFFERS", "0 0")
    monkeypatch.setenv("FAILS", "0")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program = ["PROGRAM", python, str(tmp_path / "trainer.py")]
    return lambda line: cli.main(
        ["verify", *line.split()], program=program, library=lambda: Library("Open MPI", (5, 0, 11))
    )


def test_the_same_everywhere(verify: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert verify("--ranks 1,2,3 --threads 1,2 --steps 4") == 0
    out, err = capfd.readouterr()
    heading, columns, *rows, verdict = out.splitlines()
    assert heading == "m on d, 4 steps at each of 6 points, batch.shards = 3, comm.exact = true, Open MPI 5"
    assert columns.split() == ["ranks", "threads", "steps", "digest", "bits"]
    cells = [row.split(maxsplit=4) for row in rows]
    assert [(ranks, threads) for ranks, threads, *_ in cells] == [(r, t) for r in "123" for t in "12"]
    assert {steps for _, _, steps, *_ in cells} == {"4"}
    assert len({digest for *_, digest, _ in cells}) == 1
    assert [bits for *_, bits in cells] == ["the reference"] + 5 * ["the same"]
    assert verdict == "the same bits at all 6 points, at every step"
    assert err == ""


def test_a_difference_is_named(verify: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFERS", "3 2")
    assert verify("--ranks 1,2,3 --threads 1,2 --steps 4") == 1
    out, err = capfd.readouterr()
    assert [line.partition("differ from ")[2] for line in out.splitlines() if line.startswith("3 ")] == [
        "step 2: 1.weight",
        "step 2: 1.weight",
    ]
    assert out.count("the same") == 3
    assert err == ("error: 2 of 6 points differ from 1 rank x 1 thread, first 3 ranks x 1 thread at step 2: 1.weight\n")


def test_a_point_that_fails_is_told_with_its_output(
    verify: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "1")
    assert verify("--ranks 1,2,3 --threads 1 --steps 4") == 1
    out, err = capfd.readouterr()
    assert [line.split(maxsplit=2)[2] for line in out.splitlines() if line.startswith("1 ")] == ["failed: exit code 3"]
    assert out.count("the reference") == out.count("the same") == 1  # the first that succeeds is the reference
    assert err == ("error: 1 rank x 1 thread failed with exit code 3; its last lines:\n    first line\n    last line\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--ranks 1", "--threads"),
        ("--ranks 1,x", "'x'"),
        ("--ranks 0,1", "'0'"),
        ("--ranks ,1", "''"),
        ("--threads 1,-2", "'-2'"),
        ("--steps 0", "'0'"),
        ("--mpi mpich", "--mpi mpich"),
        ("--seed 3", "--seed"),
        ("-- --threads 2", "--threads after the --: give --threads before it"),
        ("-- --train.steps=3", "--train.steps=3 after the --: give --steps before it"),
        ("-- --wrong", "--wrong: use right"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(
    arguments: str, named: str, verify: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    if arguments == "--ranks 1":
        arguments += " --threads 2"
    assert verify(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


def test_numbers_given_twice_are_run_once(verify: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert verify("--ranks 2,1,2 --threads 1 --steps 1") == 0
    assert "1 step at each of 2 points" in capfd.readouterr().out


CONFIG = {"batch": {"size": 10, "shards": 4}}


@pytest.mark.parametrize(
    ("ranks", "trainer", "shards"),
    [(3, [], 4), (4, [], 4), (7, [], 7), (11, [], 10), (7, ["--batch.shards", "4"], 4), (7, ["--batch.shards=4"], 4)],
)
def test_all_ranks_have_work_unless_the_user_decides(ranks: int, trainer: list[str], shards: int) -> None:
    assert shards_for(ranks, CONFIG, trainer) == shards


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", "--help"])
    assert ended.value.code == 0
    assert "ddp.train arguments" in capfd.readouterr().out
