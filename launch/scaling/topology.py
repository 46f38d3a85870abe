"""Which logical cores of a machine are one physical core (`python -m launch.scaling.topology`), and how many work."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.hosts import is_local
from launch.placement import Available, Plan
from launch.ssh import run_on

CPUS = Path("/sys/devices/system/cpu")
STAT = Path("/proc/stat")
LOOK_S = 0.3
"""How long cores are watched."""
TIMEOUT_S = 15.0

Groups = tuple[tuple[int, ...], ...]
"""The logical cores of each physical core that has several (SMT siblings)."""


def sibling_groups(cpus: Path = CPUS) -> Groups:
    """Of this machine; none where the system does not tell, or each core has one thread."""
    groups = set()
    for path in cpus.glob("cpu[0-9]*/topology/thread_siblings_list"):
        try:
            group = parse_cores(path.read_text())
        except (OSError, ValueError):
            continue
        if len(group) > 1:
            groups.add(group)
    return tuple(sorted(groups))


def parse_cores(text: str) -> tuple[int, ...]:
    """The numbers of a list such as `0-3,8`.

    Raises:
        ValueError: if it is none.
    """
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        numbers |= set(range(int(first), int(last or first) + 1))
    return tuple(sorted(numbers))


def physical_cores(cores: Iterable[int], groups: Sequence[Sequence[int]]) -> int:
    """How many physical cores these logical ones are."""
    return len(first_siblings(cores, groups))


def first_siblings(cores: Iterable[int], groups: Sequence[Sequence[int]]) -> set[int]:
    """Of each physical core that these logical ones belong to, the first logical one."""
    first_of = {core: group[0] for group in groups for core in group}
    return {first_of.get(core, core) for core in cores}


@dataclass(frozen=True)
class Machines:
    """What is known of the machines of a study before it runs."""

    siblings: dict[str, Groups]
    """By machine (the name of its running kernel); empty for those without."""

    def of_ranks(self, plan: Plan) -> list[str]:
        """The machine of each rank."""
        return [machine_name(place.available) for place in plan.hosts for _ in range(place.ranks)]


def machine_name(available: Available) -> str:
    """Names the kernel that runs there; where it is not known, the host."""
    return available.machine or available.host.name


def look_at(available: Sequence[Available]) -> Machines:
    """Ask one host of each machine; one that does not answer is taken for one like this."""
    first = {machine_name(each): each.host for each in reversed(available)}
    remote = {machine: host for machine, host in first.items() if not is_local(host)}
    here = sibling_groups()
    siblings = dict.fromkeys(first, here)
    answers = run_on(list(remote.values()), [sys.executable, "-m", "launch.scaling.topology"], TIMEOUT_S)
    for machine, answer in zip(remote, answers, strict=True):
        try:
            siblings[machine] = tuple(tuple(map(int, group)) for group in json.loads(answer.output.splitlines()[-1]))
        except (IndexError, TypeError, ValueError):
            continue
    return Machines({machine: groups for machine, groups in siblings.items() if groups})


def busy_cores(seconds: float = LOOK_S, stat: Path = STAT) -> float:
    """How many cores are at work, on average over a while, of those of this machine that this process may use.

    That is others' work, as long as ours waits.
    """
    before = _busy_ticks(stat)
    time.sleep(seconds)
    after = _busy_ticks(stat)
    if before is None or after is None or after[1] <= before[1]:
        return 0.0
    share = (after[0] - before[0]) / (after[1] - before[1])
    return max(0.0, share) * len(os.sched_getaffinity(0))


def _busy_ticks(stat: Path) -> tuple[int, int] | None:
    """Ticks of these cores at work, and in all; None where the system does not tell."""
    own, busy, total = {f"cpu{core}" for core in os.sched_getaffinity(0)}, 0, 0
    try:
        for name, *words in map(str.split, stat.read_text().splitlines()):
            if name in own:
                user, nice, system, idle, waiting, *rest = map(int, words[:8])
                busy += user + nice + system + sum(rest)
                total += user + nice + system + sum(rest) + idle + waiting
    except (OSError, ValueError):
        return None
    return (busy, total) if total else None


if __name__ == "__main__":
    sys.stdout.write(json.dumps(sibling_groups()) + "\n")
