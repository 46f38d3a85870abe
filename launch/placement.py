"""How many ranks and threads run on which cores of which hosts, and what to say about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from launch.errors import UsageError
from launch.hosts import Host, this_host
from launch.probe import Facts, facts, probe
from launch.wording import count

Binding = Literal["auto", "core", "none"]
MOST_LINES = 16


@dataclass(frozen=True)
class Available:
    """A host, and what a job may use of it."""

    host: Host
    cores: tuple[int, ...]
    """Those that a process there may run on, by its affinity mask: of a container or a batch job, not of the box."""
    machine: str = ""
    """Names the running kernel: hosts that share one (containers of one machine) share its cores."""


@dataclass(frozen=True)
class HostPlan:
    """What one host gets."""

    available: Available
    ranks: int

    @property
    def host(self) -> Host:
        """The host itself."""
        return self.available.host

    @property
    def cores(self) -> tuple[int, ...]:
        """Its cores, for all of its ranks together."""
        return self.available.cores


@dataclass(frozen=True)
class Plan:
    """Ranks of `threads` threads each, by host; hosts without a rank are left out.

    `bind` is "core" (every rank keeps `threads` cores of its own) or "none" (the kernel's scheduler decides).
    """

    hosts: tuple[HostPlan, ...]
    threads: int
    bind: Literal["core", "none"] = "none"
    idle_hosts: tuple[Host, ...] = ()

    @property
    def ranks(self) -> int:
        """Ranks on all hosts."""
        return sum(place.ranks for place in self.hosts)

    @property
    def cores(self) -> int:
        """Cores on all hosts."""
        return sum(cores for _, _, cores in self._machines())

    @property
    def oversubscribed(self) -> bool:
        """Whether more threads want to run on any machine than it has cores."""
        return any(ranks * self.threads > cores for _, ranks, cores in self._machines())

    @property
    def is_even(self) -> bool:
        """Whether hosts have equally many ranks, but for one more on each of the first."""
        counts = [place.ranks for place in self.hosts]
        return counts == sorted(counts, reverse=True) and counts[0] - counts[-1] <= 1

    @property
    def warning(self) -> str:
        """What is wrong with the plan and the fix, as one line; empty when nothing is."""
        for names, ranks, cores in self._machines():
            if ranks * self.threads > cores:
                where = "" if len(self.hosts) == 1 else f" of {', '.join(names)}"
                one = ", which are one machine" if len(names) > 1 else ""
                return (
                    f"{ranks * self.threads} threads share {count(cores, 'core')}{where}{one}: expect no speed-up"
                    f" from them; for timings let ranks x threads be at most {cores} there (-n, --threads)"
                )
        return ""

    def first_rank(self, index: int) -> int:
        """The first rank of the host with that index: ranks are numbered host by host."""
        return [0, *accumulate(place.ranks for place in self.hosts)][index]

    def _machines(self) -> list[tuple[list[str], int, int]]:
        """Names, ranks and cores of the hosts that share a kernel, and so their cores."""
        groups: dict[str, list[HostPlan]] = {}
        for place in self.hosts:
            groups.setdefault(place.available.machine or place.host.name, []).append(place)
        return [
            (
                [place.host.name for place in group],
                sum(place.ranks for place in group),
                len(set().union(*(place.cores for place in group))),
            )
            for group in groups.values()
        ]

    def __str__(self) -> str:
        """The plan as it is shown before the start: a sentence, and a line for each host."""
        idle = self.cores - self.ranks * self.threads
        rest = "oversubscribed" if self.oversubscribed else f"{idle or 'none'} idle"
        ranks, threads = count(self.ranks, "rank"), count(self.threads, "thread")
        bound = "bound to cores" if self.bind == "core" else "not bound"
        where = count(len(self.hosts), "host")
        return "\n".join(
            [f"{ranks} x {threads} on {count(self.cores, 'core')} of {where}, {bound}; {rest}", *self._lines()]
        )

    def _lines(self) -> list[str]:
        shown = self.hosts if len(self.hosts) <= MOST_LINES else self.hosts[: MOST_LINES - 1]
        lines = [f"  {place.host.name}: {self._place(index, place)}" for index, place in enumerate(shown)]
        if len(shown) < len(self.hosts):
            lines.append(f"  ... and {len(self.hosts) - len(shown)} more hosts")
        return lines + [f"  {host.name}: idle" for host in self.idle_hosts[:MOST_LINES]]

    def _place(self, index: int, place: HostPlan) -> str:
        first, wanted, cores = self.first_rank(index), place.ranks * self.threads, len(place.cores)
        ranks = f"rank {first}" if place.ranks == 1 else f"ranks {first}-{first + place.ranks - 1}"
        each = f", {self.threads} for each alone" if self.bind == "core" and place.ranks > 1 else ""
        rest = f"{wanted - cores} too few" if wanted > cores else f"{cores - wanted or 'none'} idle"
        sharing = [names for names, _, _ in self._machines() if len(names) > 1 and place.host.name in names]
        rest = "; ".join([rest, *(f"one machine: {', '.join(names[:4])}" for names in sharing)])
        return f"{ranks} on {'core' if cores == 1 else 'cores'} {ranges(place.cores)}{each}; {rest}"


def available_here() -> tuple[Available, ...]:
    """This machine alone, with the cores that this process, and so every rank, may run on."""
    return (_available(this_host(), facts()),)


def available_on(hosts: Sequence[Host]) -> tuple[list[Available], dict[Host, str]]:
    """What each host has, by asking all of them at once; and which do not answer, and why."""
    found = probe(hosts)
    answers = [(host, found[host]) for host in hosts]
    there = [_available(host, answer) for host, answer in answers if isinstance(answer, Facts)]
    return there, {host: answer for host, answer in answers if isinstance(answer, str)}


def _available(host: Host, found: Facts) -> Available:
    return Available(host, found.cores, found.machine)


def make_plan(ranks: int, threads: int | None, bind: Binding, available: Sequence[Available]) -> Plan:
    """Spread ranks over hosts; without `threads`, each gets an equal part of its machine's cores, at least one.

    Hosts get their ranks as evenly as their slots allow, so that all of their cores and memory channels work; the
    ranks of a host follow each other. Binding `auto` is "none": a rank confined to fewer cores than it has threads
    is slower by that factor, and two jobs on one machine would be bound to the same cores.

    Raises:
        UsageError: for `ranks < 1`, `threads < 1`, more ranks than slots, or binding to more cores than there are.
    """
    if ranks < 1 or (threads is not None and threads < 1):
        raise UsageError(f"{ranks} ranks x {threads} threads: give at least 1 of each (-n, --threads)")
    counts = _spread(ranks, [each.host for each in available])
    hosts = tuple(HostPlan(each, count) for each, count in zip(available, counts, strict=True) if count)
    idle = tuple(each.host for each, count in zip(available, counts, strict=True) if not count)
    if threads is None:
        machines = Plan(hosts, 1)._machines()
        threads = max(1, min(cores // ranks for _, ranks, cores in machines))
    plan = Plan(hosts, threads, "core" if bind == "core" else "none", idle)
    if plan.bind == "core" and plan.oversubscribed:
        raise UsageError(
            f"--bind core needs a core for each of {ranks} x {threads} threads, but {_too_small(plan)}: "
            "give fewer ranks or threads, or --bind none"
        )
    return plan


def _spread(ranks: int, hosts: Sequence[Host]) -> list[int]:
    """Ranks of each host, as equal as the slots allow; the first hosts get what is left over."""
    slots = [ranks if host.slots is None else host.slots for host in hosts]
    if sum(slots) < ranks:
        raise UsageError(
            f"-n {ranks}, but {', '.join(map(str, hosts[:8]))}{' ...' if len(hosts) > 8 else ''} have"
            f" {count(sum(slots), 'slot')}: give at most as many ranks, or more slots or hosts"
        )
    counts = [0] * len(hosts)
    left = ranks
    while left:
        free = [index for index, count in enumerate(counts) if count < slots[index]]
        share, rest = divmod(left, len(free))
        for position, index in enumerate(free):
            extra = min(share + (position < rest), slots[index] - counts[index])
            counts[index] += extra
            left -= extra
    return counts


def _too_small(plan: Plan) -> str:
    if len(plan.hosts) == 1:
        return f"this host has {plan.cores}"
    names, ranks, cores = next(m for m in plan._machines() if m[1] * plan.threads > m[2])
    return f"{', '.join(names)} with {count(ranks, 'rank')} has {cores}"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order, such as `0-3,8`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
