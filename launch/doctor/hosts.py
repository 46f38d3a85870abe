"""Every host: whether ssh reaches it, what is installed there, what its clock says, what it sees of the run directory.

One call of ssh per host, all at once; each is timed, for the clocks.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from launch.doctor import facts
from launch.doctor.facts import HostFacts
from launch.doctor.finding import Finding, State, listing, not_made
from launch.hosts import Host, is_local, this_host
from launch.ssh import MOST_AT_ONCE, NO_SSH, Answer, run_on
from launch.wording import count

PROGRAM = (sys.executable, "-m", "launch.doctor.facts")
"""What is run on each host."""

TIMEOUT_S = 30.0
CLOCK_WARNING_S = 1.0
CLOCK_ERROR_S = 60.0
"""Below a second, the logs of several hosts can still be read side by side. A minute is what batch systems' and file
servers' credentials (Munge, Kerberos) leave of their five for delays, and file times decide what `make` rebuilds."""

SSH_PROBLEMS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "another host key than before",
        "if that is right: ssh-keygen -R {host}",
    ),
    ("Host key verification failed", "unknown host key", "add it: ssh-keyscan {host} >> ~/.ssh/known_hosts"),
    ("Permission denied", "login refused", "let your key in: ssh-copy-id {host}"),
    ("Connection refused", "connection refused", "start sshd there, or take {host} out of the hosts"),
    ("Could not resolve hostname", "unknown host name", "correct {host} in the hosts, or add it to /etc/hosts or DNS"),
    ("No route to host", "no route", "see whether {host} is up and on the network: ping {host}"),
    ("Network is unreachable", "no route", "see whether {host} is on a network of this machine: ip route"),
    ("timed out", "time-out", "see whether {host} is up and no firewall drops port 22: ping {host}"),
)
"""What ssh says on stderr, what that is, and the fix; the first that fits."""


@dataclass(frozen=True)
class Visit:
    """What came of asking a host."""

    answer: Answer
    sent: float
    """The launcher's clock before, seconds since 1970."""
    received: float
    """The same afterwards."""
    facts: HostFacts | None
    ssh: Answer | None = None
    """What came of ssh where srun was used after it."""

    @property
    def host(self) -> Host:
        """Which one."""
        return self.answer.host

    @property
    def offset_s(self) -> tuple[float, float]:
        """How far the host's clock is ahead of the launcher's, and how exactly that is known.

        The host began after `sent` and ended before `received`, which bounds the offset on both sides.
        """
        assert self.facts is not None
        most, least = self.facts.began - self.sent, self.facts.ended - self.received
        return (most + least) / 2, abs(most - least) / 2


def visit(hosts: Sequence[Host], directory: Path, token: str) -> list[Visit]:
    """Ask all of them, at once; by ssh, and within a Slurm job by srun where ssh fails."""

    def ask(number: int) -> Visit:
        host = hosts[number]
        command = [*PROGRAM, str(directory), token, str(number)]
        visit = _timed(host, lambda: run_on([host], command, TIMEOUT_S))
        if visit.facts is None and "SLURM_JOB_ID" in os.environ:
            step = ["srun", "--nodes=1", "--ntasks=1", f"--nodelist={host.name}", "--overlap", "--mpi=none"]
            again = _timed(host, lambda: run_on([this_host()], [*step, *command], TIMEOUT_S))
            return replace(again, ssh=visit.answer) if again.facts is not None else visit
        return visit

    with ThreadPoolExecutor(min(len(hosts), MOST_AT_ONCE)) as pool:
        return list(pool.map(ask, range(len(hosts))))


def _timed(host: Host, ask: Callable[[], list[Answer]]) -> Visit:
    sent = time.time()
    (answer,) = ask()
    received = time.time()
    found = facts.read(answer.output) if answer.code == 0 else None
    return Visit(replace(answer, host=host), sent, received, found)


def check_reached(visits: Sequence[Visit]) -> list[Finding]:
    """A finding for each host that does not answer as it should, or one for all."""
    bad = [_not_reached(visit) for visit in visits if visit.facts is None]
    bad += [_only_by_srun(visit.host.name, visit.ssh) for visit in visits if visit.ssh is not None]
    good = [visit.host.name for visit in visits if visit.facts is not None]
    remote = [visit for visit in visits if visit.facts is not None and not is_local(visit.host)]
    if bad or not remote:
        return bad or [Finding("ssh", "ok", "no other host than this one")]
    seconds = max(visit.received - visit.sent for visit in remote)
    return [Finding("ssh", "ok", f"{listing(good)}: reached, Python there answers within {seconds:.1f} s")]


def _only_by_srun(host: str, ssh: Answer) -> Finding:
    measured = f"{host}: srun reaches it, ssh does not ({ssh.problem})"
    fix = "ranks start all the same; let ssh in, so that the launcher can end what a failed job leaves there"
    return Finding("ssh", "warning", measured, fix, {"host": host, "code": ssh.code})


def _not_reached(visit: Visit) -> Finding:
    host, answer = visit.host.name, visit.answer
    said = answer.problem or "Python there said nothing"
    if answer.code is None:
        what, fix = (
            f"time-out: no answer within {TIMEOUT_S:g} s",
            "log in by hand and see what it waits for: ssh {host}",
        )
    elif answer.code == NO_SSH:
        known = (entry[1:] for entry in SSH_PROBLEMS if entry[0] in answer.errors)
        what, fix = next(known, ("ssh fails", "log in by hand: ssh {host}"))
        what = f"{what} ({said})"
    else:
        what = f"reached, but this Python does not run there ({said})"
        fix = f"make {PROGRAM[0]} and this folder the same on {{host}}: a shared file system, or a copy"
    return Finding("ssh", "error", f"{host}: {what}", fix.format(host=host), {"host": host, "code": answer.code})


def check_packages(visits: Sequence[Visit]) -> list[Finding]:
    """The same Python, packages and sources everywhere?"""
    known = [(visit.host.name, visit.facts.versions) for visit in visits if visit.facts is not None]
    if not known:
        return [not_made("packages", "no host answers")]
    findings = []
    for package in known[0][1]:
        found = {host: versions[package] for host, versions in known}
        (common, _), *others = Counter(found.values()).most_common()
        if not others:
            continue
        usual = [host for host, version in found.items() if version == common]
        odd = [f"{_short(version)} on {host}" for host, version in found.items() if version != common]
        measured = f"{package}: {listing(odd)}, but {_short(common)} on {listing(usual)}"
        findings.append(Finding("packages", "error", measured, _same(package, common), {package: found}))
    missing = sorted(name for name, version in known[0][1].items() if version == "not installed" and name != "ddp-sgd")
    if missing and not findings:
        return [Finding("packages", "error", f"not installed: {', '.join(missing)}", "pip install -e . in this Python")]
    shown = ", ".join(f"{name} {_short(version)}" for name, version in known[0][1].items())
    return findings or [Finding("packages", "ok", f"{shown}{_everywhere(len(known))}", "", dict(known[0][1]))]


def _short(version: str) -> str:
    return version[:12] if len(version) == 64 else version


def _same(package: str, common: str) -> str:
    if package == "sources":
        return "copy the same ddp and launch to every host, and see PYTHONPATH there"
    if package == "python":
        return f"use the same Python on every host, {common} as most have"
    return f"pip install {package}=={common} where it differs, and see PYTHONPATH there"


def _everywhere(hosts: int) -> str:
    return f"; the same on {hosts} hosts" if hosts > 1 else ""


def check_clocks(visits: Sequence[Visit]) -> list[Finding]:
    """Each host's clock against this one's, by the times around the question and the answer."""
    findings, offsets = [], {}
    for one in visits:
        if one.facts is None or is_local(one.host):
            continue
        offset_s, exact_s = one.offset_s
        offsets[one.host.name] = {"offset_s": offset_s, "exact_s": exact_s}
        surely_s = abs(offset_s) - exact_s
        state: State = "ok"
        if surely_s > CLOCK_WARNING_S:
            state = "error" if surely_s > CLOCK_ERROR_S else "warning"
            way = "ahead of" if offset_s > 0 else "behind"
            measured = f"{one.host.name}: {abs(offset_s):,.1f} s {way} this host (to {exact_s:.1f} s)"
            fix = f"let {one.host.name} follow a time server: systemctl enable --now systemd-timesyncd, or chrony"
            findings.append(Finding("clock", state, measured, fix, {"host": one.host.name, **offsets[one.host.name]}))
    if findings:
        return findings
    if not offsets:
        return [Finding("clock", "ok", "no other host's to compare with")]
    exact_s = max(offset["exact_s"] for offset in offsets.values())
    text = f"{count(len(offsets), 'other host')} within {CLOCK_WARNING_S:g} s of this one (known to {exact_s:.1f} s)"
    return [Finding("clock", "ok", text, "", offsets)]
