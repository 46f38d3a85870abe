"""Runs `replay.py` in a Python that has SimGrid: a step's sums, message by message, on a simulated network.

SimGrid need not be installed (Debian: python3-simgrid, PyPI: simgrid), nor for the Python that runs this.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.scaling import platforms, replay
from launch.scaling.schedule import BucketSchedule

VARIABLE = "DDP_SIMGRID_PYTHON"
"""Names the Python that has SimGrid, if it is another than PYTHONS; if it is empty, nothing is simulated."""
PYTHONS = (sys.executable, "/usr/bin/python3")
HOP_S = 5e-7
"""What a link and the switch at its end add to a message's latency; assumed."""
MOST_ROUNDS = 8
"""Of a ring that are simulated; the others are like them."""
LIMIT_S = 300.0
"""For one step."""
MISSING = (
    "SimGrid is not installed, so the analytic model was not checked by simulation: "
    "`apt-get install python3-simgrid` or `pip install simgrid`, then make the report anew."
)


class SimulationError(RuntimeError):
    """The simulator is not there or failed: one line that says so."""


@functools.cache
def find_python() -> str | None:
    """The Python that has SimGrid; None if none has."""
    given = os.environ.get(VARIABLE)
    for python in PYTHONS if given is None else (given,):
        if python and Path(python).exists():
            asked = subprocess.run([python, "-c", "import simgrid"], capture_output=True, check=False)
            if asked.returncode == 0:
                return python
    return None


@dataclass(frozen=True)
class Case:
    """A step that is to be simulated."""

    schedule: BucketSchedule
    """The buckets, and the backward pass."""
    ranks: int
    """One a host."""
    bandwidth: float
    """Bytes a second of each link."""
    latency: float
    """Seconds of a message between hosts of one switch; others take HOP_S more for each further link."""
    topology: str
    """A key of `platforms.TOPOLOGIES`."""
    algorithm: str
    """A key of `replay.ALGORITHMS`."""
    gamma: float = 0.0
    """Seconds to add a byte."""
    most_rounds: int = MOST_ROUNDS

    @property
    def hop_s(self) -> float:
        """Of each link."""
        return min(HOP_S, self.latency / 2)

    def job(self) -> dict[str, Any]:
        """For `replay.py`."""
        return {
            "ranks": self.ranks,
            "algorithm": self.algorithm,
            "buckets": [(each.ready * self.schedule.backward_s, each.num_bytes) for each in self.schedule.buckets],
            "software_s": self.latency - 2 * self.hop_s,
            "gamma": self.gamma,
            "most_rounds": self.most_rounds,
        }


class Simulation:
    """A simulation that runs: several may at the same time, each on a core of its own."""

    def __init__(self, case: Case) -> None:
        """Start it.

        Raises:
            SimulationError: if SimGrid is not there.
        """
        self.case = case
        python = find_python()
        if python is None:
            raise SimulationError(MISSING)
        self._folder = tempfile.TemporaryDirectory(prefix="ddp-simgrid-")
        paths = [Path(self._folder.name) / name for name in ("platform.xml", "job.json")]
        platform = platforms.platform(case.topology, case.ranks, case.bandwidth, case.hop_s)
        for path, text in zip(paths, (platform, json.dumps(case.job())), strict=True):
            path.write_text(text, encoding="utf-8")
        command = [python, str(Path(replay.__file__)), *map(str, paths)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def finish(self) -> float:
        """Wait for it; the seconds from the end of the backward pass until all ranks have all sums.

        Raises:
            SimulationError: if it failed, or took longer than LIMIT_S.
        """
        what = f"SimGrid, for {self.case.ranks} ranks on a {self.case.topology}"
        try:
            output, errors = self._process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise SimulationError(f"{what}, took longer than {LIMIT_S:g} s") from None
        finally:
            self.end()
        if self._process.returncode != 0:
            raise SimulationError(f"{what}, failed: {(errors.strip().splitlines() or ['no message'])[-1]}")
        return max(0.0, float(output) - self.case.schedule.backward_s)

    def end(self) -> None:
        """Leave nothing behind."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()


def simulate(cases: Iterable[Case]) -> Iterator[float]:
    """Simulate them, in order, as many at a time as there are cores.

    Raises:
        SimulationError: if one fails.
    """
    running: deque[Simulation] = deque()
    try:
        for case in cases:
            if len(running) == len(os.sched_getaffinity(0)):
                yield running.popleft().finish()
            running.append(Simulation(case))
        while running:
            yield running.popleft().finish()
    finally:
        for simulation in running:
            simulation.end()
