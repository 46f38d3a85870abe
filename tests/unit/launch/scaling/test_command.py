"""`python -m launch scale` with runs that only pretend: what is run, what goes on, what is refused, what is said."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from launch import cli, job
from launch.discovery import Library
from launch.errors import UsageError
from launch.hosts import Host
from launch.placement import Available
from launch.scaling import command, extras, runs, session
from launch.scaling.arguments import default_ranks, placement, read_placement
from launch.scaling.child import Interrupted
from launch.scaling.records import append, read_measurements
from launch.scaling.runs import Recorded, RunFailed
from launch.scaling.study import read_study
from tests.unit.launch.scaling.run_records import CONFIG, END, start_record, step_record

SMALL = "--ranks 1,2 --repeats 2 --steps 20 --output study"


class Pretended:
    """What runs were asked for, and what shall come of them."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.arguments: list[list[str]] = []
        self.failing: Callable[[str], bool] = lambda name: False
        self.interrupted_at = -1
        self.step_ms = 10.0
        self.digest: Callable[[int], str] = lambda ranks: "ab" * 32
        self.config = CONFIG
        self.collectives: list[tuple[int, int]] = []

    def train(self, runner: Any, name: str, ranks: int, threads: int, arguments: Sequence[str]) -> Any:
        if len(self.runs) == self.interrupted_at:
            raise Interrupted(2)
        self.runs.append(name)
        self.arguments.append(list(arguments))
        if self.failing(name):
            raise RunFailed("exit code 4", "    its last line")
        given = dict(zip(arguments[-14::2], arguments[-13::2], strict=False))
        every, steps = int(given["--output.log_every"]), int(given["--train.steps"])
        records = tuple(step_record(step, self.step_ms / ranks) for step in range(every, steps + 1, every))
        facts = {"command": "c", "others_busy_cores": 0.0, "started_at": "t", "wall_s": 3.0, "tensor_bytes": [40]}
        end = END | {"parameters_sha256": self.digest(ranks)}
        return Recorded(start_record(ranks), records, end, "", 0, ()), facts

    def trace(self, runner: Any, study: Any, threads: int) -> None:
        folder = runner.folder / f"trace-threads-{threads}"
        folder.mkdir()
        (folder / "trace-rank0.json").touch()

    def collect(self, session: Any, ranks: int, threads: int, folder: Path) -> str:
        self.collectives.append((ranks, threads))
        append(folder / "collectives.jsonl", [json.dumps({"ranks": ranks, "threads": threads}) + "\n"])
        return ""

    @property
    def visits(self) -> list[str]:
        return [name for name in self.runs if name != session.TRIAL]


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretended:
    """Two cores, an Open MPI, and no run that really runs."""
    it = Pretended()
    mpirun = tmp_path / "bin" / "mpirun"
    mpirun.parent.mkdir()
    mpirun.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.11'\n")
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{mpirun.parent}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setattr(job, "available_here", lambda: (Available(Host("node1"), (0, 1), "k"),))
    monkeypatch.setattr(runs.Runner, "config", lambda runner, trainer: it.config)
    monkeypatch.setattr(runs.Runner, "train", lambda runner, *given: it.train(runner, *given))
    monkeypatch.setattr(runs.Runner, "trace", lambda runner, *given: it.trace(runner, *given))
    monkeypatch.setattr(extras, "measure_collectives", it.collect)
    monkeypatch.setattr(command, "write_report", lambda folder: command.say(f"report: {folder}"))
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "PBS_NODEFILE", "LSB_JOBID"):
        monkeypatch.delenv(name, raising=False)
    return it


def scale(line: str) -> int:
    return cli.main(["scale", *line.split()], library=lambda: Library("Open MPI", (5, 0, 11)))


def names(folder: Path) -> list[str]:
    return [one.run for one in read_measurements(folder / "points.jsonl")]


def test_a_whole_study(pretended: Pretended, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert scale(SMALL) == 0
    study = read_study(tmp_path / "study")
    assert pretended.runs[0] == session.TRIAL
    assert pretended.visits == [run.name for run in study.runs()] == names(tmp_path / "study")
    assert len(pretended.visits) == 2 * 3
    assert pretended.collectives == [(2, 1)]
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert lines[0] == "the study is in study"
    assert lines[1] == (
        "mlp on digits: strong and weak scaling on 1, 2 ranks x 1 thread, 3 points x 2 repeats of 20 steps"
    )
    first = study.runs()[0].point
    words = f"run 1 of 6: {first.ranks} rank{'s' * (first.ranks > 1)} x 1 thread, batch {first.batch}: "
    assert lines[2].startswith(words)
    assert " ms a step; " in lines[2]
    assert lines[2].endswith(" left")
    assert "mlp on digits, strong scaling, 1 thread a rank" in lines
    assert "    2     64      2        5      0%     12,800      2.00        100%" in lines
    assert "baseline: the median run on 1 rank with the same threads per rank\n" in out
    assert "all 4 runs with batch 64, on 1, 2 ranks, trained the same bits" in out
    assert err == ""


def test_doubts_are_in_the_table_and_explained(pretended: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    assert scale("--ranks 1,3 --repeats 1 --steps 20 --mode strong") == 0
    out, _ = capfd.readouterr()
    assert any(line.split()[:1] == ["3"] and line.endswith("  oversubscribed") for line in out.splitlines())
    assert "oversubscribed: more threads than physical cores: they take turns" in out
    (folder,) = Path("studies").iterdir()
    assert folder.name.startswith("mlp-digits-")


def test_different_bits_are_an_error(pretended: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    pretended.digest = lambda ranks: f"{ranks:02d}" * 32
    assert scale(SMALL) == 1
    out, err = capfd.readouterr()
    assert err == (
        "error: runs with batch 64 trained different bits though comm.exact is on: 010101010101 at"
        " ranks-1-threads-1-batch-64; 020202020202 at ranks-2-threads-1-batch-64\n"
    )
    assert "report: study" in out


def test_the_trial_chooses_the_steps(pretended: Pretended, tmp_path: Path) -> None:
    assert scale("--ranks 1 --repeats 1 --output study") == 0
    assert pretended.runs[:2] == [session.TRIAL, session.TRIAL]  # 10 steps, then a second of them
    assert pretended.arguments[1][pretended.arguments[1].index("--train.steps") + 1] == "100"
    study = read_study(tmp_path / "study")
    assert (study.steps, study.log_every) == (400, 20)
    assert study.settings.steps == 0


def test_an_interrupted_study_goes_on_where_it_stopped(
    pretended: Pretended, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pretended.interrupted_at = 4
    assert scale(f"{SMALL} --seed 3 -- --model.hidden [8]") == 130
    err = capfd.readouterr().err
    first, way = err.splitlines()
    assert first == "interrupted: 3 of 6 runs are measured and kept; to go on:"
    begun = names(tmp_path / "study")
    assert len(begun) == 3
    pretended.interrupted_at, pretended.runs = -1, []
    words = way.split()
    assert words[:4] == ["python", "-m", "launch", "scale"]
    assert words[-3:] == ["--", "--model.hidden", "'[8]'"]
    words[-1] = "[8]"
    assert scale(" ".join(words[4:])) == 0
    assert "it goes on: 3 of 6 runs are there" in capfd.readouterr().out
    all_runs = [run.name for run in read_study(tmp_path / "study").runs()]
    assert pretended.runs == all_runs[3:]
    assert names(tmp_path / "study") == all_runs


def test_a_study_that_is_complete_runs_nothing(pretended: Pretended) -> None:
    assert scale(SMALL) == 0
    pretended.runs, pretended.collectives = [], []
    assert scale(SMALL) == 0
    assert pretended.runs == pretended.collectives == []
    assert scale("report study") == 0
    assert pretended.runs == []


def test_another_study_in_the_same_folder_is_refused(pretended: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    assert scale(SMALL) == 0
    assert scale(SMALL.replace("--ranks 1,2", "--ranks 1")) == 2
    assert capfd.readouterr().err == (
        "error: study holds another study: it has --ranks 1,2, not 1; give the same, or another --output\n"
    )


def test_more_repeats_are_added_to_a_study(pretended: Pretended, tmp_path: Path) -> None:
    assert scale(SMALL) == 0
    pretended.runs.clear()
    assert scale(SMALL.replace("--repeats 2", "--repeats 3")) == 0
    assert [name[-1] for name in pretended.visits] == ["2"] * 3
    assert sorted(names(tmp_path / "study")) == sorted(run.name for run in read_study(tmp_path / "study").runs())
    assert "--repeats 3" in read_study(tmp_path / "study").command


def test_a_mistake_is_mended_in_the_same_folder(pretended: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    pretended.failing = lambda name: True
    assert scale(SMALL) == 1
    pretended.failing = lambda name: False
    assert scale(SMALL.replace("--ranks 1,2", "--ranks 1")) == 0
    assert "trained the same bits" not in capfd.readouterr().out  # nothing to compare: it is the new study


def test_a_full_disk_is_one_line(
    pretended: Pretended, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, lines: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(session, "append", full)
    assert scale(SMALL) == 2
    assert capfd.readouterr().err == (
        "error: study/points.jsonl: No space left on device; mend that (free the disk, give a folder that can be"
        " written to): what was measured is kept, and the same command goes on\n"
    )


def test_a_time_limit_is_part_of_the_command_that_goes_on(pretended: Pretended, tmp_path: Path) -> None:
    assert scale(f"{SMALL} --timeout 900") == 0
    study = read_study(tmp_path / "study")
    assert study.timeout_s == 900
    assert "--timeout 900 " in study.command


def test_a_run_that_fails_is_tried_once_more_at_the_end(
    pretended: Pretended, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def fails_once(name: str) -> bool:
        tried.append(name)
        return name == "ranks-2-threads-1-batch-128-repeat-0" and tried.count(name) == 1

    pretended.failing = fails_once
    assert scale(SMALL) == 0
    assert pretended.visits[-1] == "ranks-2-threads-1-batch-128-repeat-0"
    assert sorted(names(tmp_path / "study")) == sorted(run.name for run in read_study(tmp_path / "study").runs())
    err = capfd.readouterr().err
    assert err == (
        "error: run ranks-2-threads-1-batch-128-repeat-0 failed: exit code 4; its last lines:\n    its last line\n"
    )


def test_a_point_that_never_works_does_not_keep_the_others(
    pretended: Pretended, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pretended.failing = lambda name: name.startswith("ranks-2-threads-1-batch-128")
    assert scale(SMALL.replace("--repeats 2", "--repeats 5")) == 1
    assert len(names(tmp_path / "study")) == 10
    assert len([name for name in pretended.visits if "batch-128" in name]) == 3  # twice, and once more at the end
    out, err = capfd.readouterr()
    assert err.count("its last line\n") == 2
    assert err.count("failed again") == 1
    assert "error: 5 runs of 15 are missing: ranks-2-threads-1-batch-128-repeat-0, " in err
    assert "report: study" in out


def test_a_trial_that_fails_ends_it(pretended: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    pretended.failing = lambda name: True
    assert scale(SMALL) == 1
    assert pretended.runs == [session.TRIAL]
    assert capfd.readouterr().err == (
        "error: the first run, a trial, failed: exit code 4; its last lines:\n    its last line\n"
    )


def test_too_few_samples_for_weak_scaling(pretended: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    assert scale("--ranks 1,32 --steps 20 --output study") == 2
    err = capfd.readouterr().err
    assert err.startswith("error: --ranks 32: weak scaling needs a batch of 2048, but digits has only 1437 training")
    assert len(pretended.runs) == 1
    pretended.runs = []
    assert scale("--ranks 1,32 --steps 20 --repeats 1 --mode strong --output other") == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--ranks 0,1", "'0'"),
        ("--ranks two", "'two'"),
        ("--ranks", "--ranks"),
        ("--threads 1.5", "'1.5'"),
        ("--mode fast", "'fast'"),
        ("--repeats 0", "'0'"),
        ("--steps 1", "at least 2"),
        ("--seed -1", "--seed"),
        ("--bind socket", "'socket'"),
        ("--mpi mpich", "--mpi mpich"),
        ("--env X", "'X'"),
        ("--timeout 0", "'0'"),
        ("--target 1.5 --mode accuracy", "'1.5'"),
        ("--target 0.5", "--target is for --mode accuracy"),
        ("--batches 64", "--batches is for --mode accuracy"),
        ("--mode accuracy --threads 1,2", "--threads 1,2"),
        ("--model.name mlp", "--model.name"),
        ("--hostfile nowhere", "nowhere"),
        ("-H a:1 --hostfile f", "give one of them"),
        ("-H localhost:4 --ranks 1,8", "--ranks 8: the hosts have 4 slots"),
        ("--bind core --ranks 4", "--bind core needs a core"),
        ("--ranks 1,65", "--ranks 65: strong scaling keeps batch.size = 64"),
        ("--networks nowhere.toml", "--networks"),
        ("--output /proc/nowhere", "--output /proc/nowhere"),
        ("--output file", "--output file"),
        ("--output full", "full"),
        ("--time 01:00:00", "--time is for --submit"),
        ("--ranks-per-node 2", "--ranks-per-node is for --submit"),
        ("--queue q", "--queue is for --submit"),
        ("--submit slurm --ranks 1", "--submit slurm needs --ranks-per-node"),
        ("--submit slurm --ranks 1 --ranks-per-node 1 --time 01:00:00", "needs --steps"),
        ("--submit slurm --ranks 3 --ranks-per-node 2 --time 01:00:00 --steps 9", "--ranks 3: no multiple"),
        ("--submit slurm -H a", "-H a: with --submit"),
        ("--submit slurm --mode accuracy", "not with --mode accuracy"),
        ("--submit lsf", "'lsf'"),
        ("report", "scale report: not understood"),
        ("report nowhere", "nowhere holds no study"),
        ("reprot study", "scale reprot study: not understood"),
        ("job study run", "study holds no study"),
        ("report study -- --seed 1", "--seed after a --"),
        ("-- --threads 2", "--threads after the --: give --threads before it"),
        ("-- --train.steps=3", "--train.steps=3 after the --: give --steps before it"),
        ("-- --output.name x", "--output.name after the --"),
        ("-- --resume auto", "--resume after the --"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(
    arguments: str, named: str, pretended: Pretended, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert scale(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert pretended.runs == []


def test_a_folder_where_another_is_at_work(pretended: Pretended, capfd: pytest.CaptureFixture[str]) -> None:
    def busy(name: str) -> bool:
        if name == session.TRIAL:
            pretended.failing = lambda name: False
            assert scale(SMALL) == 2
        return False

    pretended.failing = busy
    assert scale(SMALL) == 0
    assert "another process is at work there" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("slots", "cores", "threads", "ranks"),
    [
        ((None,), 2, 1, [1, 2]),
        ((None,), 7, 1, [1, 2, 4]),
        ((None,), 8, 2, [1, 2, 4]),
        ((1, 2), 64, 1, [1, 2]),
        ((None,), 1, 4, [1]),
    ],
)
def test_ranks_by_default(slots: tuple[Any, ...], cores: int, threads: int, ranks: list[int]) -> None:
    available = [Available(Host(f"h{number}", slot), (0,)) for number, slot in enumerate(slots)]
    assert default_ranks(available, cores, threads) == ranks


def test_places_are_read_back(tmp_path: Path) -> None:
    given = read_placement(["-H", "a:1,b:2", "--mpi", "mpich", "--env", "X=1", "--env", "Y=a b", "--bind", "core"])
    words = placement(given)
    assert words == ["-H", "a:1,b:2", "--mpi", "mpich", "--bind", "core", "--env", "X=1", "--env", "Y=a b"]
    assert placement(read_placement([])) == []
    assert placement(read_placement(["--hostfile", "f"])) == ["--hostfile", str(Path.cwd() / "f")]
    with pytest.raises(UsageError, match="'X'"):
        placement(read_placement(["--env", "X"]))


def test_help(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["scale", "--help"])
    assert ended.value.code == 0
    assert "report DIR" in capfd.readouterr().out
