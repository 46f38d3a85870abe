"""`--mode accuracy`: what is trained, with a trainer that only writes what a test wants, and what is made of it."""

from __future__ import annotations

import csv
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launch import cli, job
from launch.discovery import Library
from launch.errors import UsageError
from launch.hosts import Host
from launch.placement import Available
from launch.scaling import accuracy_runs, child
from launch.scaling.accuracy import (
    Result,
    Training,
    Wanted,
    finding,
    fitting,
    learning_rate,
    read_results,
    read_wanted,
    wanted_of,
    warmup_epochs,
    write_wanted,
)
from launch.scaling.accuracy_report import accuracy_section, sentences
from launch.scaling.accuracy_runs import find_samples, run_accuracy
from launch.scaling.runs import Runner
from launch.scaling.session import Place, Session
from launch.scaling.study import Settings, Study, read_study, write_study
from launch.scaling.topology import Machines
from tests.unit.launch.scaling.run_records import start_record

CONFIG: dict[str, Any] = {
    "seed": 7,
    "model": {"name": "mlp"},
    "data": {"name": "digits"},
    "comm": {"exact": True, "compression": "none", "sync_every": 1},
    "batch": {"size": 64, "shards": 8},
    "loss": {"reduction": "mean"},
    "optimizer": {"lr": 0.1},
    "schedule": {"warmup_epochs": 0.0},
    "train": {"epochs": 18},
}
WANTED = Wanted(target=0.9, batches=(64, 256, 1024), configured=64, ranks=(1, 2), threads=1, repeats=3)
WANTED_TEXT = '{"batches": [64], "configured": 64, "ranks": [1], "threads": 1, "repeats": 1, "target": %s}'
SAMPLES = 1024
# By batch, the epoch at which the target is reached with the first seed; one later with each other.
EPOCHS = {64: 4, 256: 5, 1024: 40}


class Trainer:
    """In place of `Children`: writes what a training would, and ends it when `until` says so."""

    def __init__(self, epochs: dict[int, int]) -> None:
        self.epochs, self.names = epochs, list[str]()
        self.codes: dict[str, int] = {}
        self.limits_s = set[float]()
        self.samples = SAMPLES
        self.affinity = [[0, 1]]
        self.noise: Callable[[int], float] = lambda ranks: 0.0

    def run(
        self, command: Sequence[str], output: Path, errors: Path | None = None, until: Callable[[], bool] | None = None
    ) -> int:
        values = dict(itertools.pairwise(command))
        folder = Path(values["--output.dir"]) / values["--output.name"]
        self.names.append(folder.name)
        self.limits_s.add(float(values["--timeout"]))
        output.write_text("error: lr = 9: use less\n" if self.codes.get(folder.name) == 2 else "the last line\n")
        ranks = int(values["-n"])
        with (folder / "metrics.jsonl").open("w") as log:

            def write(**record: Any) -> None:
                log.write(json.dumps(record) + "\n")
                log.flush()

            start = start_record(ranks, affinity=self.affinity * ranks) | {"samples": {"train": self.samples}}
            write(**start)
            if values.get("--train.evaluate_every") == "0":
                write(event="step", step=1, step_ms=9.0)
                write(event="end", steps=1)
                return 0
            if folder.name in self.codes:
                return self.codes[folder.name]
            batch, seed = int(values["--batch.size"]), int(values["--seed"])
            steps_per_epoch = -(-self.samples // batch)
            step = 0
            for epoch in range(1, int(values["--train.steps"]) // steps_per_epoch + 1):
                for _ in range(steps_per_epoch):
                    step += 1
                    if step % int(values["--output.log_every"]) == 0:
                        write(event="step", step=step, step_ms=99.0 if step <= 5 else 8.0 / ranks)
                reached = epoch >= self.epochs[batch] + seed - CONFIG["seed"]
                accuracy = 0.91 if reached else epoch / 1000
                write(event="eval", step=step, epoch=epoch, accuracy=accuracy, loss=1 / epoch + self.noise(ranks))
                if until is not None and until():
                    return 75
        return 0


class Shown:
    """In place of a terminal."""

    def __init__(self) -> None:
        self.said, self.begun = list[str](), list[tuple[str, float]]()

    def begin(self, what: str, left_s: float) -> None:
        self.begun.append((what, left_s))

    def done(self, line: str, left_s: float) -> None:
        self.said.append(line)

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(accuracy_runs, "busy_cores", lambda: 0.0)
    return Trainer(EPOCHS)


def made_session(folder: Path, trainer: Trainer, limit_s: float | None = None) -> Session:
    runner = Runner(folder, trainer, ["--mpi", "mpich"], limit_s)  # type: ignore[arg-type]
    place = Place((Available(Host("here"), (0, 1), "k"),), Machines({}))
    return Session(folder, study(trainer=("--config", "c.toml")), place, runner)


def run(
    folder: Path, trainer: Trainer, wanted: Wanted = WANTED, limit_s: float | None = None
) -> tuple[list[Training], list[str]]:
    show = Shown()
    session = made_session(folder, trainer, limit_s)
    samples, data = find_samples(session, wanted)
    return run_accuracy(session, fitting(wanted, samples, data, True), samples, show), show.said


def study(**changes: Any) -> Study:
    settings = Settings((2, 1), (1,), "accuracy", 5, 0, 0, (), ())
    return Study(replace(settings, **changes), CONFIG)


def test_the_learning_rate_follows_the_batch_from_the_configured_one() -> None:
    assert [learning_rate(batch, CONFIG) for batch in (32, 64, 256)] == pytest.approx([0.05, 0.1, 0.4])
    summed = CONFIG | {"loss": {"reduction": "sum"}}
    assert learning_rate(256, summed) == 0.1


def test_only_larger_batches_are_warmed_up_more_than_configured() -> None:
    assert [warmup_epochs(batch, CONFIG) for batch in (32, 64, 256)] == [0, 0, 1]
    configured = CONFIG | {"schedule": {"warmup_epochs": 3.0}}
    assert [warmup_epochs(batch, configured) for batch in (64, 256)] == [3, 3]


def test_the_epochs_are_found_on_the_most_ranks_with_a_seed_a_round() -> None:
    trainings = finding(WANTED, CONFIG)
    assert [(each.seed, each.batch) for each in trainings] == [
        (seed, batch) for seed in (7, 8, 9) for batch in (64, 256, 1024)
    ]
    assert {each.ranks for each in trainings} == {2}
    few = finding(replace(WANTED, batches=(4,), ranks=(1, 3)), CONFIG)
    assert few[0].shards == 4  # not more than samples


def test_what_cannot_be_measured_is_refused() -> None:
    assert wanted_of(study(), 0.9, [256, 64]) == Wanted(0.9, (64, 256), 64, (1, 2), 1, 5)
    with pytest.raises(UsageError, match=r"--batches 1: less than a sample for each of 2 ranks"):
        wanted_of(study(), 0.9, [64, 1])
    with pytest.raises(UsageError, match="polynomial"):
        wanted_of(replace(study(), config=CONFIG | {"model": {"name": "polynomial"}}), 0.9, [64])


def test_trainings_end_at_the_target_and_the_first_seed_is_repeated_on_the_other_ranks(
    tmp_path: Path, trainer: Trainer
) -> None:
    failed, said = run(tmp_path, trainer)
    assert failed == []
    results = read_results(tmp_path)
    assert [result.training.name for result in results] == trainer.names[1:]
    assert len(results) == 9 + 3
    assert [result.training.seed for result in results if result.training.ranks == 1] == [7, 7, 7]
    for result in results:
        batch, seed = result.training.batch, result.training.seed
        epochs = EPOCHS[batch] + seed - 7
        assert result.epochs_to(0.9) == (epochs if epochs <= 18 else None)
        assert len(result.accuracies) == min(epochs, 18)
        assert result.steps_per_epoch == -(-SAMPLES // batch)
        if batch == 64:
            assert result.step_ms == pytest.approx(8.0 / result.training.ranks)  # without the first record
    assert said[0] == "training 1 of 12: batch 64, 2 ranks, seed 7: 90.0% after 4 epochs of 0.064 s"
    assert "training 6 of 12: batch 1024, 1 rank, seed 7: not 90.0% in 18 epochs, at best 1.80%" in said


def test_a_study_goes_on_where_it_stopped_and_only_as_the_same(tmp_path: Path, trainer: Trainer) -> None:
    run(tmp_path, trainer)
    path = tmp_path / "accuracy.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:20])
    again = Trainer(EPOCHS)
    run(tmp_path, again)
    assert again.names == trainer.names[5:]
    assert len(read_results(tmp_path)) == len(lines)
    with pytest.raises(UsageError, match=r"batches = 64,256,1024, not 64: give that, or another --output"):
        run(tmp_path, again, replace(WANTED, batches=(64,)))


def test_a_study_takes_more_repeats_and_anything_else_before_a_training_is_done(
    tmp_path: Path, trainer: Trainer
) -> None:
    write_wanted(tmp_path, replace(WANTED, target=0.8))
    run(tmp_path, trainer)
    again = Trainer(EPOCHS)
    run(tmp_path, again, replace(WANTED, repeats=4))
    assert again.names == [f"accuracy-batch-{batch}-ranks-2-threads-1-seed-10" for batch in (64, 256, 1024)]
    assert len(again.names) == len(read_results(tmp_path)) - 12


def test_a_training_that_fails_is_said_and_the_others_are_made(tmp_path: Path, trainer: Trainer) -> None:
    name = "accuracy-batch-256-ranks-2-threads-1-seed-7"
    trainer.codes = {name: 4}
    failed, said = run(tmp_path, trainer)
    assert [training.name for training in failed] == [name]
    assert any("exit code 4" in line and "the last line" in line for line in said)
    assert len(read_results(tmp_path)) == 12 - 2  # the failed one, and the one that would confirm it


def test_what_is_shown_meanwhile(tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(step=10.0)
    monkeypatch.setattr(accuracy_runs, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: next(seconds)}))
    session, show = made_session(tmp_path, trainer), Shown()
    wanted = replace(WANTED, batches=(64, 256), repeats=1)
    run_accuracy(session, wanted, SAMPLES, show)
    assert [text for text, _ in show.begun if "so far" not in text] == [
        f"batch {batch}, {ranks}, seed 7" for batch in (64, 256) for ranks in ("2 ranks", "1 rank")
    ]
    assert "batch 64, 2 ranks, seed 7: epoch 3 of at most 18, 0.3%, 40 s so far" in [text for text, _ in show.begun]
    assert {left_s for text, left_s in show.begun if text.startswith("batch 64, 2")} == {0}  # nothing is known
    walls = [result.wall_s for result in read_results(tmp_path)]
    assert all(wall_s > 0 for wall_s in walls)
    lefts = [left_s for text, left_s in show.begun if text == "batch 256, 1 rank, seed 7"]
    assert lefts == [walls[2]]  # as the same batch took on other ranks
    assert ("batch 256, 1 rank, seed 7: epoch 1 of at most 5, 0.1%, 20 s so far", walls[2] - 20) in show.begun


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


def test_a_training_takes_its_time_unless_the_user_gives_a_limit(tmp_path: Path, trainer: Trainer) -> None:
    run(tmp_path / "own", trainer)
    assert min(trainer.limits_s) >= 86400
    trainer.limits_s.clear()
    run(tmp_path / "given", trainer, limit_s=50)
    assert trainer.limits_s == {50}


def test_a_mistake_of_the_users_ends_all(tmp_path: Path, trainer: Trainer) -> None:
    trainer.codes = {"accuracy-batch-64-ranks-2-threads-1-seed-7": 2}
    with pytest.raises(UsageError, match="lr = 9: use less"):
        run(tmp_path, trainer)


def test_the_report_names_the_fastest_batch_and_where_the_rule_breaks(tmp_path: Path, trainer: Trainer) -> None:
    assert accuracy_section(tmp_path) == ""
    run(tmp_path, trainer)
    text = accuracy_section(tmp_path)
    # Steps take 4 ms on 2 ranks whatever the batch; the medians over the seeds are 5 and 6 epochs.
    assert "shortest time to a test accuracy of 90.0% is **96 ms**: batch 256 on 2 ranks, 6 epochs of 16 ms." in text
    assert "holds up to batch 256 and **breaks at batch 1024**: it does not reach 90.0%" in text
    assert "against batch 64, which needs 5 epochs" in text
    assert "On 1, 2 ranks accuracy and loss were the same to the last bit" in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row] for row in rows[2:5]] == [
        ["64", "0.1", "0", "16", "5 (4 to 6)", "3 of 3", "91.00%", "reference"],
        ["256", "0.4", "1", "4", "6 (5 to 7)", "3 of 3", "91.00%", "holds"],
        ["1024", "1.6", "1", "1", "not reached", "0 of 3", "1.80%", "**breaks**"],
    ]
    assert ["64", "1", "2", "8 ms", "128 ms", "640 ms", "1.00 times", "yes"] in [
        [cell.strip() for cell in row] for row in rows
    ]


def test_doubtful_times_are_marked_and_not_the_best_as_long_as_there_are_others(
    tmp_path: Path, trainer: Trainer
) -> None:
    run(tmp_path / "some", trainer, replace(WANTED, ranks=(1, 2, 8)))
    text = accuracy_section(tmp_path / "some")
    cells = [[cell.strip() for cell in line.split("|")[1:4]] for line in text.splitlines() if line.startswith("| 256 ")]
    assert cells[1:] == [["256", "1", "2"], ["256", "2", "2"], ["256", "8 (a)", "2"]]
    where = "P = 8 (batch 64, 256, 1024): 8 ranks x 1 thread on node1 have 2 cores for 8 threads"
    note = f"- (a) doubtful, oversubscribed: {where}."
    assert text.count(note) == text.count("(a) doubtful") == 1
    assert "is **96 ms**: batch 256 on 2 ranks, 6 epochs of 16 ms. The linear" in text  # those on 8 took 24 ms
    trainer.affinity = [[0]]
    run(tmp_path / "all", trainer, replace(WANTED, ranks=(2,)))
    text = accuracy_section(tmp_path / "all")
    assert "batch 256 on 2 ranks, 6 epochs of 16 ms. But that is doubtful: oversubscribed. The linear" in text


def test_what_others_do_before_a_training_is_told(
    tmp_path: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_runs, "busy_cores", lambda: 1.5)
    run(tmp_path, trainer)
    where = "P = 1 (batch 64, 256, 1024), 2 (batch 64, 256, 1024)"
    assert f"doubtful, busy: {where}: others kept 1.5 cores at work just before it." in accuracy_section(tmp_path)


def test_the_report_tells_that_ranks_change_what_is_learned(tmp_path: Path, trainer: Trainer) -> None:
    trainer.noise = lambda ranks: 1e-9 * ranks
    run(tmp_path, trainer)
    assert any("Ranks change what is learned" in sentence for sentence in sentences(tmp_path))


def test_the_report_tells_that_no_batch_reached_the_target(tmp_path: Path) -> None:
    run(tmp_path, Trainer(dict.fromkeys(EPOCHS, 99)))
    assert sentences(tmp_path)[0].startswith("**No batch reached 90.0%**; the best test accuracy was 1.80%")


def test_a_training_that_is_not_finite_is_a_result(tmp_path: Path, trainer: Trainer) -> None:
    trainer.codes = {f"accuracy-batch-1024-ranks-2-threads-1-seed-{seed}": 3 for seed in (7, 8, 9)}
    failed, said = run(tmp_path, trainer)
    assert failed == []
    # The one that would confirm it is no longer planned.
    assert "training 5 of 11: batch 1024, 2 ranks, seed 7: a loss or a gradient was not finite" in said
    assert "**breaks at batch 1024**" in accuracy_section(tmp_path)


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


def report(folder: Path) -> int:
    return cli.main(["scale", "report", str(folder)])


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
    assert lines[-1] == "1024,,1,8,,0.9,1.6,1.0,1,3,0,,0.0,breaks,,,,,"


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


def test_the_median_counts_a_seed_that_did_not_reach_the_target() -> None:
    from launch.scaling.accuracy_report import Batch

    training = finding(WANTED, CONFIG)[0]

    def result(epochs: int) -> Result:
        return Result(training, "", 1, tuple(float(epoch >= epochs) for epoch in range(1, 11)), (0.0,) * 10, 1.0, True)

    assert Batch(64, (result(3), result(99), result(5)), 0.9).epochs == 5
    assert Batch(64, (result(3), result(99), result(99)), 0.9).epochs is None
    assert Batch(64, (result(3), result(99)), 0.9).epochs is None
