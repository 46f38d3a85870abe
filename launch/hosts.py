"""The hosts that a job may run on: `-H h1:4,h2:4`, and hostfiles as Open MPI, MPICH and PBS write them.

Every MPI has a form of its own and misreads the others' in silence (Open MPI takes `h1:4` for a host of that name);
here one reader takes them all, and what it does not understand is an error that quotes the line.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.errors import UsageError

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")  # no `-` first, nothing that a shell would read
_LINE = re.compile(
    r"(?P<host>\[[^\]\s]*\]|[^\s:\[\]]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*)"
    r"(?::(?P<colon>[^\s:]*))?(?P<rest>(?:\s+.*)?)"
)
_FIX = "write `host`, `host:4` or `host slots=4`"
MOST_SLOTS = 100_000


@dataclass(frozen=True)
class Host:
    """A host, and how many ranks it may get."""

    name: str
    """As the user wrote it; an IPv6 literal without its brackets."""
    slots: int | None = None
    """None: not stated."""

    def __str__(self) -> str:
        """As in `-H`: `node1:4`, `[fe80::1]:4`."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.slots is None else f"{name}:{self.slots}"


def this_host() -> Host:
    """The machine that the launcher runs on."""
    return Host(socket.gethostname())


def is_local(host: Host) -> bool:
    """Whether a host is the machine that the launcher runs on, so that no ssh is needed."""
    own = socket.gethostname()
    if host.name in {"localhost", own, own.partition(".")[0]} or own == host.name.partition(".")[0]:
        return True
    try:
        return ipaddress.ip_address(host.name).is_loopback or _is_own_address(host.name)
    except ValueError:
        return False


def _is_own_address(address: str) -> bool:
    """Whether this machine has that address: only then can a socket be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def parse_hosts(text: str) -> tuple[Host, ...]:
    """The hosts of `-H`, such as `node1:4,node2:4` or `[fe80::1]:4`.

    Raises:
        UsageError: naming the part that is not understood.
    """
    parts = ((f"-H {text}: part {number}", part) for number, part in enumerate(text.split(","), 1))
    return _collect(parts, may_repeat=False)


def read_hostfile(path: Path) -> tuple[Host, ...]:
    """The hosts of a file: a line each, as `host`, `host:4` or `host slots=4 [max_slots=8]`; `#` begins a comment.

    A host without slots on several lines, as in PBS's node file, has as many slots as lines.

    Raises:
        UsageError: naming the file, the line's number and its text, and what is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"--hostfile {path}: {error.strerror}; give the path of a file with a host a line") from None
    except UnicodeDecodeError:
        raise UsageError(f"--hostfile {path}: not a text file; give one with a host a line") from None
    stripped = ((f"--hostfile {path}: line {n}", line.partition("#")[0].strip()) for n, line in enumerate(lines, 1))
    hosts = _collect(((where, line) for where, line in stripped if line), may_repeat=True)
    if not hosts:
        raise UsageError(f"--hostfile {path}: names no host; {_FIX}, a line each")
    return hosts


def counted(names: Sequence[str], source: str) -> tuple[Host, ...]:
    """Hosts that are named once for each of their slots, as in PBS's node file, in the order of first mention.

    Raises:
        UsageError: for a name that is none.
    """
    counts = Counter(_check_name(name, f"{source}: {name!r}") for name in names)
    return tuple(Host(name, count) for name, count in counts.items())


def _collect(items: Iterable[tuple[str, str]], may_repeat: bool) -> tuple[Host, ...]:
    hosts: dict[str, Host] = {}
    repeated: Counter[str] = Counter()
    for where, text in items:
        host = _parse(text, f"{where}: {text!r}")
        known = hosts.setdefault(host.name, host)
        repeated[host.name] += 1
        if repeated[host.name] > 1 and not (may_repeat and host.slots is None and known.slots is None):
            raise UsageError(f"{where}: {text!r}: {host.name} is there already; name a host once, with all its slots")
    if max(repeated.values(), default=0) > 1:  # PBS's form: a line for each slot
        return tuple(Host(name, host.slots or repeated[name]) for name, host in hosts.items())
    return tuple(hosts.values())


def _parse(text: str, where: str) -> Host:
    match = _LINE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{where} is not a host; {_FIX}")
    name = _check_name(match["host"], where)
    slots = None if match["colon"] is None else _check_slots(match["colon"], where)
    for setting in match["rest"].split():
        key, equals, value = setting.partition("=")
        if not equals or key not in ("slots", "max_slots", "max-slots") or (key == "slots" and slots is not None):
            raise UsageError(f"{where}: {setting!r} is not understood; {_FIX}")
        number = _check_slots(value, where)
        slots = number if key == "slots" else slots
    return Host(name, slots)


def _check_name(text: str, where: str) -> str:
    if text.startswith("[") or text.count(":") > 1:
        address = text.removeprefix("[").removesuffix("]")
        try:
            return str(ipaddress.IPv6Address(address))
        except ValueError:
            raise UsageError(f"{where}: {address!r} is not an IPv6 address; write for example [fe80::1]:4") from None
    if not _NAME.fullmatch(text):
        raise UsageError(f"{where}: {text!r} is not a host name: letters, digits, `.`, `-` and `_`, no `-` first")
    return text


def _check_slots(text: str, where: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MOST_SLOTS:
        raise UsageError(f"{where}: {text!r} slots; give a whole number from 1 to {MOST_SLOTS}")
    return int(text)


def hostfile_lines(hosts: Iterable[tuple[Host, int]], line: str, line_per_rank: bool = False) -> str:
    """A hostfile with the ranks of each host, for an mpirun whose form of a line is such as `{host} slots={ranks}`."""
    lines = []
    for host, ranks in hosts:
        name = str(Host(host.name)) if "}:" in line else host.name  # brackets keep an address and its ranks apart
        lines += [line.format(host=name, ranks=ranks) + "\n"] * (ranks if line_per_rank else 1)
    return "".join(lines)
