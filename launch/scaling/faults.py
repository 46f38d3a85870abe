"""What is wrong with a study's machines or runs, as far as its measurements tell: what it costs, and what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from launch.scaling.flags import BOUND, BUSY, IDLE, MEANING, NOISY, ONE_MACHINE, OVERSUBSCRIBED, SMT
from launch.scaling.records import Measurement, Point
from launch.scaling.summary import Row, Series
from launch.scaling.tables import milliseconds, percent
from launch.wording import capitalised, count

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
    """Waiting, by its cause: a rank that is slow, parts of several sizes, or neither."""
    by_rank: defaultdict[str, list[Waiting]] = defaultdict(list)
    uneven_parts, disturbed = [], []
    for row in rows:
        rank, part = slowest_rank(runs[row.point])
        waiting = Waiting(row, row.times.phases_ms["wait"] / row.times.step_ms, part)
        uneven = unevenness(row.point)
        if waiting.share < WAITING:
            continue
        if uneven > UNEVEN and waiting.share < 1 - 1 / uneven + WAITING:
            uneven_parts.append(waiting)
        elif part >= STEADY:
            host = row.hosts[rank] if rank < len(row.hosts) else "an unknown host"
            by_rank[f"rank {rank} on {host}"].append(waiting)
        else:
            disturbed.append(waiting)
    slow = [_slow_rank(name, found) for name, found in by_rank.items()]
    return slow + [_uneven_parts(each) for each in uneven_parts] + ([_disturbance(disturbed)] if disturbed else [])


@dataclass(frozen=True)
class Waiting:
    """A point at which ranks wait for the slowest."""

    row: Row
    share: float
    """Of the step."""
    steady: float
    """The part of the records in which the same rank was the slowest."""


def slowest_rank(repeats: Sequence[Measurement]) -> tuple[int, float]:
    """The rank that worked longest most often, and in what part of the records of all repeats; -1 if nobody knows."""
    ranks = {rank for run in repeats for rank in run.slowest}
    parts = {rank: sum(run.slowest.get(rank, 0.0) for run in repeats) / len(repeats) for rank in ranks}
    if not parts:
        return -1, 0.0
    rank = max(parts, key=parts.__getitem__)
    return int(rank), parts[rank]


def _slow_rank(name: str, found: Sequence[Waiting]) -> Fault:
    worst = max(found, key=lambda waiting: waiting.share)
    others = f", and at {count(len(found) - 1, 'other point')}" if len(found) > 1 else ""
    return Fault(
        "imbalance",
        f"{name} is slow: at {describe(worst.row.point)}{others}. There it is the slowest in {percent(worst.steady)} of"
        f" the records, and the ranks wait for it {milliseconds(worst.row.times.phases_ms['wait'])} ms of each step,"
        f" {percent(worst.share)} of it.",
        "See what else runs on its cores (`top`, `ps -eLo psr,pcpu,comm`), how the ranks are bound (`--bind core`), the"
        " clock of that host; or leave the host out.",
    )


def _disturbance(found: Sequence[Waiting]) -> Fault:
    where = "; ".join(
        f"{percent(waiting.share)} of the step at {describe(waiting.row.point)}"
        for waiting in sorted(found, key=lambda waiting: -waiting.share)
    )
    return Fault(
        "disturbance",
        f"The ranks wait for each other, now for this one, now for that one (no rank is always the slowest): {where}.",
        "Other processes on these cores, or more threads than cores, do this: see the flags, and use an idle machine.",
    )


def _uneven_parts(waiting: Waiting) -> Fault:
    point = waiting.row.point
    return Fault(
        "uneven parts",
        f"At {describe(point)} the batch is cut into {point.shards} shards, which {count(point.ranks, 'rank')} cannot"
        f" share evenly: the first has {percent(unevenness(point) - 1)} more samples than the mean, and the ranks wait"
        f" for {percent(waiting.share)} of the step.",
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
    """A fault for each kind of flag: what it means, and where; points of which the same is said, together."""
    by_name: defaultdict[str, dict[str, list[str]]] = defaultdict(dict)
    for row in rows:
        for flag in row.flags:
            by_name[flag.name].setdefault(flag.text, []).append(describe(row.point))
    faults = []
    for name, texts in by_name.items():
        where = "; ".join(f"{text} (at {', '.join(points)})" for text, points in texts.items())
        meaning = MEANING.get(name, name)
        faults.append(
            Fault(name, f"{capitalised(meaning)}. {capitalised(where)}.", ADVICE.get(name, "Distrust these points."))
        )
    return faults
