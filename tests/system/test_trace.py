"""A traced run of two ranks, read back."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.system.jobs import Start, records
from tests.traces import ROUNDING_US, Event, by_track, lies_in, outermost, stop

STEPS = 24
ARGUMENTS = ("--model.hidden", "[64]", "--train.steps", str(STEPS), "--output.name", "run", "--threads", "1")
TRACED = ("--output.trace", "true", "--comm.reducer", "bucketed", "--comm.bucket_mb", "0.01")
PHASES = {"data", "forward", "backward", "comm", "wait", "update"}
PASSES = {
    "1 Linear forward", "3 Linear forward", "3 Linear backward_weight", "3 Linear backward_input",
    "1 Linear backward_weight",
}  # fmt: skip


def merged(run: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "ddp.observe.trace", "merge", str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    contents: dict[str, Any] = json.loads((run / "trace.json").read_text())
    return contents


@pytest.fixture(scope="module")
def contents(start: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("traced")
    finished = start(2, *ARGUMENTS, *TRACED, cwd=folder).finish()
    assert finished.code == 0, finished.text
    return merged(folder / "runs" / "run")


@pytest.fixture(scope="module")
def trace(contents: dict[str, Any]) -> dict[tuple[int, str], list[Event]]:
    times = [event["ts"] for event in contents["traceEvents"] if event["ph"] == "X"]
    assert times == sorted(times)
    return by_track(contents)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_phases_of_all_steps_are_there_in_their_order(rank: int, trace: dict[tuple[int, str], list[Event]]) -> None:
    phases = outermost(trace[rank, "main"])
    for step in range(1, STEPS + 1):
        names = [event["name"] for event in phases if event["args"]["step"] == step]
        runs = [name for name, _ in itertools.groupby(names)]
        # The first step is repeated until its gradients fit their scales.
        assert runs[-7:] == ["data", "forward", "backward", "comm", "update", "comm", "update"]
        assert set(runs) <= PHASES
    assert {event["name"] for event in trace[rank, "main"]} == PHASES
    assert all(earlier["args"]["step"] <= later["args"]["step"] for earlier, later in itertools.pairwise(phases))


@pytest.mark.parametrize("rank", [0, 1])
def test_every_pass_of_every_layer_lies_in_its_phase(rank: int, trace: dict[tuple[int, str], list[Event]]) -> None:
    phases = {"forward": list[Event](), "backward": list[Event]()}
    for event in trace[rank, "main"]:
        phases.get(event["name"], []).append(event)
    passes = trace[rank, "layers"]
    assert outermost(passes) == passes
    for number in range(len(phases["forward"])):
        inside = [
            event["name"]
            for phase in (phases["forward"][number], phases["backward"][number])
            for event in passes
            if lies_in(event, phase) and phase["name"] in event["name"]
        ]
        assert len(inside) == len(PASSES)
        assert set(inside) == PASSES
    assert len(passes) == len(PASSES) * len(phases["forward"])


def test_nobody_leaves_a_sum_before_the_other_has_entered_it(
    contents: dict[str, Any], trace: dict[tuple[int, str], list[Event]]
) -> None:
    """The ranks are on one clock, but for its error, which the file tells."""
    ranks = [[e for e in trace[rank, "communication"] if e["name"] == "sum of reports"] for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) >= STEPS
    error_us = sum(note["clock_error_us"] for note in contents["otherData"]["ranks"]) + ROUNDING_US
    for one, other in zip(*ranks, strict=True):
        assert one["args"] == other["args"]
        assert one["args"]["bytes"] > 0
        assert min(stop(one), stop(other)) >= max(one["ts"], other["ts"]) - error_us


@pytest.mark.parametrize("rank", [0, 1])
def test_each_bucket_is_started_in_backward_and_waited_for_in_comm(
    rank: int, trace: dict[tuple[int, str], list[Event]]
) -> None:
    outermost(trace[rank, "communication"])  # nest
    buckets = sorted(track for (of_rank, track) in trace if of_rank == rank and track.startswith("bucket "))
    assert len(buckets) > 1
    backward = [event for event in trace[rank, "main"] if event["name"] == "backward"]
    sums = [event for event in trace[rank, "communication"] if event["name"] == "sum of gradients"]
    total = 0
    for number, name in enumerate(buckets):
        track = trace[rank, name]
        assert outermost(track) == track
        assert len(track) == len(backward) == len(sums)
        of_bucket = [e for e in trace[rank, "communication"] if e["args"].get("bucket") == number]
        starts, waits = ([e for e in of_bucket if e["name"] == what] for what in ("start bucket", "wait for bucket"))
        for event, call, phase, collective in zip(track, starts, backward, sums, strict=True):
            assert lies_in(call, phase)
            assert event["ts"] == call["ts"]
            assert stop(event) <= stop(collective)
        assert all(any(lies_in(wait, collective) for collective in sums) for wait in waits)
        total += track[0]["args"]["bytes"]
    assert total == sums[0]["args"]["bytes"]


def test_without_the_option_there_is_no_trace(start: Start, tmp_path: Path) -> None:
    assert start(2, *ARGUMENTS, cwd=tmp_path).finish().code == 0
    assert list((tmp_path / "runs" / "run").glob("trace*")) == []


def test_an_interrupted_run_leaves_its_trace_and_the_resumed_one_its_own(start: Start, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    endless = ("--model.hidden", "[64]", "--train.epochs", "1000000", "--output.name", "run", "--output.trace", "true")
    job = start(2, *endless, "--output.log_every", "1", cwd=tmp_path)
    while not ((run / "metrics.jsonl").exists() and '"step"' in (run / "metrics.jsonl").read_text()):
        assert job.process.poll() is None, job.output().text
        time.sleep(0.02)
    for pid in job.ranks():
        os.kill(pid, signal.SIGUSR1)
    finished = job.finish()
    assert "interrupted by SIGUSR1" in finished.text
    last = max(event["args"]["step"] for track in by_track(merged(run)).values() for event in track)
    assert last >= max(record["step"] for record in records(run) if record["event"] == "step")
    again = start(1, *endless, "--resume", "auto", "--train.steps", str(last + 3), cwd=tmp_path).finish()
    assert again.code == 0, again.text
    resumed = by_track(merged(run))
    assert {rank for rank, _ in resumed} == {0}
    assert {event["args"]["step"] for event in resumed[0, "main"]} == {last + 1, last + 2, last + 3}
