"""From a run's records to a measurement; and a child that is ended when the study is."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ddp.command_line import parse
from launch.errors import HostError, UsageError
from launch.scaling import child, runs
from launch.scaling.child import Children, Interrupted
from launch.scaling.records import PHASES, Point, append, read_measurements
from launch.scaling.runs import RunFailed, Runner, measurement, read_run, run_arguments
from launch.scaling.study import Run, Settings, Study
from tests.processes import running, wait_for
from tests.unit.launch.scaling.run_records import CONFIG, END, start_record, step_record, write_run

FACTS = {"command": "c", "machines": ["node1", "node1"], "siblings": {}, "others_busy_cores": 0.0}
FACTS |= {"started_at": "2026-01-31T12:00:00Z", "wall_s": 4.5, "tensor_bytes": [1200]}
RUN = Run(Point(2, 1, 64, 8), 3)


def test_a_measurement_leaves_the_warm_up_out(tmp_path: Path) -> None:
    times = [500.0, 10.0, 12.0, 11.0]
    steps = [step_record(5 * n, ms, slowest=n % 2) for n, ms in enumerate(times, 1)]
    recorded = read_run(write_run(tmp_path / "run", [start_record(2), *steps, END]))
    made = measurement(RUN, recorded, CONFIG, 5, FACTS)
    assert made.records_ms == (10.0, 12.0, 11.0)
    assert (made.step_ms, made.steps) == (11.0, 15)
    assert made.phases_ms.keys() == set(PHASES)
    assert sum(made.phases_ms.values()) == pytest.approx(made.step_ms, rel=1e-12)
    assert made.samples_per_s == pytest.approx(64 / 11.0 * 1e3)
    assert made.slowest == {"0": pytest.approx(2 / 3), "1": pytest.approx(1 / 3)}
    assert (made.reducer, made.exact, made.parameters, made.cores) == ("flat", True, 300, 2)
    assert made.parameters_sha256 == "ab" * 32
    assert made.provenance["versions"] == {"python": "3.11.7"}
    assert made.provenance["end"]["train_s"] == 1.0
    assert (made.run, made.wall_s) == ("ranks-2-threads-1-batch-64-repeat-3", 4.5)
    assert made.flags == ()
    append(tmp_path / "points.jsonl", [made.line()])
    assert read_measurements(tmp_path / "points.jsonl") == [made]


def test_what_no_timer_covers_is_other(tmp_path: Path) -> None:
    steps = [step_record(5 * n, 10.0, covered=0.9) for n in (1, 2, 3)]
    recorded = read_run(write_run(tmp_path / "run", [start_record(2), *steps, END]))
    made = measurement(RUN, recorded, CONFIG, 5, FACTS)
    assert made.uncovered == pytest.approx(0.1)
    assert made.phases_ms["other"] == pytest.approx(1.0)
    assert made.phases_ms["forward"] == pytest.approx(0.3 * 0.9 * 10)


def test_steps_of_trials_of_reducers_do_not_count(tmp_path: Path) -> None:
    choice = {"event": "reducer", "step": 12, "rung": "bucketed"}
    steps = [step_record(5 * n, float(n)) for n in range(1, 7)]
    records = [start_record(2), *steps[:2], choice, *steps[2:], END]
    recorded = read_run(write_run(tmp_path / "run", records))
    made = measurement(RUN, recorded, CONFIG, 5, FACTS)
    assert made.records_ms == (4.0, 5.0, 6.0)  # step 12 is of the third record
    assert made.reducer == "bucketed"


def test_a_choice_at_a_record_s_first_step_lets_it_count(tmp_path: Path) -> None:
    choice = {"event": "reducer", "step": 11, "rung": "bucketed"}
    steps = [step_record(5 * n, float(n)) for n in range(1, 5)]
    recorded = read_run(write_run(tmp_path / "run", [start_record(2), *steps[:2], choice, *steps[2:], END]))
    assert [record["step_ms"] for _, record in recorded.counted(5)] == [3.0, 4.0]


def test_a_short_last_record_does_not_count_unless_it_is_all(tmp_path: Path) -> None:
    steps = [step_record(10, 1.0), step_record(20, 2.0), step_record(24, 9.0)]
    recorded = read_run(write_run(tmp_path / "run", [start_record(), *steps, END]))
    assert [(number, record["step_ms"]) for number, record in recorded.counted(10)] == [(10, 2.0)]
    short = read_run(write_run(tmp_path / "short", [start_record(), steps[0], step_record(13, 3.0), END]))
    assert [number for number, _ in short.counted(10)] == [3]
    single = read_run(write_run(tmp_path / "single", [start_record(), steps[0], END]))
    assert [number for number, _ in single.counted(10)] == [10]


def test_a_configured_reducer_is_the_one_that_ran(tmp_path: Path) -> None:
    recorded = read_run(write_run(tmp_path / "run", [start_record(2), step_record(5), step_record(10), END]))
    config = CONFIG | {"comm": CONFIG["comm"] | {"reducer": "naive", "exact": False}}
    made = measurement(RUN, recorded, config, 5, FACTS)
    assert (made.reducer, made.exact) == ("naive", False)


@pytest.mark.parametrize("records", [[], [start_record(), step_record(5)], [start_record(), END]])
def test_a_run_that_has_not_come_to_its_end(records: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not come to its end"):
        read_run(write_run(tmp_path, records))
    with pytest.raises(ValueError, match="No such file"):
        read_run(tmp_path / "nowhere")


def study() -> Study:
    return Study(Settings((1, 2), (1,), "both", 2, 0, 0, (), ("--batch.size", "9")), CONFIG, 100, 5)


def test_the_study_decides_over_the_users_arguments() -> None:
    arguments = run_arguments(study(), RUN.point, 100, 5)
    assert arguments[:2] == ["--batch.size", "9"]
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert given["--batch.size"] == "64"
    assert given["--train.steps"] == "100"
    assert given["--output.log_every"] == "5"
    assert given["--train.evaluate_every"] == given["--checkpoint.every_epochs"] == "0"


# Instead of `python -m launch`: writes what it was started with, and ends as it is told.
LAUNCHER = r"""
import os, sys
print("the plan")
print(os.environ.get("SAYS", ""), file=sys.stderr)
if "--print-config" in sys.argv:
    print("seed = 0")
sys.exit(int(os.environ.get("CODE", "0")))
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runner whose launcher does nothing."""
    monkeypatch.setattr(runs, "LAUNCH", (sys.executable, "-c", LAUNCHER))
    monkeypatch.setattr(runs, "busy_cores", lambda: 0.0)
    with Children() as children:
        yield Runner(tmp_path, children, ("--bind", "none"))


def test_the_launcher_s_options(runner: Runner) -> None:
    command = runner.command(2, 3, ["--seed", "1"])
    options, trainer = command[3:].copy(), command[-2:]
    assert options[: options.index("--")] == "run -n 2 --threads 3 --timeout 600 --bind none".split()
    assert trainer == ["--seed", "1"]
    runner.expected_s = 100
    assert "3000" in runner.command(2, 3, [])
    runner.limit_s = 7
    assert "7" in runner.command(2, 3, [])


@pytest.mark.parametrize(
    ("code", "says", "error", "named"),
    [
        ("2", "error: --seed x: use a number", UsageError, "--seed x"),
        ("2", "", UsageError, "exit code 2"),
        ("4", "error: node7 does not answer: gone", HostError, "node7"),
        ("4", "error: rank 1 on node1 failed", RunFailed, "exit code 4"),
        ("143", "", RunFailed, "exit code 143"),
        ("0", "", RunFailed, "No such file"),
    ],
)
def test_runs_that_fail(
    code: str, says: str, error: type[Exception], named: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE", code)
    monkeypatch.setenv("SAYS", says)
    with pytest.raises(error, match=named) as caught:
        runner.train("run", 1, 1, [])
    if isinstance(caught.value, RunFailed):
        assert "the plan" in caught.value.tail


def test_what_a_run_that_was_ended_left_is_removed(runner: Runner, tmp_path: Path) -> None:
    torn = write_run(tmp_path / "runs" / "run", [start_record()])
    (torn / "checkpoints").mkdir()
    with pytest.raises(RunFailed):
        runner.train("run", 1, 1, [])
    assert [path.name for path in torn.iterdir()] == ["output.log"]


def test_a_configuration_that_cannot_be_had(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="shows no configuration but the lines above, with exit code 0"):
        runner.config([])  # the plan is no TOML
    monkeypatch.setenv("CODE", "2")
    monkeypatch.setenv("SAYS", "error: unknown field batch.sise")
    with pytest.raises(UsageError, match=r"unknown field batch\.sise"):
        runner.config([])
    assert "the plan" in capfd.readouterr().err


# Says when it is ready, and what signal it got.
CHILD = """
import signal, sys, time
def stop(number, frame):
    print("got", number, flush=True)
    if {polite}:
        sys.exit(0)
signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
time.sleep(60)
"""


def signalled_when_ready(output: Path, number: int) -> threading.Thread:
    def send() -> None:
        assert wait_for(lambda: output.exists() and "ready" in output.read_text())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 143)],
)
def test_a_signal_reaches_the_child_as_sigint(number: int, code: int, tmp_path: Path) -> None:
    output, before = tmp_path / "out", signal.getsignal(number)
    with Children() as children:
        thread = signalled_when_ready(output, number)
        with pytest.raises(Interrupted) as caught:
            children.run([sys.executable, "-c", CHILD.format(polite=True)], output)
    thread.join()
    assert caught.value.code == code
    assert output.read_text() == f"ready\ngot {signal.SIGINT:d}\n"
    assert signal.getsignal(number) == before


def test_a_child_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "GRACE_S", 0.1)
    monkeypatch.setattr(child, "POLL_S", 0.1)
    output = tmp_path / "out"
    program = "import os\nprint(os.getpid())\n" + CHILD.format(polite=False)
    with Children() as children:
        thread = signalled_when_ready(output, signal.SIGTERM)
        with pytest.raises(Interrupted):
            children.run([sys.executable, "-c", program], output)
    thread.join()
    assert not running(int(output.read_text().split()[0]))


def test_a_signal_between_children_ends_the_study_at_once() -> None:
    with pytest.raises(Interrupted) as caught, Children():
        signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143


def test_exit_codes_and_files_of_a_child(tmp_path: Path) -> None:
    program = "import sys, os\nprint('o', flush=True)\nprint('e', file=sys.stderr, flush=True)\n"
    with Children() as children:
        assert children.run([sys.executable, "-c", program + "sys.exit(3)"], tmp_path / "both") == 3
        killed = [sys.executable, "-c", program + "os.kill(os.getpid(), 9)"]
        assert children.run(killed, tmp_path / "out", tmp_path / "err") == 137
    assert (tmp_path / "both").read_text() == "o\ne\n"
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("o\n", "e\n")


@pytest.mark.parametrize("comm", [("--comm.compression", "bf16"), ("--comm.sync_every", "4")])
def test_a_study_that_sends_less_is_traced_with_its_buckets_as_they_are(
    comm: tuple[str, str], runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(runner, "train", lambda *of_run, keeps_model: given.extend(of_run[-1]))
    one = study()
    runner.trace(replace(one, settings=replace(one.settings, trainer=comm)), 1)
    # The trainer itself must take them.
    made = parse(given).config.comm
    assert (made.reducer, made.compression, made.sync_every) == ("bucketed", "none", 1)
