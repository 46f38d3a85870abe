"""The step's buckets replayed in SimGrid, message by message, on networks of hundreds of hosts: a check of the model.

The analytic model knows one link and the rounds of an Allreduce. The simulator has every link, and messages that meet
on one share it. SimGrid need not be installed (Debian: python3-simgrid, PyPI: simgrid): where some Python has it, that
one runs `replay.py`.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launch.errors import UsageError
from launch.scaling import algorithms, platforms
from launch.scaling.collectives import read_collectives
from launch.scaling.networks import NETWORKS, Network
from launch.scaling.schedule import BucketSchedule, load, read_trace
from launch.scaling.simulator import MISSING, Case, SimulationError, find_python, simulate

RESULTS = "simulation.json"
RANKS = (16, 64, 256, 512)
ANALYTIC: dict[str, algorithms.Algorithm] = {"halving": algorithms.halving, "ring": algorithms.ring}
"""By name, the algorithms that are compared, as the analytic model has them."""
NETWORK = next(network for network in NETWORKS if network.gbit_per_s == 10)
BUDGET_S = 90.0
"""After so many seconds no larger number of ranks is begun."""


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


def analytic_step(
    schedule: BucketSchedule, ranks: int, bandwidth: float, latency: float, algorithm: str, gamma: float = 0.0
) -> float:
    """Exposed communication by the analytic model, in seconds; of a `simulator.Case` without its topology.

    Rounds take their latency and their bytes, whoever else sends; buckets go one after another, as the simulator has
    them, while `StepModel` has all that are ready under way at once.
    """
    costs = [
        [(each.times * latency, each.times * (each.sent / bandwidth + each.added * gamma)) for each in rounds]
        for rounds in (ANALYTIC[algorithm](ranks, bucket.num_bytes) for bucket in schedule.buckets)
    ]
    latencies = [sum(latency for latency, _ in rounds) for rounds in costs]
    work = [sum(work for _, work in rounds) for rounds in costs]
    return schedule.exposed(schedule.backward_s, latencies, work)


def compare(
    schedule: BucketSchedule,
    networks: Sequence[Network],
    ranks: Sequence[int] = RANKS,
    *,
    gamma: float = 0.0,
    budget_s: float = BUDGET_S,
    say: Callable[[str], object] = lambda line: None,
) -> list[Comparison]:
    """The model and the simulator side by side, on each network and topology; fewest ranks first.

    Args:
        schedule: the buckets; the backward pass takes as long at all ranks (weak scaling).
        networks: of which each link is one.
        ranks: their numbers, one a host.
        gamma: seconds to add a byte.
        budget_s: see BUDGET_S.
        say: is told what is simulated.

    Raises:
        SimulationError: if SimGrid is not there or fails.
    """
    rows: list[Comparison] = []
    deadline = time.monotonic() + budget_s
    for number in sorted(ranks):
        if time.monotonic() > deadline:
            break
        say(f"simulating {number} ranks in SimGrid, to check the model")
        choices = list(itertools.product(networks, ANALYTIC, platforms.TOPOLOGIES))
        cases = [
            Case(schedule, number, 1 / network.seconds_per_byte, network.latency_s, topology, algorithm, gamma)
            for network, algorithm, topology in choices
        ]
        for case, (network, _, _), seconds in zip(cases, choices, simulate(cases), strict=True):
            analytic = analytic_step(schedule, number, case.bandwidth, case.latency, case.algorithm, gamma)
            made = network.name, case.algorithm, number, case.topology
            rows.append(Comparison(*made, analytic * 1e3, seconds * 1e3))
    return rows


def simulate_study(folder: Path, say: Callable[[str], object]) -> None:
    """Compare them for a study, and keep the results in its folder; nothing if that is done, or cannot be done.

    The link is that of NETWORK: what switches add to the model hardly depends on how fast they are. It takes about a
    minute, the report then no time.
    """
    if (folder / RESULTS).exists() or find_python() is None:
        return
    try:
        schedule = _schedule(folder)
        if schedule is not None:
            write_comparison(folder, compare(schedule, [NETWORK], say=say))
    except (SimulationError, ValueError) as error:
        say(f"warning: {error}: the model is not checked by simulation")


def _schedule(folder: Path) -> BucketSchedule | None:
    """That of a study with the fewest threads; None if it has none."""
    if known := sorted(folder.glob("schedule-threads-*.json")):
        return load(known[0])
    collectives, traces = read_collectives(folder), sorted(folder.glob("runs/trace-threads-*"))
    return read_trace(traces[0], collectives[-1].buckets) if collectives and traces else None


def write_comparison(folder: Path, rows: Sequence[Comparison]) -> None:
    """Keep it in a study's folder: the report is made anew in no time, simulation takes a while."""
    text = json.dumps([asdict(row) for row in rows], indent=1)
    (folder / RESULTS).write_text(text + "\n", encoding="utf-8")


def read_comparison(folder: Path) -> list[Comparison]:
    """What `write_comparison` wrote; nothing if it did not.

    Raises:
        UsageError: if it is something else.
    """
    path = folder / RESULTS
    try:
        return [Comparison(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is no comparison ({error}): delete it, it will be made again") from None


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
    return f"{row.simulated_ms:.3g}" + (f" ({_percent(row.difference)})" if row.difference == row.difference else "")


def _percent(part: float) -> str:
    return f"{round(100 * part) or 0:+d} %"


def _words(rows: Sequence[Comparison]) -> str:
    most = max(row.ranks for row in rows)
    parts = []
    for topology in dict.fromkeys(row.topology for row in rows):
        found = [row.difference for row in rows if row.topology == topology and row.difference == row.difference]
        if found:
            parts.append(f"on a {topology} {_percent(min(found))} to {_percent(max(found))}")
    return (
        f"The same buckets as messages between hosts simulated by SimGrid, one rank a host, up to {most}, each with the"
        " batch of one rank (weak scaling), links as stated. Exposed communication differs from the analytic model"
        f" {'; '.join(parts)}. The model knows no switches: where messages must share a link between them, it is too"
        " optimistic by so much. This checks its rounds and links, with buckets sent one at a time in both columns; the"
        " predictions above have all buckets that are ready under way at once, which is not simulated."
    )
