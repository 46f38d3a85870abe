"""How a job really ended: from what rank 0 recorded, what the ranks and mpirun said, and who could still be heard.

The exit code of mpirun alone tells little. Open MPI ends with 0 when it has lost a host, and MPICH mixes the codes of
several ranks. So a job has succeeded when its run directory says so, and a rank or the network has failed when anybody
says so.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.heartbeat import Heartbeats, same_host
from launch.output import Block, Rank, first_block
from launch.supervise import EXIT_RESUMABLE, Ended
from launch.wording import plural

EXIT_FAILURE = 4
MEANINGFUL = {2, 3, EXIT_FAILURE, EXIT_RESUMABLE, *(128 + s for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))}
"""The trainer's exit codes, and those after a signal; any other is mpirun's own, or of a rank that crashed."""

CRASHES = {
    signal.Signals(number): number
    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)
}
RANK_FAILED = re.compile(r"error: (rank \d+ on .* failed|step -?\d+: .* did not finish)")
LOST_CONNECTION = re.compile(r"mpi4py\.MPI\.Exception|MPI_ERR_|Exception: (Other MPI error|Unknown error)")
"""In a rank's traceback: it failed because another one did."""

EXITED = re.compile(r"process rank (?P<rank>\d+) with PID \d+ on node (?P<host>\S+) exited on")
"""Open MPI; the signal is on the same line or the next."""

ON_SIGNAL = re.compile(r"signal (?P<signal>\d+)\b")
TERMINATED = re.compile(r"PID (?P<pid>\d+) RUNNING AT (?P<host>\S+)")
"""MPICH, and Intel MPI; the code follows."""

EXIT_CODE = re.compile(r"EXIT (?:CODE|STATUS): (?P<signal>\d+)\b|KILLED BY SIGNAL: (?P<killed>\d+)\b")
COMPLAINT = re.compile(
    r"MPI_ERRORS_ARE_FATAL|An error occurred in|unexpectedly disconnected|mca_btl_tcp|Fatal error in|"
    r"^(?:error: |Abort\()"
)
"""Words of a rank that goes down, or of its MPI library: of its own accord, or because another one is gone."""

PEER = re.compile(r"^\s*Peer host:\s+(?P<host>\S+)")
"""Open MPI, on a rank's stderr: another rank has closed its connection without a word."""

SRUN_TASK = re.compile(r"srun: error: (?P<host>\S+): tasks? (?P<rank>\d+)\S*: (?P<what>[A-Z][a-z]+(?: fault| error)?)")
SRUN_ENDS = {
    "Killed": signal.SIGKILL,
    "Segmentation fault": signal.SIGSEGV,
    "Bus error": signal.SIGBUS,
    "Aborted": signal.SIGABRT,
}
SRUN_NODE = re.compile(r"srun: error: .*[Nn]ode failure on (?P<host>\S+)")
LOST_DAEMON = re.compile(r"^\s*Remote (?:daemon: .* on node|host:)\s+(?P<host>\S+)")
"""Open MPI, of a daemon whose connection broke, and of one whose ssh ended."""


@dataclass(frozen=True)
class Death:
    """A process that mpirun saw die by a signal."""

    rank: Rank
    pid: int | None
    host: str
    signal: int


@dataclass
class Words:
    """What mpirun says of ranks and hosts, line by line."""

    deaths: list[Death] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    """Hosts with which it lost the connection."""
    peers: list[tuple[Rank, str]] = field(default_factory=list)
    """Ranks that lost the connection to a rank, and the host of that one."""
    complaining: set[Rank] = field(default_factory=set)
    """Ranks that said something before they went."""
    _who: tuple[Rank, int | None, str] | None = None

    def read(self, line: str) -> bool:
        """Take a line; whether it tells of a failure."""
        if (match := SRUN_TASK.search(line)) and match["what"] in SRUN_ENDS:
            self.deaths.append(Death(int(match["rank"]), None, match["host"], SRUN_ENDS[match["what"]]))
            return True
        if match := LOST_DAEMON.search(line) or SRUN_NODE.search(line):
            self.lost.append(match["host"])
            return True
        self.read_rank(None, line)
        if match := EXITED.search(line):
            self._who = int(match["rank"]), None, match["host"]
        elif match := TERMINATED.search(line):
            self._who = None, int(match["pid"]), match["host"]
        found = ON_SIGNAL.search(line) or EXIT_CODE.search(line)
        if self._who is None or found is None:
            return False
        number = int(next(filter(None, found.groups()), 0))
        is_crash = number in CRASHES and not (found.re is EXIT_CODE and number == EXIT_FAILURE)
        if is_crash:
            self.deaths.append(Death(*self._who, number))
        self._who = None
        return is_crash

    @property
    def tell_of_failure(self) -> bool:
        """Whether any of them do."""
        return bool(self.deaths or self.lost or self.peers)

    def read_rank(self, rank: Rank, line: str) -> None:
        """Take a line of a rank's stderr: the MPI library writes there too, and mpirun may pass that on as its own."""
        if match := PEER.match(line):
            self.peers.append((rank, match["host"]))
        if COMPLAINT.search(line):
            self.complaining.add(rank)


class RunLog:
    """What a run's event log has got since the start."""

    def __init__(self, run: Path | None) -> None:
        """Take the run directory as it is now; None: there will be none."""
        self._path = run / "metrics.jsonl" if run else Path(os.devnull)
        # After its last whole line: the trainer removes what a killed run left of another.
        self._begun = self._content().rfind(b"\n") + 1

    def _content(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""

    def events(self) -> list[dict[str, Any]]:
        """The whole ones."""
        found = []
        for line in self._content()[self._begun :].split(b"\n")[:-1]:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            found += [event] if isinstance(event, dict) else []
        return found


@dataclass(frozen=True)
class Evidence:
    """All that is known of a job that has ended."""

    ended: Ended
    events: Sequence[dict[str, Any]]
    """Of the run's log, since the start."""
    expects_log: bool
    """Whether the job must have left some: not `--help`, nor another program."""
    blocks: Sequence[Block] = ()
    words: Words = field(default_factory=Words)
    silence: str = ""
    """Who fell silent, where that was why the job was killed."""
    unreachable: Sequence[str] = ()
    """Hosts of the plan that did not answer after the end."""
    hosts: Sequence[str] = ()
    """Of each rank."""
    heartbeats: Heartbeats | None = None
    gone: Sequence[int] = ()
    """Ranks that were no more when the first sign of a failure came."""
    logs: Path | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the run recorded its end; for a program that keeps no such record, whether it ended with 0."""
        if not self.events and not self.expects_log:
            return self.ended.code == 0 and not (self.silence or self.words.tell_of_failure)
        return bool(self.events) and self.events[-1].get("event") == "end"

    def step(self, ranks: Iterable[int] = ()) -> str:
        """Where ranks last were, in words."""
        ranks = ranks or range(len(self.hosts))
        told = self.heartbeats.step_of(ranks) if self.heartbeats else -1
        logged = [int(event["step"]) for event in self.events if isinstance(event.get("step"), int)]
        step = told if told >= 0 else max(logged, default=-1)
        return f"at step {step}" if step >= 0 else "before the first step"


@dataclass(frozen=True)
class Verdict:
    """What the launcher says and returns."""

    code: int
    text: str
    """The last words, one or more lines; empty if there is nothing to say."""
    shows_own: bool = False
    """Whether mpirun's own words are of use."""


def judge(evidence: Evidence) -> Verdict:
    """The exit code of the contract, and what to say last."""
    code, ended = evidence.ended.code, evidence.ended
    block = first_block(evidence.blocks)
    if evidence.is_complete and (block is None or not block.is_error):
        warning = f"warning: the run is complete, but mpirun ended with {describe(code)}" if code else ""
        return Verdict(0, block.text if block else warning, shows_own=True)
    culprit = _culprit(evidence)
    if ended.stopped_by is not None and not evidence.silence:
        stopped = code if code == EXIT_RESUMABLE else 128 + ended.stopped_by
        return Verdict(stopped, _with_others(block.text, evidence, block) if block else "")
    if culprit:
        return Verdict(EXIT_FAILURE, _with_others(culprit, evidence, None))
    if block is not None:
        is_rank = RANK_FAILED.match(block.lines[0]) or not block.is_error
        final = EXIT_FAILURE if is_rank or code not in MEANINGFUL else code
        return Verdict(final, _with_others(block.text, evidence, block))
    if code in MEANINGFUL:
        return Verdict(code, "")
    return Verdict(EXIT_FAILURE, _unexplained(evidence), shows_own=True)


def _culprit(evidence: Evidence) -> str:
    """Who was killed or lost, where nobody can have said so himself; empty if nobody, or a rank knows better."""
    if evidence.silence:
        gone = f"; {_and(evidence.unreachable)} cannot be reached by ssh either" if evidence.unreachable else ""
        return f"error: {evidence.silence}{gone}"
    block = first_block(evidence.blocks)
    if block is not None and not LOST_CONNECTION.search(block.text):
        return ""
    lost = [host for host in dict.fromkeys(evidence.hosts) if _is_named(host, evidence.unreachable)]
    if lost:
        host = lost[0]
        ranks = [rank for rank, where in enumerate(evidence.hosts) if where == host]
        return f"error: host {host} ({plural('rank', ranks)}) is gone {evidence.step(ranks)}: it does not answer ssh"
    if evidence.words.deaths:
        return _killed(evidence.words.deaths[0], evidence)
    if evidence.words.lost:
        host = evidence.words.lost[0]
        ranks = [rank for rank, where in enumerate(evidence.hosts) if same_host(where, host)]
        return (
            f"error: mpirun lost its daemon on {host} ({plural('rank', ranks)}) {evidence.step(ranks)}:"
            " it was killed, or the connection broke"
        )
    return _vanished(evidence)


def _vanished(evidence: Evidence) -> str:
    """Who was gone without a word when the others complained; empty if nobody is known to have been."""
    hosts = evidence.hosts
    ranks = [rank for rank in evidence.gone if rank not in evidence.words.complaining]
    for _, host in evidence.words.peers:  # the others say where it was
        there = [rank for rank, where in enumerate(hosts) if same_host(where, host)]
        ranks = [rank for rank in ranks if rank in there] or there
    if not ranks:
        return ""
    who = " or ".join(f"rank {rank} on {hosts[rank]}" for rank in sorted(ranks))
    return f"error: {who} was killed or crashed {evidence.step(ranks)}: others lost the connection to it"


def _killed(death: Death, evidence: Evidence) -> str:
    rank = death.rank
    if rank is None and death.pid is not None and evidence.heartbeats:
        rank = evidence.heartbeats.rank_of(death.pid, death.host)
    there = [rank for rank, host in enumerate(evidence.hosts) if same_host(host, death.host)]
    if rank is None and len(there) == 1:
        rank = there[0]
    who = f"a rank (process {death.pid})" if rank is None else f"rank {rank}"
    at = evidence.step([rank] if rank is not None else ())
    hint = " (out of memory? see `dmesg` there)" if death.signal == signal.SIGKILL else ""
    return f"error: {who} on {death.host} was killed by {signal.Signals(death.signal).name} {at}{hint}"


def _unexplained(evidence: Evidence) -> str:
    code = evidence.ended.code
    words = f"; its own words are in {evidence.logs / 'launcher.log'}" if evidence.logs else ""
    if evidence.ended.killed_by is not None:
        return f"error: mpirun was killed by {signal.Signals(evidence.ended.killed_by).name} {evidence.step()}"
    if code - 128 in CRASHES:
        return f"error: a rank was killed by {signal.Signals(code - 128).name} {evidence.step()}{words}"
    if code == 0:
        return (
            f"error: mpirun ended with exit code 0, but the run has not come to its end: it stopped {evidence.step()}"
        )
    return f"error: mpirun ended with {describe(code)} {evidence.step()}{words}"


def _with_others(text: str, evidence: Evidence, shown: Block | None) -> str:
    """The text, and who else has said something."""
    others = [block.rank for block in evidence.blocks if block is not shown]
    if not others:
        return text
    more = f" and {len(others) - 1} more" if len(others) > 1 else ""
    return f"{text}\nrank {others[0]}{more} failed after it" + (f": see {evidence.logs}" if evidence.logs else "")


def describe(code: int) -> str:
    """An exit code in words."""
    names = {128 + number: number.name for number in signal.Signals}
    return f"exit code {code}, {names[code]}" if code in names else f"exit code {code}"


def _and(names: Sequence[str]) -> str:
    return ", ".join(names)


def _is_named(host: str, names: Sequence[str]) -> bool:
    return any(same_host(host, name) for name in names)
