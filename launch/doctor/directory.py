"""The run directory: there, writable and the same one on every host?

The launcher leaves a file there that every host must see, and every host leaves one that the launcher must see: then
all of them see the same directory. The names are new, so that no network file system knows them from before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from launch.doctor import hosts
from launch.doctor.facts import own_file, token_file, write_synced
from launch.doctor.finding import Finding, listing
from launch.doctor.hosts import Visit
from launch.ssh import run_on

CHECK = "directory"
TIMEOUT_S = 30.0
FIX = "give a directory that every host can write to and mounts at the same path: --directory, as --output.dir of a run"


@contextmanager
def prepared(directory: Path, token: str, num_hosts: int) -> Iterator[str]:
    """The directory with the launcher's file, as a run would make it; what is wrong with it here, or nothing.

    Afterwards nothing is left of it, neither files nor a directory that was not there before.
    """
    made: list[Path] = []

    def make() -> None:
        made.extend(path for path in (directory, *directory.parents) if not path.exists())
        directory.mkdir(parents=True, exist_ok=True)
        write_synced(token_file(directory, token), token)

    def remove() -> None:
        for path in (token_file(directory, token), *(own_file(directory, token, n) for n in range(num_hosts))):
            with contextlib.suppress(OSError):
                path.unlink()
        for path in made:
            with contextlib.suppress(OSError):  # another's by now
                path.rmdir()

    try:
        yield in_time(make)
    finally:
        in_time(remove)


def in_time(action: Callable[[], None]) -> str:
    """Do something with files; what went wrong, or nothing.

    Whoever asks a file server that is gone waits for ever, and cannot be killed: a thread that is left behind.
    """
    problems = [f"no answer within {TIMEOUT_S:g} s"]

    def act() -> None:
        try:
            action()
            problems[0] = ""
        except OSError as error:
            problems[0] = error.strerror or str(error)

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return problems[0]


def check_directory(directory: Path, token: str, problem: str, visits: Sequence[Visit]) -> list[Finding]:
    """What the launcher and the hosts saw; while the files are there.

    Args:
        directory: the run directory.
        token: of the files' names.
        problem: what is wrong with it here.
        visits: the hosts; in their order the files are numbered.
    """
    if problem:
        return [Finding(CHECK, "error", f"{directory} cannot be written to on this host: {problem}", FIX)]
    findings = []
    shared = []
    for number, visit in enumerate(visits):
        if visit.facts is None:
            continue
        host = visit.host.name
        wrong = visit.facts.directory
        if not wrong and not (visit.facts.sees_token and own_file(directory, token, number).exists()):
            wrong = "is not the one of this host: neither sees what the other has written"
        if wrong:
            findings.append(Finding(CHECK, "error", f"{directory} {wrong}, on {host}", FIX, {"host": host}))
        else:
            shared.append(host)
    if findings or not shared:
        return findings or [Finding(CHECK, "ok", f"{directory} can be written to on this host")]
    return [Finding(CHECK, "ok", f"{directory} can be written to, and is the same one, on {listing(shared)}")]


def remove_elsewhere(directory: Path, token: str, visits: Sequence[Visit]) -> None:
    """Remove what a host has left in a directory that is not the launcher's."""
    for number, visit in enumerate(visits):
        path = own_file(directory, token, number)
        if visit.facts is not None and not visit.facts.directory and not path.exists():
            run_on([visit.host], ["rm", "-f", str(path)], hosts.TIMEOUT_S)
