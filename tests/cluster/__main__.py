"""A cluster for people: `python -m tests.cluster up 3`, then `python -m tests.cluster exec 1 ssh node2 hostname`.

It stays until `python -m tests.cluster down`. See `tests.cluster.cluster` for what it is.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from tests.cluster.cluster import PREFIX, RUN, Cluster, address, name
from tests.cluster.processes import ClusterError
from tests.cluster.requirements import missing

MOST_HOSTS = 250
"""As many as there are addresses."""


def main() -> int:
    """Run the command line; the exit code."""
    options = _parser().parse_args()
    if reason := missing():
        sys.stderr.write(f"error: {reason}\n")
        return 2
    folder = RUN / f"{PREFIX}{options.name}"
    try:
        return _run(options, folder)
    except ClusterError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def _run(options: argparse.Namespace, folder: Path) -> int:
    if options.command == "up":
        if folder.exists():
            _existing(folder).down()
        Cluster(options.hosts, folder).up()
        return 0
    cluster = _existing(folder)
    if options.command == "exec":
        # nsenter has the terminal's Ctrl-C reach the command, too.
        command = cluster.command(options.host, options.arguments)
        os.execvp(command[0], command)
    if options.command == "status":
        for host in cluster.numbers():
            state = f"{len(cluster.processes(host))} processes" if cluster.is_up(host) else "down"
            print(f"{name(host)} {address(host)} {state}")
    elif options.command == "down":
        cluster.down()
    elif options.command == "link":
        cluster.link(options.host, options.state)
    elif options.command == "shape":
        cluster.shape(None if options.rate == "none" else options.rate)
    elif options.command == "delay":
        cluster.delay(options.milliseconds or None, options.rate)
    else:
        {"crash": cluster.crash, "boot": cluster.boot}[options.command](options.host)
    return 0


def _existing(folder: Path) -> Cluster:
    try:
        return Cluster(int((folder / "size").read_text()), folder)
    except OSError:
        raise ClusterError(f"no cluster {folder}: python -m tests.cluster up 3") from None


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a word")
    return text


def _hosts(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_HOSTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST_HOSTS}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="A cluster in a box.")
    parser.add_argument(
        "--name", type=_name, default="people", help="of the cluster, if there are several (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="make it anew").add_argument("hosts", type=_hosts, nargs="?", default=3)
    commands.add_parser("down", help="end and remove it")
    commands.add_parser("status", help="its hosts")
    execute = commands.add_parser("exec", help="run a command on a host")
    execute.add_argument("host", type=int)
    execute.add_argument("arguments", nargs=argparse.REMAINDER, metavar="command")
    link = commands.add_parser("link", help="pull or plug a host's cable")
    link.add_argument("host", type=int)
    link.add_argument("state", choices=("up", "down"))
    commands.add_parser("crash", help="power off a host").add_argument("host", type=int)
    commands.add_parser("boot", help="start a host again").add_argument("host", type=int)
    shape = commands.add_parser("shape", help="limit what each host sends")
    shape.add_argument("rate", help="such as 100mbit; none: no limit")
    delay = commands.add_parser("delay", help="hold each frame for a time, one way")
    delay.add_argument("milliseconds", type=float, help="0: the kernel's bridge again")
    delay.add_argument("rate", nargs="?", default="0", help="what each host receives at most, such as 100mbit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
