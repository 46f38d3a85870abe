"""`python -m launch scale --mode accuracy` and its report as commands, with a trainer that only pretends."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import cli, job
from launch.discovery import Library
from launch.hosts import Host
from launch.placement import Available
from launch.scaling import child
from launch.scaling.accuracy import read_wanted
from launch.scaling.accuracy_report import sentences
from launch.scaling.runs import Runner
from launch.scaling.study import read_study, write_study
from tests.unit.launch.scaling.accuracy_trainings import CONFIG, WANTED, Trainer, run, study

WANTED_TEXT = '{"batches": [64], "configured": 64, "ranks": [1], "threads": 1, "repeats": 1, "target": %s}'


@pytest.fixture
def scale(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    """The command, on two cores."""
    mpirun = tmp_path / "bin" / "mpirun"
    mpirun.parent.mkdir()
    mpirun.write_text("#!/bin/sh\necho 'mpirun (Open MPI) 5.0.11'\n")
    mpirun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{mpirun.parent}:/usr/bin:/bin")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    for name in ("SLURM_JOB_ID", "PBS_NODEFILE", "LSB_JOBID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(job, "available_here", lambda: (Available(Host("here"), (0, 1), "k"),))
    monkeypatch.setattr(child, "Children", lambda: nullcontext(trainer))
    monkeypatch.setattr(Runner, "config", lambda runner, arguments: CONFIG)
    monkeypatch.chdir(tmp_path)
    words = "scale --mode accuracy --ranks 1,2 --repeats 1 --output study".split()
    return lambda line: cli.main([*words, *line.split()], library=lambda: Library("Open MPI", (5, 0, 11)))


def report(folder: Path) -> int:
    return cli.main(["scale", "report", str(folder)])


def test_the_terminal_has_a_table_at_the_end(
    scale: Callable[[str], int], trainer: Trainer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert scale("--batches 64,256 --ranks 1,2,8") == 0
    out = capfd.readouterr().out.splitlines()
    assert out[:2] == [
        "the study is in study",
        "mlp on digits: to 90.0% with batches of 64, 256 on 1, 2, 8 ranks x 1 thread, 1 seed a batch; 6 trainings",
    ]
    assert out[2].startswith("training 1 of 6: batch 64, 8 ranks, seed 7: 90.0% after 4 epochs of 0.016 s; ")
    assert out[2].endswith(" left")
    table = out.index("to a test accuracy of 90.0%")
    assert out[table + 1 : table + 8] == [
        "batch  ranks  cores  step ms  epoch s  epochs  target s  flags",
        "   64      1      2        8    0.128       4     0.512",
        "   64      2      2        4    0.064       4     0.256",
        "   64      8      2        1    0.016       4     0.064  oversubscribed",
        "  256      1      2        8    0.032       5      0.16",
        "  256      2      2        4    0.016       5      0.08",
        "  256      8      2        1    0.004       5      0.02  oversubscribed",
    ]
    assert out[table + 8] == "oversubscribed: more threads than physical cores: they take turns"
    assert out[table + 9].startswith("The shortest time to a test accuracy of 90.0% is 80 ms: batch 256 on 2 ranks")
    assert report(Path("study")) == 0
    again = capfd.readouterr().out.splitlines()
    assert again == out[table:]
    assert scale("--batches 64,256 --ranks 1,2,8") == 0
    assert "it goes on: 6 of 6 trainings are there" in capfd.readouterr().out
    assert scale("--batches 64,256 --ranks 1,2,8 --repeats 2") == 0
    assert "it goes on: 6 of 8 trainings are there" in capfd.readouterr().out


def test_batches_for_which_there_are_too_few_samples(
    scale: Callable[[str], int], trainer: Trainer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer.samples = 1000
    assert scale("--batches 64,1001") == 2
    _, err = capfd.readouterr()
    assert err == "error: --batches 1001: digits has only 1000 training samples; give at most that\n"
    assert trainer.names == ["accuracy-first-step"]
    assert not (tmp_path / "study" / "accuracy.json").exists()
    assert scale("--batches 64,256") == 0


def test_the_usual_batches_are_cut_to_the_samples(
    scale: Callable[[str], int], trainer: Trainer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trainer.samples = 1000
    trainer.codes = {"accuracy-batch-256-ranks-1-threads-1-seed-7": 4}
    assert scale("") == 1
    assert "error: 1 training of 4 are missing: accuracy-batch-256-ranks-1" in capfd.readouterr().err
    wanted = read_wanted(tmp_path / "study")
    assert wanted is not None
    assert wanted.batches == (64, 256)  # without 1024
    trainer.codes, trainer.names = {}, []
    words = read_study(tmp_path / "study").command.split()
    assert cli.main(words[3:], library=lambda: Library("Open MPI", (5, 0, 11))) == 0
    assert trainer.names == ["accuracy-batch-256-ranks-1-threads-1-seed-7"]


def test_the_report_anew(tmp_path: Path, trainer: Trainer, capfd: pytest.CaptureFixture[str]) -> None:
    command = "python -m launch scale --mode accuracy"
    write_study(tmp_path, replace(study(repeats=3), command=command))
    assert report(tmp_path) == 1
    assert capfd.readouterr().err == f"error: nothing is trained in {tmp_path} yet; this begins it: {command}\n"
    run(tmp_path, trainer)
    (tmp_path / "report.md").unlink()
    assert report(tmp_path) == 0
    assert "breaks at batch 1024" in (tmp_path / "report.md").read_text()
    out, err = capfd.readouterr()
    assert f"report: {tmp_path / 'report.md'}" in out
    assert err == ""
    path = tmp_path / "accuracy.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    assert json.loads(lines[2])["training"]["batch"] == 256
    path.write_text("".join([*lines[:2], *lines[5:]]))  # without 256 on both, and 1024 on 2 ranks
    assert report(tmp_path) == 1
    names = [
        f"accuracy-batch-{batch}-ranks-{ranks}-threads-1-seed-7" for batch, ranks in ((256, 2), (256, 1), (1024, 2))
    ]
    assert capfd.readouterr().err == f"error: 3 trainings of 12 are missing: {', '.join(names)}\n"


def test_the_report_has_the_machine_and_all_numbers_for_programs(tmp_path: Path, trainer: Trainer) -> None:
    write_study(tmp_path, study(repeats=3))
    run(tmp_path, trainer, replace(WANTED, ranks=(1, 2, 8)))
    assert report(tmp_path) == 0
    text = (tmp_path / "report.md").read_text()
    machine = text.partition("## Machine and software\n")[2]
    for line in ("| hosts | node1 |", "| Python | 3.11.7 |", "| parameters | 300 |"):
        assert line in machine
    document = json.loads((tmp_path / "report.json").read_text())["accuracy"]
    assert document["wanted"]["batches"] == [64, 256, 1024]
    assert document["summary"] == sentences(tmp_path)
    assert [batch["epochs"] for batch in document["batches"]] == [5, 6, None]
    assert len(document["trainings"]) == 9 + 6
    with (tmp_path / "accuracy.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["batch"], line["ranks"]) for line in lines] == [
        (batch, ranks) for batch in ("64", "256", "1024") for ranks in ("1", "2", "8")
    ]
    for line, place in zip(lines, document["places"], strict=True):
        assert float(line["step_ms"]) == place["step_ms"]
        assert line["target_s"] == ("" if place["target_s"] is None else str(place["target_s"]))
        assert line["flags"] == ("oversubscribed" if place["ranks"] == 8 else "")
        assert [flag["name"] for flag in place["flags"]] == line["flags"].split()
    assert {line["rule"] for line in lines if line["batch"] == "1024"} == {"breaks"}


def test_a_batch_that_was_never_timed_is_in_the_numbers(tmp_path: Path, trainer: Trainer) -> None:
    trainer.codes = {f"accuracy-batch-1024-ranks-2-threads-1-seed-{seed}": 3 for seed in (7, 8, 9)}
    write_study(tmp_path, study(repeats=3))
    run(tmp_path, trainer)
    assert report(tmp_path) == 0
    lines = (tmp_path / "accuracy.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 + 2 + 1
    assert lines[-1] == "1024,,1,8,,0.9,1.6,1.0,1,3,0,,0.0,,breaks,,,,,"


def one_line(text: str) -> str:
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def without(**changes: Any) -> Callable[[str], str]:
    """Changes values of a line of JSON; takes out those that are None."""

    def change(line: str) -> str:
        return json.dumps({key: value for key, value in (json.loads(line) | changes).items() if value is not None})

    return change


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda line: line[:-5], "is no JSON ("),
        (lambda line: "[]", "is no "),
        (lambda line: '{"training": {}}', "is no training ("),
        (lambda line: line.replace('"batch":64', '"batch":"64"'), "is no training (TypeError: '64' is no number)"),
        (lambda line: line.replace('"power":1.0', '"power":0.7'), "is no training (KeyError: 0.7)"),
        (without(step_ms=None), "is no training ("),
        (without(accuracies=[0.5]), "is no training (ValueError: lists that belong together"),
        (without(provenance={}), "is no training (KeyError: "),
        (without(training=3), "is no training ("),
    ],
)
def test_a_damaged_line_is_named(
    damage: Callable[[str], str],
    named: str,
    scale: Callable[[str], int],
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert scale("--batches 64,256") == 0
    path = Path("study") / "accuracy.jsonl"
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, damage(second), *rest]) + "\n")
    for command in (lambda: report(Path("study")), lambda: scale("--batches 64,256")):
        capfd.readouterr()
        assert command() == 2
        error = one_line(capfd.readouterr().err)
        assert f"{path}, line 2 {named}" in error
        assert error.endswith(": remove that line\n")


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"target": "x"}', "\xff", WANTED_TEXT % '"high"', WANTED_TEXT % '0.9, "more": 1']
)
def test_a_damaged_file_of_what_is_wanted_is_named(
    text: str, scale: Callable[[str], int], trainer: Trainer, capfd: pytest.CaptureFixture[str]
) -> None:
    assert scale("--batches 64,256") == 0
    path = Path("study") / "accuracy.json"
    path.write_text(text, encoding="latin-1")
    for command in (lambda: report(Path("study")), lambda: scale("--batches 64,256")):
        capfd.readouterr()
        assert command() == 2
        error = one_line(capfd.readouterr().err)
        assert error.startswith(f"error: {path} does not say what was asked for (")
        assert error.endswith("): remove that file, and give the study's command again\n")
    path.unlink()
    trainer.names = []
    assert scale("--batches 64,256") == 0  # as the message says
    assert trainer.names == []


def test_a_file_of_results_that_is_no_text(scale: Callable[[str], int], capfd: pytest.CaptureFixture[str]) -> None:
    assert scale("--batches 64,256") == 0
    (Path("study") / "accuracy.jsonl").write_bytes(b"\xff\n")
    capfd.readouterr()
    assert report(Path("study")) == 2
    assert "accuracy.jsonl is no text (" in one_line(capfd.readouterr().err)
