"""What the ranks of one real job find (`ddp.comm.diagnose`): who they see, and what each of them has."""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from launch.doctor.capture import Captured
from launch.doctor.finding import Finding, listing, not_made
from launch.wording import count

LIMIT_S = 150
"""For the whole job; compiling the kernel of the peak takes most of it, the first time on a slow host."""

PROGRAM = (sys.executable, "-m", "ddp.comm.diagnose", str(LIMIT_S))
"""What each rank runs."""

WHERE_LIMIT_S = 30
WHERE = (sys.executable, "-m", "ddp.comm.diagnose", str(WHERE_LIMIT_S), "start")
"""What each rank runs to tell its cores alone."""

MARK = "ddp.comm.diagnose: "
STAGES = ("world", "ranks", "kernels", "network")


@dataclass(frozen=True)
class Diagnosis:
    """What the job has told until its end."""

    captured: Captured
    command: str = ""
    """For a shell."""
    started: list[dict[str, Any]] = field(default_factory=list)
    """Rank and host of each process that came as far as Python."""
    worlds: list[dict[str, Any]] = field(default_factory=list)
    """What each rank 0 said of its world: one is right."""
    stages: Mapping[str, Any] = field(default_factory=dict)
    """What rank 0 told of each stage after that."""

    def reason(self, stage: str) -> str:
        """Why there is nothing of a stage."""
        last = [name for name in STAGES if name in self.stages] or ["the start"]
        if self.captured.code is None:
            return f"the ranks' job did not end within {LIMIT_S} s, after {last[-1]}"
        return f"the ranks' job ended before, with exit code {self.captured.code}: {self.captured.last_words}"


def unfinished(check: str, diagnosis: Diagnosis, stage: str) -> Finding:
    """There is nothing of a stage: an error if the job failed in this one, else that check was not made."""
    reason = diagnosis.reason(stage)
    if STAGES[STAGES.index(stage) - 1] in diagnosis.stages:
        return Finding(check, "error", reason, f"see what it says: {diagnosis.command}")
    return not_made(check, reason)


def read_diagnosis(captured: Captured, command: str = "") -> Diagnosis:
    """Sort what the ranks have printed; `command` started them."""
    lines = [line.partition(MARK)[2] for line in captured.output.splitlines() if MARK in line]
    said = []
    for line in lines:
        with contextlib.suppress(ValueError):  # mpirun may have mixed the lines of two ranks
            said.append(json.loads(line))
    started, worlds = ([one for one in said if one["stage"] == stage] for stage in ("started", "world"))
    return Diagnosis(captured, command, started, worlds, {one["stage"]: one for one in reversed(said)})


def check_world(diagnosis: Diagnosis, ranks: int) -> Finding:
    """Whether the ranks see each other: one world of all."""
    details = {"wanted": ranks, "worlds": [world["size"] for world in diagnosis.worlds]}
    if not diagnosis.worlds:
        there = Counter(process["host"] for process in diagnosis.started)
        hosts = listing([f"{number} on {host}" for host, number in there.items()]) or "none"
        captured = diagnosis.captured
        end = f"no end within {LIMIT_S} s" if captured.code is None else f"exit code {captured.code}"
        said = "" if captured.code is None else f", last words: {captured.last_words}"
        measured = f"no world of {ranks}: {end}{said}; processes that began: {hosts}"
        return Finding("world", "error", measured, f"see what it says: {diagnosis.command}", details)
    first = diagnosis.worlds[0]
    if first["size"] != ranks:
        measured = f"{count(ranks, 'rank')} started, but rank 0 sees a world of {first['size']}"
        fix = first.get("error") or f"see what it says: {diagnosis.command}"
        return Finding("world", "error", measured, fix, details)
    hosts = first["hosts"]
    return Finding("world", "ok", f"{count(ranks, 'rank')} in one world, on {count(hosts, 'host')}", "", details)
