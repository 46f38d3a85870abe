"""How many ranks and threads share how many cores, and what to say about it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from launch.errors import UsageError

Binding = Literal["auto", "core", "none"]


@dataclass(frozen=True)
class Plan:
    """`ranks` processes of `threads` threads each on the `cores` that this process may use.

    `bind` is "core" (every rank keeps `threads` cores of its own) or "none" (the kernel's scheduler decides).
    """

    ranks: int
    threads: int
    cores: int
    bind: Literal["core", "none"] = "none"

    @property
    def oversubscribed(self) -> bool:
        """Whether more threads want to run than there are cores."""
        return self.ranks * self.threads > self.cores

    @property
    def warning(self) -> str:
        """What is wrong with the plan and the fix, as one line; empty when nothing is."""
        if not self.oversubscribed:
            return ""
        return (
            f"{self.ranks * self.threads} threads share {_count(self.cores, 'core')}: expect no speed-up "
            f"from them; for timings let ranks x threads be at most {self.cores} (-n, --threads)"
        )

    def __str__(self) -> str:
        """The plan in one sentence, as `--dry-run` shows it."""
        idle = self.cores - self.ranks * self.threads
        rest = "oversubscribed" if idle < 0 else f"{idle or 'none'} idle"
        ranks, threads = _count(self.ranks, "rank"), _count(self.threads, "thread")
        bound = "bound to cores" if self.bind == "core" else "not bound"
        return f"{ranks} x {threads} on {_count(self.cores, 'core')} of this host, {bound}; {rest}"


def available_cores() -> int:
    """The number of cores that this process, and so every rank, may run on (its affinity mask)."""
    return len(os.sched_getaffinity(0))


def make_plan(ranks: int, threads: int | None, bind: Binding, cores: int) -> Plan:
    """Share `cores` among `ranks`; without `threads`, each rank gets an equal part of them, at least one.

    Binding `auto` is "none": a rank confined to fewer cores than it has threads is slower by that factor.

    Raises:
        UsageError: for `ranks < 1`, `threads < 1`, or binding to more cores than there are.
    """
    threads = max(1, cores // max(1, ranks)) if threads is None else threads
    if ranks < 1 or threads < 1:
        raise UsageError(f"{ranks} ranks x {threads} threads: give at least 1 of each (-n, --threads)")
    plan = Plan(ranks, threads, cores, "core" if bind == "core" else "none")
    if plan.bind == "core" and plan.oversubscribed:
        raise UsageError(
            f"--bind core needs a core for each of {ranks} x {threads} threads, but this host has {cores}: "
            "give fewer ranks or threads, or --bind none"
        )
    return plan


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
