"""The faults that are tried on the cluster, what each must end in, and the table of them in docs/failures.md."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.system.jobs import ROOT

PAGE = ROOT / "docs" / "failures.md"
BEGIN, END = "<!-- rendered by `make failures`: begin -->", "<!-- rendered by `make failures`: end -->"
NAMES = {"mpich": "MPICH 5", "openmpi": "Open MPI 5"}
SILENCE_S = 5
"""--heartbeat-timeout and comm.timeout_s of the jobs."""
END_S = 10
"""All ranks are gone so long after a failure is known."""


@dataclass(frozen=True)
class Fault:
    """What is done to a job, and what must come of it."""

    what: str
    ends_it: str
    code: int
    message: str
    """A regular expression for the first line of the error, or of what is said in its place."""
    found_by: str = ""
    """The option that says when it is known; empty: at once."""

    @property
    def limit_s(self) -> float:
        """From the fault to the end of the last process on any host."""
        return END_S + (SILENCE_S if self.found_by else 0)

    @property
    def within(self) -> str:
        """The limit in words."""
        return f"`{self.found_by}` + {END_S} s" if self.found_by else f"{END_S} s"


HEARTBEAT, WATCHDOG = "--heartbeat-timeout", "comm.timeout_s"
FAULTS = {
    "rank raises": Fault(
        "a rank raises an exception",
        "the rank aborts all",
        4,
        r"error: rank 1 on node2 failed at step \d+:",
    ),
    "rank killed": Fault(
        "kill -9 of a rank on another host",
        "mpirun",
        4,
        r"error: rank 1 on node2 was killed by SIGKILL at step \d+.*",
    ),
    "rank sleeps": Fault(
        "a rank sleeps for ever, the others wait for it",
        "the ranks' watchdog",
        4,
        r"error: step \d+: .+ \(collective \d+, \d+ B\) did not finish within \S+ s: rank 1 on node2 did not arrive",
        WATCHDOG,
    ),
    "rank stopped": Fault(
        "a rank is stopped (SIGSTOP): no thread of it runs",
        "the launcher: no heartbeat",
        4,
        r"error: no heartbeat from rank 1 on node2 for .+ s.*",
        HEARTBEAT,
    ),
    "mpirun killed": Fault(
        "kill -9 of mpirun",
        "the launcher",
        4,
        r"error: .*mpirun.* was killed by SIGKILL.*",
    ),
    "launcher killed": Fault(
        "kill -9 of the launcher",
        "the ranks: no answer from the launcher",
        -9,
        r"error: rank \d+ on node\d failed at step \d+: no answer from the launcher.*",
        HEARTBEAT,
    ),
    "connection killed": Fault(
        "kill -9 of the sshd connection through which mpirun started a host's ranks",
        "mpirun",
        4,
        r"error: .*node2.*",
    ),
    "link down": Fault(
        "the link of a host goes down in mid-run and stays down",
        "the launcher: no heartbeat; there, the ranks themselves",
        4,
        r"error: .*node3.*",
        HEARTBEAT,
    ),
    "host crashes": Fault(
        "a host crashes in mid-run",
        "mpirun and the launcher",
        4,
        r"error: .*node3.*",
    ),
    "host silent": Fault(
        "a host does not answer at launch",
        "the launcher, before it starts anything",
        4,
        r"error: node2 does not answer: .*",
    ),
    "host refuses": Fault(
        "a host refuses ssh at launch",
        "the launcher, before it starts anything",
        4,
        r"error: node2 does not answer: .*refused.*",
    ),
    "sigterm": Fault(
        "SIGTERM to the launcher; resumed",
        "the ranks, after a checkpoint",
        75,
        r"interrupted by \w+.*--resume auto",
    ),
}


@dataclass(frozen=True)
class Row:
    """What came of a fault."""

    fault: str
    mpi: str
    message: str
    code: int
    seconds: float

    def __str__(self) -> str:
        """A row of the table."""
        fault = FAULTS[self.fault]
        message = self.message.replace("|", "\\|")
        cells = (fault.what, NAMES[self.mpi], fault.ends_it, f"`{message}`", self.code, fault.within)
        return f"| {' | '.join(map(str, cells))} | {self.seconds:.1f} s |"


def render(rows: Iterable[Row]) -> str:
    """The table, in the order of FAULTS."""
    order = [(fault, mpi) for fault in FAULTS for mpi in NAMES]
    lines = [
        "| fault | MPI | what ends it | message | exit code | all gone within | here |",
        "|---|---|---|---|---|---|---|",
        *map(str, sorted(rows, key=lambda row: order.index((row.fault, row.mpi)))),
    ]
    return "\n".join(lines)


def rendered(page: Path = PAGE) -> str:
    """The table on the page.

    Raises:
        ValueError: if its marks are missing.
    """
    text = page.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


def write(rows: Iterable[Row], page: Path = PAGE) -> None:
    """Put the table on the page."""
    text = page.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN)], text[text.index(END) :]
    page.write_text(f"{head}{BEGIN}\n\n{render(rows)}\n\n{tail}", encoding="utf-8")


def without_measurements(table: str) -> list[str]:
    """The rows of a table without what a further run may change: the message, and the time that it took."""
    rows = []
    for line in table.splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        rows.append("|".join([*cells[:4], *cells[5:7]]))
    return rows
