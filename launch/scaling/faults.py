"""What is wrong with a study's machines or runs, as far as its measurements tell: what it costs, and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launch.scaling.flags import BOUND, BUSY, IDLE, NOISY, ONE_MACHINE, OVERSUBSCRIBED, SMT
from launch.scaling.records import Measurement, Point
from launch.scaling.summary import Row, Series
from launch.scaling.tables import milliseconds, percent
from launch.wording import count

WAITING = 0.05
"""A part of the step that is worth a word."""
STEADY = 0.7
"""A rank that is the slowest in so many of the records is slow; one that is disturbed now and then is not."""
UNEVEN = 1.02
"""The largest part of the batch over the mean part: below this it is even enough."""


@dataclass(frozen=True)
class Fault:
    """Something that makes points slower or less sure than they could be."""

    kind: str
    """In a word or two: `imbalance`."""
    text: str
    """What it is, where, and what it costs: whole sentences."""
    advice: str
    """What to do about it: one sentence."""


def find_faults(series: Sequence[Series], measurements: Iterable[Measurement], links: Iterable[str]) -> list[Fault]:
    """All that is found, what costs most first.

    Args:
        series: the rows to look at.
        measurements: the runs behind them, which know the slowest rank.
        links: hosts or pairs of hosts with a slow network, in words (`Predictions.slow_links`).
    """
    runs: defaultdict[Point, list[Measurement]] = defaultdict(list)
    for run in measurements:
        runs[run.point].append(run)
    rows = _rows(series)
    return [*_imbalance(rows, runs), *map(_slow_link, links), *_flags(rows)]


def describe(point: Point) -> str:
    """A point, in words."""
    return f"{count(point.ranks, 'rank')} x {count(point.threads, 'thread')}, batch {point.batch}"


def unevenness(point: Point) -> float:
    """The samples of the rank that has most, over the mean of all; shards are as even as they can be, their ranks too.

    The first shards and the first ranks have most (`ddp.partition.block_partition`).
    """
    size, longer = divmod(point.batch, point.shards)
    shards = -(-point.shards // point.ranks)
    return (shards * size + min(shards, longer)) * point.ranks / point.batch


def _rows(series: Sequence[Series]) -> list[Row]:
    """Each point once: the baseline may be in two series."""
    return list({row.point: row for one in series for row in one.rows}.values())


def _imbalance(rows: Sequence[Row], runs: dict[Point, list[Measurement]]) -> list[Fault]:
    """Waiting: a slow rank once, with all the points in which it is; else each point that waits much."""
    by_culprit: defaultdict[str, list[tuple[float, Row, float]]] = defaultdict(list)
    faults = []
    for row in rows:
        waiting = row.times.phases_ms["wait"] / row.times.step_ms
        if waiting < WAITING:
            continue
        uneven = unevenness(row.point)
        rank, part = slowest_rank(runs[row.point])
        if uneven > UNEVEN and waiting < 1 - 1 / uneven + WAITING:
            faults.append((waiting, _uneven_parts(row, waiting, uneven)))
        elif part >= STEADY:
            host = row.hosts[rank] if rank < len(row.hosts) else "an unknown host"
            by_culprit[f"rank {rank} on {host}"].append((waiting, row, part))
        else:
            faults.append((waiting, _disturbed(row, waiting)))
    for name, found in by_culprit.items():
        faults.append((max(found, key=lambda entry: entry[0])[0], _slow_rank(name, found)))
    return [fault for _, fault in sorted(faults, key=lambda entry: -entry[0])]


def slowest_rank(repeats: Sequence[Measurement]) -> tuple[int, float]:
    """The rank that worked longest most often, and in what part of the records of all repeats; -1 if nobody knows."""
    ranks = {rank for run in repeats for rank in run.slowest}
    parts = {rank: sum(run.slowest.get(rank, 0.0) for run in repeats) / len(repeats) for rank in ranks}
    if not parts:
        return -1, 0.0
    rank = max(parts, key=parts.__getitem__)
    return int(rank), parts[rank]


def _slow_rank(name: str, found: Sequence[tuple[float, Row, float]]) -> Fault:
    waiting, row, part = max(found, key=lambda entry: entry[0])
    lost_ms = row.times.phases_ms["wait"]
    others = f", and at {count(len(found) - 1, 'other point')}" if len(found) > 1 else ""
    return Fault(
        "imbalance",
        f"{name} is slow: at {describe(row.point)}{others}. There it is the slowest in {percent(part)} of the"
        f" records, and the ranks wait for it {milliseconds(lost_ms)} ms of each step, {percent(waiting)} of it.",
        "See what else runs on its cores (`top`, `ps -eLo psr,pcpu,comm`), how the ranks are bound (`--bind core`), the"
        " clock of that host; or leave the host out.",
    )


def _disturbed(row: Row, waiting: float) -> Fault:
    return Fault(
        "disturbance",
        f"At {describe(row.point)} the ranks wait for each other for {percent(waiting)} of the step, now for this"
        " one, now for that one: no rank is always the slowest.",
        "Other processes on these cores, or more threads than cores, do this: see the flags, and use an idle machine.",
    )


def _uneven_parts(row: Row, waiting: float, uneven: float) -> Fault:
    point = row.point
    return Fault(
        "uneven parts",
        f"At {describe(point)} the batch is cut into {point.shards} shards, which {count(point.ranks, 'rank')} cannot"
        f" share evenly: the first has {percent(uneven - 1)} more samples than the mean, and the ranks wait for "
        f"{percent(waiting)} of the step.",
        f"Give `--batch.shards` as a multiple of {point.ranks}, or use numbers of ranks that divide it.",
    )


def _slow_link(text: str) -> Fault:
    return Fault(
        "slow link",
        text if text.endswith(".") else f"{text}.",
        "See that link: `ethtool` (speed, duplex), `ip -s link` (errors), its cable and port; or leave the host out.",
    )


ADVICE = {
    OVERSUBSCRIBED: "Such a point measures how threads take turns, not how the program scales: use fewer ranks or"
    " threads, or more hosts.",
    BOUND: "Give each rank as many cores as threads: `--bind core` or `--bind none`; see `python -m launch doctor`.",
    SMT: "Both threads of a core share its arithmetic units: use as many threads as physical cores, `--bind core`.",
    ONE_MACHINE: "Compare such points with each other only: hosts of their own have a network and memory of their own.",
    IDLE: "Give `--batch.shards` at least as many as ranks, or let the study choose them.",
    BUSY: "Repeat on an idle machine: `top` shows what else runs.",
    NOISY: "Repeat on an idle machine, with more `--repeats` or longer runs (`--steps`).",
}


def _flags(rows: Sequence[Row]) -> list[Fault]:
    """A fault for each kind of flag."""
    by_name: defaultdict[str, list[tuple[Row, str]]] = defaultdict(list)
    for row in rows:
        for flag in row.flags:
            by_name[flag.name].append((row, flag.text))
    faults = []
    for name, found in by_name.items():
        where = "; ".join(f"{describe(row.point)}: {text}" for row, text in found)
        faults.append(Fault(name, f"{where}.", ADVICE.get(name, "Do not trust these points.")))
    return faults
