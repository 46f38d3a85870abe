"""Whole runs of the trainer, started by `python -m launch run`, and what they have recorded."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIMIT_S = 1800


@dataclass(frozen=True)
class Run:
    """One training run."""

    ranks: int
    repeat: int
    start: dict[str, Any]
    end: dict[str, Any]
    steps: tuple[dict[str, Any], ...] = ()
    """The `step` records."""
    evaluations: tuple[dict[str, Any], ...] = ()
    """The `eval` records."""


class Training:
    """A run that is on its way: several may be at the same time."""

    def __init__(
        self, ranks: int, repeat: int, arguments: Sequence[str], directory: Path, placement: Sequence[str] = ()
    ) -> None:
        """Start it.

        Args:
            ranks: how many.
            repeat: which of several runs that differ in nothing.
            arguments: of ddp.train.
            directory: for its run directory.
            placement: options of `launch run`; default: one thread a rank.
        """
        self.ranks, self.repeat = ranks, repeat
        self.path = directory / f"run-{uuid.uuid4().hex}"
        output = ["--output.dir", str(directory), "--output.name", self.path.name]
        where = ["-n", str(ranks), *(placement or ("--threads", "1"))]
        command = [sys.executable, "-m", "launch", "run", *where, "--", *arguments, *output]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def finish(self) -> Run:
        """Wait for the end, and read what was recorded.

        Raises:
            subprocess.CalledProcessError: if it failed.
            subprocess.TimeoutExpired: if it took longer than LIMIT_S.
        """
        try:
            code = self.process.wait(LIMIT_S)
        except BaseException:
            self.process.terminate()  # the launcher then ends the ranks
            self.process.wait()
            raise
        if code != 0:
            raise subprocess.CalledProcessError(code, self.process.args)
        records = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        by_event = {record["event"]: record for record in records}
        steps, evaluations = (tuple(each for each in records if each["event"] == event) for event in ("step", "eval"))
        return Run(self.ranks, self.repeat, by_event["start"], by_event["end"], steps, evaluations)


def train(ranks: int, repeat: int, arguments: Sequence[str], directory: Path, placement: Sequence[str] = ()) -> Run:
    """Run the trainer to its end, see `Training`."""
    return Training(ranks, repeat, arguments, directory, placement).finish()
