"""The faults that are tried on the cluster, what each must end in, and the table of them in docs/failures.md."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.system.jobs import ROOT

PAGE = ROOT / "docs" / "failures.md"
BEGIN, END = "<!-- rendered by `make failures`: begin -->", "<!-- rendered by `make failures`: end -->"
NAMES = {"mpich": "MPICH 5", "openmpi": "Open MPI 5"}
SILENCE_S = 5
"""--heartbeat-timeout and comm.timeout_s of the jobs."""
EXIT_FAILURE = 4
END_S = 10
"""All ranks are gone so long after a failure is known."""


@dataclass(frozen=True)
class Fault:
    """What is done to a job, and what must come of it."""

    what: str
    ends_it: str
    code: int
    """As a shell tells it."""
    message: str
    """A regular expression for the first line of the error, or of what is said in its place; or SILENT."""
    found_by: str = ""
    """The option that says when it is known; empty: at once."""
    end_s: int = END_S
    mpis: tuple[str, ...] = tuple(NAMES)
    """Those under which this comes of it."""

    @property
    def limit_s(self) -> float:
        """From the fault to the end of the last process on any host."""
        return self.end_s + (SILENCE_S if self.found_by else 0)

    @property
    def within(self) -> str:
        """The limit in words."""
        return f"`{self.found_by}` + {self.end_s} s" if self.found_by else f"{self.end_s} s"


SILENT = "(nobody is left to say it)"
HEARTBEAT, WATCHDOG = "--heartbeat-timeout", "comm.timeout_s"
STALLED = r"error: step \d+: .+ \(collective \d+, \d+ bytes\) did not finish within \S+ s: "
CONNECTION = "kill -9 of the ssh connection by which mpirun started a host's ranks"
SIGTERM = "SIGTERM to plain mpirun; resumed, the bits are right"

FAULTS = {
    "rank raises": Fault(
        "a rank raises an exception",
        "the rank aborts all",
        EXIT_FAILURE,
        r"error: rank 1 on node2 failed at step \d+:",
    ),
    "rank killed": Fault(
        "kill -9 of a rank on another host",
        "mpirun",
        EXIT_FAILURE,
        r"error: .*rank 1 on node2 .*at step \d+.*",
    ),
    "rank sleeps": Fault(
        "a rank sleeps for ever, the others wait for it",
        "the ranks' watchdog",
        EXIT_FAILURE,
        STALLED + "rank 1 on node2 did not arrive",
        found_by=WATCHDOG,
    ),
    "rank stopped": Fault(
        "a rank is stopped (SIGSTOP): no thread of it runs",
        "the launcher: no heartbeat",
        EXIT_FAILURE,
        r"error: no heartbeat from (rank 1|any rank) on node2 .*at step \d+.*",
        found_by=HEARTBEAT,
    ),
    "mpirun killed": Fault(
        "kill -9 of mpirun",
        "the launcher",
        EXIT_FAILURE,
        r"error: mpirun was killed by SIGKILL.*",
    ),
    "launcher killed": Fault(
        "kill -9 of the launcher",
        "the ranks: no answer from the launcher",
        128 + signal.SIGKILL,
        SILENT,
        found_by=HEARTBEAT,
    ),
    "connection killed": Fault(
        CONNECTION,
        "mpirun",
        EXIT_FAILURE,
        r"error: .*node2.*",
        mpis=("openmpi",),
    ),
    "connection not needed": Fault(
        CONNECTION,
        "nothing: the job goes on to its end, the bits are right",
        0,
        r"Connection to node2 closed by remote host\.",
        end_s=120,
        mpis=("mpich",),
    ),
    "link down": Fault(
        "the link of a host goes down in mid-run and stays down",
        "the launcher: no heartbeat; beyond the link, the ranks: no answer from the launcher",
        EXIT_FAILURE,
        r"error: .*node3 .*at step \d+.*",
        found_by=HEARTBEAT,
    ),
    "host crashes": Fault(
        "a host crashes in mid-run",
        "mpirun and the launcher",
        EXIT_FAILURE,
        r"error: .*node3 .*at step \d+.*",
    ),
    "host left out": Fault(
        "a host crashes in mid-run, `--max-restarts 1`",
        "the launcher starts it again without the host, the bits are right",
        0,
        r"restart 1 of 1 .*node3.*",
        end_s=120,
    ),
    "host silent": Fault(
        "a host does not answer at launch",
        "the launcher, before it starts anything",
        EXIT_FAILURE,
        r"error: node2 does not answer: .*",
    ),
    "host refuses": Fault(
        "a host refuses ssh at launch",
        "the launcher, before it starts anything",
        EXIT_FAILURE,
        r"error: node2 does not answer: .*refused.*",
    ),
    "launcher terminated": Fault(
        "SIGTERM to the launcher; resumed, the bits are right",
        "the ranks, after a checkpoint",
        75,
        r"interrupted by \w+.*--resume auto",
    ),
    "mpirun terminated": Fault(
        SIGTERM,
        "the ranks, after a checkpoint",
        75,
        r"interrupted by \w+.*--resume auto",
        mpis=("mpich",),
    ),
    "mpirun kills": Fault(
        SIGTERM,
        "mpirun, 0.25 s later: what counts is the last checkpoint",
        1,
        SILENT,
        mpis=("openmpi",),
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
        message = self.message if fault.message == SILENT else code(self.message)
        cells = (fault.what, NAMES[self.mpi], fault.ends_it, message, self.code, fault.within)
        return f"| {' | '.join(map(str, cells))} | {self.seconds:.1f} s |"


def code(text: str) -> str:
    """As Markdown shows it literally within a table; it may have backquotes of its own."""
    return (f"`` {text} ``" if "`" in text else f"`{text}`").replace("|", "\\|")


def render(rows: Iterable[Row]) -> str:
    """The table, in the order of FAULTS."""
    order = [(fault, mpi) for fault in FAULTS for mpi in FAULTS[fault].mpis]
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


def cells(line: str) -> list[str]:
    """The cells of a row of a table."""
    return re.split(r"(?<!\\)\|", line)[1:-1]


def without_measurements(table: str) -> list[list[str]]:
    """The rows of a table without what a further run may change: the message, and the time that it took."""
    return [cells(line)[:3] + cells(line)[4:6] for line in table.splitlines()]
