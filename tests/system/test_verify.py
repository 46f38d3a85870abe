"""`python -m launch verify` on real ranks: it passes with the exact sums, and finds what differs where they are not."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.system.jobs import LAUNCH, TIMEOUT_S, Finished, Job

SMALL = ["--model.hidden", "[32,16]", "--batch.size", "32", "--data.name", "synthetic", "--data.shape", "[1,8,8]"]
SMALL += ["--data.samples", "100"]  # an epoch has 4 steps, the last of 4 samples for 8 shards
POINTS = ["verify", "--ranks", "1,2,3", "--threads", "1"]

# The launcher, with the trainer of `FLIP` in place of `ddp.train`.
LAUNCHER = """
import json, sys
from launch.cli import main
sys.exit(main(json.loads(sys.argv[1]), program=json.loads(sys.argv[2])))
"""

# Among 3 ranks, changes one bit of a parameter after the third step, on all ranks alike: no rank differs from another.
FLIP = """
import sys
import numpy as np
from ddp import train

build = train._build_trainer

def planted(world, config):
    trainer = build(world, config)
    train_step = trainer.train_step

    def step():
        train_step()
        if trainer.step == 3 and world.size == 3:
            where = trainer.model.parameter_slices["3.weight"]
            trainer.model.parameters[where].view(np.int32)[7] ^= 1

    trainer.train_step = step
    return trainer

train._build_trainer = planted
sys.exit(train.main(sys.argv[1:]))
"""


def verify(folder: Path, arguments: Sequence[str], command: Sequence[str] = LAUNCH) -> Finished:
    job = Job([*command, *arguments], folder)
    finished = job.finish(timeout_s=200)
    assert job.remaining() == []
    assert {path.suffix for path in folder.iterdir()} == {".out", ".err"}  # no run directory is left
    return finished


def verdicts(finished: Finished) -> list[str]:
    return [line.split(maxsplit=4)[-1] for line in finished.out.splitlines() if re.match(r"\d+ +\d", line)]


@pytest.mark.parametrize("reducer", ["flat", "naive"])
def test_exact_sums_have_the_same_bits_at_every_point(reducer: str, tmp_path: Path) -> None:
    points = ["verify", "--ranks", "1,2,3", "--threads", "1,2"] if reducer == "flat" else POINTS
    finished = verify(tmp_path, [*points, "--steps", "9", "--", *SMALL, "--comm.reducer", reducer])
    assert finished.code == 0, finished.text
    assert verdicts(finished) == ["the reference"] + (5 if reducer == "flat" else 2) * ["the same"]
    assert "comm.exact = true" in finished.out
    assert finished.err == ""


def test_float32_sums_are_found_to_differ(tmp_path: Path) -> None:
    finished = verify(tmp_path, [*POINTS, "--steps", "4", "--", *SMALL, "--comm.exact", "false"])
    assert finished.code == 1, finished.text
    reference, *others = verdicts(finished)
    assert reference == "the reference"
    assert all(re.fullmatch(r"differ from step [1-4]: [135]\.weight.*", other) for other in others)
    error = r"error: 2 of 3 points differ from 1 rank x 1 thread, first [23] ranks x 1 thread at step [1-4]: \d\.weight"
    assert re.match(error, finished.err)


def test_a_flipped_bit_is_named_by_step_and_tensor(tmp_path: Path) -> None:
    words = [[*POINTS, "--steps", "4", "--", *SMALL], [sys.executable, "-c", FLIP]]
    finished = verify(tmp_path, [], [sys.executable, "-c", LAUNCHER, *map(json.dumps, words)])
    assert finished.code == 1, finished.text
    assert verdicts(finished) == ["the reference", "the same", "differ from step 3: 3.weight"]
    assert finished.err == (
        "error: 1 of 3 points differ from 1 rank x 1 thread, first 3 ranks x 1 thread at step 3: 3.weight\n"
    )


def test_points_that_fail_are_told_with_their_last_words(tmp_path: Path) -> None:
    finished = verify(tmp_path, [*POINTS, "--", *SMALL, "--optimizer.lr", "1e30"])
    assert finished.code == 1, finished.text
    assert finished.out.count("failed: exit code 3") == 3
    assert finished.err.count("has a NaN or an infinity; lower optimizer.lr") == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--batch.sise", "3"], "unknown field --batch.sise: did you mean batch.size?"),
        (["--data.name", "mnist", "--data.root", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_in_the_trainers_arguments(arguments: list[str], named: str, tmp_path: Path) -> None:
    finished = verify(tmp_path, [*POINTS, "--", *arguments])
    assert finished.code == 2, finished.text
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    assert named in finished.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_nothing_is_left(number: int, code: int, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    job = Job(
        [*LAUNCH, *POINTS, "--steps", "1000000", "--", *SMALL, "--train.epochs", "1000000"],
        tmp_path,
        {"TMPDIR": str(temporary)},
    )
    deadline = time.monotonic() + TIMEOUT_S
    while not any(temporary.glob("ddp-verify-*/ranks-1-threads-1.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(job.process.pid, number)
    assert job.finish(timeout_s=60).code == code
    assert job.remaining() == []
    assert [path.name for path in temporary.iterdir() if path.name.startswith("ddp-verify-")] == []
