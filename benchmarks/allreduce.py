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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cost_model
from benchmarks.cost_model import Job, Line, Machine
from benchmarks.report import add_report_options, quartiles, report
from benchmarks.start import request, start_ranks

SMALLEST, STEP, LARGEST = 4, 4, 256 << 20
NINE_MILLION = 36_000_000
"""Bytes of the gradient of a network of 9 million parameters: a size besides the powers of 4."""
CONTESTANTS = tuple(cost_model.REDUCE)
KINDS = ("float32", "int32")
UNITS = {"B": 1, "KB": 1000, "KIB": 1 << 10, "MB": 10**6, "MIB": 1 << 20}
LONG = 1 << 20
"""Bytes from which on the update is worth a table: below, it takes no time."""
MODEL_SIZES = (4, 64 << 10, 1 << 20, NINE_MILLION, 256 << 20)
"""At which the model's prediction is shown beside the measurement."""
COLUMNS = {"reduce": "sum", "reduce_and_update": "sum and update"}
PREDICTIONS = {"reduce": cost_model.reduce, "reduce_and_update": cost_model.reduce_and_update}


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


def label(size: int) -> str:
    """A size for a table.

    >>> label(256), label(1 << 16), label(1 << 22), label(36_000_000)
    ('256 B', '64 KiB', '4 MiB', '36 MB')
    """
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB"), (10**6, "MB")):
        if size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def duration(seconds: float) -> str:
    """A time for a table, three digits."""
    unit, name = (1e-3, "ms") if seconds >= 1e-3 else (1e-6, "µs")
    value = seconds / unit
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {name}"


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


class Times:
    """The times of one job, by size, contestant, sums and column."""

    def __init__(self, result: dict[str, Any]) -> None:
        """Take what `run` returns."""
        self.result = result
        self.ranks, self.nodes = result["ranks"], result["nodes"]
        self.sizes = [each["bytes"] for each in result["sizes"]]
        self.seconds: dict[tuple[int, str, str, str], list[float]] = {
            (each["bytes"], one["name"], one["sums"], one["column"]): one["seconds"]
            for each in result["sizes"]
            for one in each["contestants"]
        }

    def median(self, size: int, name: str, kind: str, column: str = "reduce") -> float:
        """Of all rounds."""
        return quartiles(self.seconds[size, name, kind, column])[1]

    def line(self, name: str, kind: str, column: str = "reduce") -> Line:
        """The fitted latency and inverse bandwidth."""
        medians = [self.median(size, name, kind, column) for size in self.sizes]
        return cost_model.fit(self.sizes, medians)

    def machine(self, size: int, kind: str) -> Machine:
        """What the formulas are made of: fitted lines; of a long buffer, the seconds a byte are those of its size.

        For a byte costs more where the buffer does not lie in a cache.
        """

        def at(name: str, sums: str, column: str) -> Line:
            line = self.line(name, sums, column)
            if size < LONG:
                return line
            return Line(line.latency, max(0.0, self.median(size, name, sums, column) - line.latency) / size)

        message, addition = at("message", "", "reduce"), at("addition", "", "reduce")
        return Machine(message, addition, at("dummy", kind, "reduce_and_update"))

    def job(self, size: int) -> Job:
        """What is summed at a size."""
        each = self.result["sizes"][self.sizes.index(size)]
        return Job(self.ranks, self.nodes, size, each["tensors"], each["buckets"], self.result["report_bytes"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines] + [""]


def latency_table(times: Times, kind: str) -> list[str]:
    """Median time of a sum, by size and contestant."""
    rows = [[label(size), *(duration(times.median(size, name, kind)) for name in CONTESTANTS)] for size in times.sizes]
    return [f"**{title(times)}: sum, {kind}**", "", *_table(["buffer", *CONTESTANTS], rows)]


def fit_table(times: Times) -> list[str]:
    """Fitted latency and bandwidth, and what the fit leaves unexplained."""
    rows = []
    contestants = [("message", ""), ("addition", ""), *((name, kind) for name in CONTESTANTS for kind in KINDS)]
    for name, kind in contestants:
        line = times.line(name, kind)
        misses = [abs(line(size) / times.median(size, name, kind) - 1) for size in times.sizes]
        widths = [
            (third - first) / median
            for size in times.sizes
            for first, median, third in [quartiles(times.seconds[size, name, kind, "reduce"])]
        ]
        largest = times.sizes[-1]
        bus = cost_model.bus_bandwidth(times.ranks, largest, times.median(largest, name, kind)) / 1e9
        rows.append([
            name,
            kind,
            f"{line.latency * 1e6:.1f}",
            f"{1e-9 / line.per_byte:.2f}" if line.per_byte else "",
            f"{bus:.2f}" if kind else "",
            f"{np.median(misses):.0%}",
            f"{np.median(widths):.0%}",
        ])  # fmt: skip
    bus_head = f"bus bandwidth at {label(times.sizes[-1])}, GB/s"
    head = ["", "sums", "alpha, µs", "1/beta, GB/s", bus_head, "off the line", "quartiles apart"]
    return [f"**{title(times)}: latency and bandwidth**", "", *_table(head, rows)]


def update_table(times: Times) -> list[str]:
    """Sum and update of long buffers, and the ratio to what everyone would write."""
    column, rows = "reduce_and_update", []
    for size in (size for size in times.sizes if size >= LONG):
        for kind in KINDS:
            pairs = [times.seconds[size, name, kind, column] for name in ("node_shared", "Allreduce")]
            first, median, third = quartiles([a / b for a, b in zip(*pairs, strict=True)])
            medians = [duration(times.median(size, name, kind, column)) for name in CONTESTANTS]
            update = duration(times.median(size, "dummy", kind, column))
            rows.append([label(size), kind, update, *medians, f"{median:.2f} ({first:.2f} to {third:.2f})"])
    head = ["buffer", "sums", "update alone", *CONTESTANTS, "node_shared against Allreduce: median (quartiles)"]
    return [f"**{title(times)}: sum and update**", "", *_table(head, rows)] if rows else []


def model_table(times: Times) -> list[str]:
    """Measured, and predicted from messages, additions and the update alone."""
    kind, rows = "int32", []
    for size in (size for size in times.sizes if size in MODEL_SIZES or size == times.sizes[-1]):
        machine, job = times.machine(size, kind), times.job(size)
        for column, predict in PREDICTIONS.items():
            cells = [
                f"{duration(times.median(size, name, kind, column))} ({duration(predict(name, machine, job))})"
                for name in CONTESTANTS
            ]
            rows.append([label(size), COLUMNS[column], *cells])
    head = ["buffer", "", *CONTESTANTS]
    return [
        f"**{title(times)}: measured (predicted), {kind}**",
        "",
        *_table(head, rows),
    ]


def title(times: Times) -> str:
    """How many ranks there are, and where."""
    ranks = "1 rank" if times.ranks == 1 else f"{times.ranks} ranks"
    return ranks if times.nodes == 1 else f"{ranks} on {times.nodes} nodes"


def render(results: list[dict[str, Any]]) -> str:
    """All tables as Markdown; one rank has nobody to sum with, so its table is that of the update."""
    lines = []
    for times in map(Times, results):
        if times.ranks > 1:
            lines += [*latency_table(times, "float32"), *latency_table(times, "int32"), *fit_table(times)]
        lines += update_table(times)
        lines += model_table(times) if times.ranks > 1 else []
    last = results[-1]
    threads = "1 thread" if last["threads"] == 1 else f"{last['threads']} threads"
    lines.append(
        f"Medians of {last['repeats']} rounds in which all take turns, of the slowest rank; {threads} a rank;"
        f" {last['cpu']}, {last['mpi_library']}."
    )
    return "\n".join(lines)


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
