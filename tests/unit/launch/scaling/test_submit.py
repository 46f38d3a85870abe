"""Runs as batch jobs, with a batch system that only keeps what it is given."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import cli
from launch.discovery import Library
from launch.scaling import command, runs
from launch.scaling.records import append, read_measurements
from launch.scaling.study import Run, read_study
from launch.scaling.submit import collect, is_on_its_way, last_words, read_jobs
from tests.unit.launch.scaling.run_records import CONFIG, measurement

# Keeps the script under a number of its own; `refuses` and `queued` are files that say what it does.
SBATCH = """#!/bin/sh
if [ -e refuses ]; then echo "sbatch: error: invalid partition" >&2; exit 1; fi
n=$(ls submitted | wc -l)
for last; do :; done
cp "$last" submitted/$n; echo "$@" > arguments; echo "$n;cluster"
"""
SQUEUE = """#!/bin/sh
for last; do :; done
if [ -e queued ]; then echo "$last all ddp-scale root R"; fi
"""
QSUB = """#!/bin/sh
n=$(ls submitted | wc -l); for last; do :; done
cp "$last" submitted/$n; echo "$n.server"
"""
JOBS = "--ranks 1,2,4 --repeats 2 --steps 20 --ranks-per-node 2 --time 00:10:00 --output study"


@pytest.fixture
def batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the scripts that were submitted."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("qsub", QSUB)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (tmp_path / "submitted").mkdir()
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.Runner, "config", lambda runner, trainer: CONFIG)
    monkeypatch.setattr(command, "write_report", lambda folder: command.say(f"report: {folder}"))
    return tmp_path / "submitted"


def scale(line: str) -> int:
    return cli.main(["scale", *shlex.split(line)], library=lambda: Library("Open MPI", (5, 0, 11)))


def scripts(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir(), key=lambda path: int(path.name))]


def measured(run: Run) -> Any:
    made = measurement(run.point.ranks, batch=run.point.batch, shards=run.point.shards, repeat=run.repeat)
    assert made.run == run.name
    return made


def test_a_job_for_each_run_in_the_order_of_the_study(
    batch_system: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = "--queue short --account me --memory 4G --directive=--exclusive --module openmpi/5.0"
    assert scale(f"{JOBS} --submit slurm {options} -- --model.hidden [8]") == 0
    study = read_study(tmp_path / "study")
    asked = scripts(batch_system)
    assert len(asked) == len(study.runs()) == 2 * 5
    folder = tmp_path / "study"
    for run, text in zip(study.runs(), asked, strict=True):
        lines = text.splitlines()
        assert lines[-1] == f"exec {sys.executable} -m launch scale job {folder} {run.name}"
        nodes = {1: (1, 1), 2: (1, 2), 4: (2, 2)}[run.point.ranks]
        assert f"#SBATCH --nodes={nodes[0]}" in lines
        assert f"#SBATCH --ntasks-per-node={nodes[1]}" in lines
        assert {"#SBATCH --partition=short", "#SBATCH --account=me", "#SBATCH --mem=4G"} <= set(lines)
        assert {"#SBATCH --exclusive", "module load openmpi/5.0 || exit", f"cd {tmp_path} || exit"} <= set(lines)
        assert "#SBATCH --signal=B:USR1@30" in lines
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert list(read_jobs(folder).values()) == [str(number) for number in range(10)]
    assert json.loads((folder / "jobs.json").read_text())["scheduler"] == "slurm"
    assert study.steps == 20
    out, err = capfd.readouterr()
    assert out.splitlines() == [
        f"10 jobs submitted, 0 on their way, 0 runs measured, in {folder}",
        f"when they are done: python -m launch scale report {folder}",
    ]
    assert err == ""


def test_only_what_is_missing_and_not_on_its_way_is_submitted_again(
    batch_system: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    line = f"{JOBS} --submit slurm"
    assert scale(line) == 0
    study = read_study(tmp_path / "study")
    (tmp_path / "queued").touch()
    assert scale(line) == 0
    assert len(scripts(batch_system)) == 10
    (tmp_path / "queued").unlink()
    first, *others = study.runs()
    own = tmp_path / "study" / "jobs" / first.name
    append(own / "points.jsonl", [measured(first).line()])
    append(own / "collectives.jsonl", [json.dumps({"ranks": first.point.ranks, "threads": 1}) + "\n"])
    assert scale(line) == 0
    assert len(scripts(batch_system)) == 10 + len(others)
    assert "9 jobs submitted, 0 on their way, 1 run measured" in capfd.readouterr().out


def test_pbs(batch_system: Path, tmp_path: Path) -> None:
    assert scale(f"{JOBS} --submit pbs --queue short") == 0
    assert set(read_jobs(tmp_path / "study").values()) == {f"{number}.server" for number in range(10)}
    assert "#PBS -q short" in scripts(batch_system)[0]


def test_the_report_collects_what_jobs_have_measured(
    batch_system: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert scale(f"{JOBS} --submit slurm --mode strong") == 0
    folder = tmp_path / "study"
    *done, lost = read_study(folder).runs()
    for run in done:
        own = folder / "jobs" / run.name
        append(own / "points.jsonl", [measured(run).line()])
        append(own / "collectives.jsonl", [json.dumps({"ranks": run.point.ranks, "threads": 1}) + "\n"])
    (folder / "jobs" / lost.name / "job.log").write_text("the plan\nerror: rank 1 on n2 failed\nslurm: bye\n")
    capfd.readouterr()
    assert scale("report study") == 1
    out, err = capfd.readouterr()
    assert err.splitlines() == [
        f"error: 1 run of 6 are missing: {lost.name}",
        f"error: the job of {lost.name} said last: rank 1 on n2 failed",
    ]
    assert "report: study" in out
    assert sorted(one.run for one in read_measurements(folder / "points.jsonl")) == sorted(run.name for run in done)
    lines = (folder / "collectives.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["ranks"] for line in lines) == [1, 2, 4]
    append(folder / "jobs" / lost.name / "points.jsonl", [measured(lost).line()])
    assert collect(folder) == 1
    assert collect(folder) == 0
    assert scale("report study") == 0


def test_a_report_of_nothing(batch_system: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert scale(f"{JOBS} --submit slurm") == 0
    assert scale("report study") == 1
    assert capfd.readouterr().err.startswith("error: nothing is measured in study")


@pytest.mark.parametrize(
    ("prepare", "options", "named"),
    [
        ("refuses", "slurm", "sbatch refuses the job of ranks-"),
        ("", "slurm --time 00:01:00", "--time 00:01:00 leaves too little for a run; give 00:02:00"),
        ("no sbatch", "slurm", "no sbatch on PATH"),
    ],
)
def test_jobs_that_cannot_be_submitted(
    prepare: str,
    options: str,
    named: str,
    batch_system: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if prepare == "refuses":
        (tmp_path / "refuses").touch()
    elif prepare:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert scale(f"{JOBS} --submit {options}") == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


def test_jobs_that_are_gone(batch_system: Path, tmp_path: Path) -> None:
    assert not is_on_its_way("slurm", "3")
    assert not is_on_its_way("pbs", "3")  # there is no qstat
    (tmp_path / "queued").touch()
    assert is_on_its_way("slurm", "3")


def test_a_job_of_no_run(batch_system: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert scale(f"{JOBS} --submit slurm") == 0
    assert scale("job study ranks-7") == 2
    assert "study has no run ranks-7" in capfd.readouterr().err
    run = read_study(tmp_path / "study").runs()[0]
    assert last_words(tmp_path / "study", run) == ""
    assert last_words(tmp_path / "study", replace(run, repeat=9)) == ""
