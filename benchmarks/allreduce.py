"""Every rung of the communication ladder and the bare MPI calls, by size: latency, bandwidth, and the cost model.

    python -m benchmarks.allreduce --ranks 1,2 --write docs/communication.md
    python -m benchmarks.allreduce --ranks 4 --hostfile hosts --largest 16MiB

For each number of ranks one job, in which all contestants have a turn at each size, again and again, so that drift of a
shared machine meets all of them. `sum`: what a step does between the backward pass and the update, and after it.
`sum and update`: with the SGD update (momentum 0.9), of which some rungs do a part on each rank. The gradients are
checked once at each size. How the tables are to be read: docs/communication.md.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.allreduce_tables import label, render
from benchmarks.report import add_report_options, report
from benchmarks.start import request, start_ranks

SMALLEST, STEP, LARGEST = 4, 4, 256 << 20
NINE_MILLION = 36_000_000
"""Bytes of the gradient of a network of 9 million parameters: a size besides the powers of 4."""
UNITS = {"B": 1, "KB": 1000, "KIB": 1 << 10, "MB": 10**6, "MIB": 1 << 20}


def num_bytes(text: str) -> int:
    """The number of a size.

    >>> num_bytes("64KiB"), num_bytes("36 MB"), num_bytes("4")
    (65536, 36000000, 4)

    Raises:
        argparse.ArgumentTypeError: if it is none, or less than one float32.
    """
    match = re.fullmatch(r"(\d+) *([A-Za-z]*)", text.strip())
    unit = UNITS.get(match[2].upper() or "B") if match else None
    if match is None or unit is None or int(match[1]) * unit < SMALLEST:
        raise argparse.ArgumentTypeError(f"{text!r}: give bytes, {SMALLEST} at least, such as 64KiB, 256MiB or 36MB")
    return int(match[1]) * unit


def counts(text: str) -> list[int]:
    """Numbers of ranks, separated by commas.

    Raises:
        argparse.ArgumentTypeError: if one is none, or less than 1.
    """
    if not re.fullmatch(r"0*[1-9]\d*(,0*[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers of ranks, 1 or more, such as 1,2")
    return [int(word) for word in text.split(",")]


def sizes(largest: int) -> list[int]:
    """Bytes of the buffers: powers of 4, and NINE_MILLION."""
    powers = [SMALLEST * STEP**k for k in range(64) if SMALLEST * STEP**k <= largest]
    return sorted({*powers, *([NINE_MILLION] if largest >= NINE_MILLION else [])})


def run(ranks: int, options: argparse.Namespace) -> dict[str, Any]:
    """One job: what its ranks are, and the times of all sizes."""
    task = {
        "sizes": sizes(options.largest),
        "repeats": options.repeats,
        "seconds": options.seconds,
        "limit_s": options.limit,
    }
    program = [sys.executable, "-m", "benchmarks.allreduce_ranks", json.dumps(task)]
    with tempfile.TemporaryDirectory() as folder:
        wanted = request(ranks, options.threads, options.hostfile)
        with start_ranks(wanted, program, Path(folder), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line)
                if len(lines) > 1:
                    print(f"{ranks} ranks: {label(task['sizes'][len(lines) - 2])}", file=sys.stderr)
    if process.returncode != 0 or len(lines) != 1 + len(task["sizes"]):
        raise SystemExit(f"error: the job of {ranks} ranks failed with exit code {process.returncode}, see above")
    facts, *measured = map(json.loads, lines)
    return {**facts, "threads": options.threads, "repeats": options.repeats, "sizes": measured}


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=counts, default="1,2", help="numbers of them (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of a rank, for the update (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=9, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.02, help="of a turn, about (default: %(default)s)")
    parser.add_argument("--largest", type=num_bytes, default=f"{label(LARGEST)}", help="buffer (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=1800, help="seconds after which a job ends (default: %(default)s)")
    parser.add_argument("--hostfile", type=Path, help="hosts to run on, as for `launch run` (default: this one)")
    add_report_options(parser, "allreduce")
    options = parser.parse_args()
    report(options, "benchmarks.allreduce", lambda: [run(ranks, options) for ranks in options.ranks], render)


if __name__ == "__main__":
    main()
