"""The step's buckets replayed in SimGrid, message by message, on networks of hundreds of hosts: a check of the model.

The analytic model knows one link and the rounds of an Allreduce. The simulator has every link, and messages that meet
on one share it. SimGrid need not be installed (Debian: python3-simgrid, PyPI: simgrid): where some Python has it, that
one runs `replay.py`.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.scaling import algorithms, platforms, replay
from launch.scaling.networks import NETWORKS, Network
from launch.scaling.schedule import BucketSchedule

RESULTS = "simulation.json"
VARIABLE = "DDP_SIMGRID_PYTHON"
"""Names the Python that has SimGrid, if it is another than these."""
PYTHONS = (sys.executable, "/usr/bin/python3")
RANKS = (16, 64, 256, 512)
ANALYTIC: dict[str, algorithms.Algorithm] = {"halving": algorithms.halving, "ring": algorithms.ring}
"""By name, the algorithms that are compared, as the analytic model has them."""
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


@dataclass(frozen=True)
class Comparison:
    """Exposed communication of a step, by the analytic model and by simulation."""

    network: str
    algorithm: str
    ranks: int
    """One a host."""
    topology: str
    analytic_ms: float
    simulated_ms: float

    @property
    def difference(self) -> float:
        """0.1: the simulator has 10 % more exposed communication than the model; not a number if the model has none."""
        return self.simulated_ms / self.analytic_ms - 1 if self.analytic_ms > 0 else float("nan")


@functools.cache
def find_python() -> str | None:
    """The Python that has SimGrid; None if none has."""
    for python in (os.environ.get(VARIABLE), *PYTHONS):
        if python and Path(python).exists():
            asked = subprocess.run([python, "-c", "import simgrid"], capture_output=True, check=False)
            if asked.returncode == 0:
                return python
    return None


def replay_step(
    schedule: BucketSchedule,
    ranks: int,
    bandwidth: float,
    latency: float,
    topology: str,
    algorithm: str,
    *,
    gamma: float = 0.0,
    most_rounds: int = MOST_ROUNDS,
) -> float:
    """Simulate a step; the seconds from the end of its backward pass until all ranks have all sums.

    Args:
        schedule: the buckets, and the backward pass.
        ranks: one a host.
        bandwidth: bytes a second of each link.
        latency: seconds of a message between hosts of one switch; others take HOP_S more for each further link.
        topology: a key of `platforms.TOPOLOGIES`.
        algorithm: a key of `replay.ALGORITHMS`.
        gamma: seconds to add a byte.
        most_rounds: see MOST_ROUNDS.

    Raises:
        SimulationError: if SimGrid is not there or fails.
    """
    python = find_python()
    if python is None:
        raise SimulationError(MISSING)
    hop_s = min(HOP_S, latency / 2)
    job = {
        "ranks": ranks,
        "algorithm": algorithm,
        "buckets": [(bucket.ready * schedule.backward_s, bucket.num_bytes) for bucket in schedule.buckets],
        "software_s": latency - 2 * hop_s,
        "gamma": gamma,
        "most_rounds": most_rounds,
    }
    with tempfile.TemporaryDirectory(prefix="ddp-simgrid-") as folder:
        path = Path(folder) / "platform.xml"
        path.write_text(platforms.platform(topology, ranks, bandwidth, hop_s), encoding="utf-8")
        command = [python, str(Path(replay.__file__)), str(path)]
        try:
            done = subprocess.run(
                command, input=json.dumps(job), capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise SimulationError(f"SimGrid took longer than {LIMIT_S:g} s for {ranks} ranks on a {topology}") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SimulationError(f"SimGrid failed for {ranks} ranks on a {topology}: {last}")
    return max(0.0, float(json.loads(done.stdout)) - schedule.backward_s)


def analytic_step(
    schedule: BucketSchedule, ranks: int, bandwidth: float, latency: float, algorithm: str, gamma: float = 0.0
) -> float:
    """The same by the analytic model: rounds that all take their latency and their bytes, buckets one after another."""
    costs = [
        [(each.times * latency, each.times * (each.sent / bandwidth + each.added * gamma)) for each in rounds]
        for rounds in (ANALYTIC[algorithm](ranks, bucket.num_bytes) for bucket in schedule.buckets)
    ]
    latencies = [sum(latency for latency, _ in rounds) for rounds in costs]
    work = [sum(work for _, work in rounds) for rounds in costs]
    return schedule.exposed(schedule.backward_s, latencies, work, queued=1.0)


def compare(
    schedule: BucketSchedule,
    networks: Sequence[Network] = NETWORKS,
    ranks: Sequence[int] = RANKS,
    *,
    gamma: float = 0.0,
    budget_s: float = float("inf"),
    say: Callable[[str], object] = lambda line: None,
) -> list[Comparison]:
    """The model and the simulator side by side, on each network and topology; fewest ranks first.

    Args:
        schedule: the buckets; the backward pass takes as long at all ranks (weak scaling).
        networks: of which each link is one.
        ranks: their numbers, one a host.
        gamma: seconds to add a byte.
        budget_s: after so many seconds no other number of ranks is begun.
        say: is told what is simulated.

    Raises:
        SimulationError: if SimGrid is not there or fails.
    """
    rows: list[Comparison] = []
    deadline = time.monotonic() + budget_s
    for number in sorted(ranks):
        if time.monotonic() > deadline:
            break
        say(f"simulating {number} ranks in SimGrid")
        for network in networks:
            link = 1 / network.seconds_per_byte, network.latency_s
            for algorithm in ANALYTIC:
                analytic = analytic_step(schedule, number, *link, algorithm, gamma) * 1e3
                for topology in platforms.TOPOLOGIES:
                    simulated = replay_step(schedule, number, *link, topology, algorithm, gamma=gamma) * 1e3
                    rows.append(Comparison(network.name, algorithm, number, topology, analytic, simulated))
    return rows


def write_comparison(folder: Path, rows: Sequence[Comparison]) -> None:
    """Keep it in a study's folder: the report is made anew in no time, simulation takes a while."""
    text = json.dumps([asdict(row) for row in rows], indent=1)
    (folder / RESULTS).write_text(text + "\n", encoding="utf-8")


def read_comparison(folder: Path) -> list[Comparison]:
    """What `write_comparison` wrote; nothing if it did not."""
    path = folder / RESULTS
    return [Comparison(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []


def simulation_section(folder: Path) -> str:
    """The section of the report, as Markdown: a table of both, and what they say together."""
    rows = read_comparison(folder)
    if not rows:
        return MISSING + "\n" if find_python() is None else ""
    topologies = list(dict.fromkeys(row.topology for row in rows))
    lines = [
        f"| network | algorithm | ranks | analytic, ms | {' | '.join(f'{name}, ms' for name in topologies)} |",
        f"| --- | --- | ---: | ---: | {' | '.join('---:' for _ in topologies)} |",
    ]
    groups: dict[tuple[str, str, int], dict[str, Comparison]] = {}
    for row in rows:
        groups.setdefault((row.network, row.algorithm, row.ranks), {})[row.topology] = row
    for (network, algorithm, ranks), by_topology in sorted(groups.items()):
        analytic = next(iter(by_topology.values())).analytic_ms
        cells = [_cell(by_topology.get(topology)) for topology in topologies]
        lines.append(f"| {network} | {algorithm} | {ranks} | {analytic:.3g} | {' | '.join(cells)} |")
    return "\n".join([_words(rows), "", *lines, ""])


def _cell(row: Comparison | None) -> str:
    if row is None:
        return "-"
    return f"{row.simulated_ms:.3g}" + (f" ({row.difference:+.0%})" if row.difference == row.difference else "")


def _words(rows: Sequence[Comparison]) -> str:
    most = max(row.ranks for row in rows)
    parts = []
    for topology in dict.fromkeys(row.topology for row in rows):
        found = [row.difference for row in rows if row.topology == topology and row.difference == row.difference]
        if found:
            parts.append(f"on a {topology} {min(found):+.0%} to {max(found):+.0%}")
    return (
        f"The same buckets as messages between hosts simulated by SimGrid, one rank a host, up to {most}, each with the"
        " batch of one rank (weak scaling), links as stated. Exposed communication differs from the analytic model"
        f" {'; '.join(parts)}. The model knows no switches: where messages must share a link between them, it is too"
        " optimistic by so much."
    )
