"""The tables of `benchmarks.allreduce`, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.report import quartiles
from launch.scaling import cost_model
from launch.scaling.cost_model import Job, Line, Machine
from launch.wording import count

CONTESTANTS = (*cost_model.REDUCE, "flat, bf16")
KINDS = ("float32", "int32")
LONG = 1 << 20
"""Bytes from which on the update is worth a table: below, it takes no time."""
BUS_SIZES = (64 << 10, 1 << 20, 36_000_000)
"""At which the bus bandwidth is shown, besides the largest."""
MODEL_SIZES = (4, 64 << 10, 1 << 20, 36_000_000)
"""At which the model's prediction is shown beside the measurement, besides the largest."""
COLUMNS = {"reduce": "sum", "reduce_and_update": "sum and update"}
PREDICTIONS = {"reduce": cost_model.reduce, "reduce_and_update": cost_model.reduce_and_update}
MISSING = "-"
"""Where a node lacks the shared memory that `node_shared` needs, or where sums must be of float32."""


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

    def measured(self, name: str, kind: str, sizes: Sequence[int] | None = None) -> list[int]:
        """The sizes, of all or of some, at which a contestant took part."""
        return [
            size for size in (self.sizes if sizes is None else sizes) if (size, name, kind, "reduce") in self.seconds
        ]

    def names(self, kind: str, among: Iterable[str] = CONTESTANTS) -> list[str]:
        """The contestants that took part with one kind of sums."""
        return [name for name in among if self.measured(name, kind)]

    def quartiles(self, size: int, name: str, kind: str, column: str = "reduce") -> tuple[float, float, float]:
        """Of all rounds: first quartile, median, third quartile."""
        return quartiles(self.seconds[size, name, kind, column])

    def median(self, size: int, name: str, kind: str, column: str = "reduce") -> float:
        """Of all rounds."""
        return self.quartiles(size, name, kind, column)[1]

    def line(self, name: str, kind: str, column: str = "reduce") -> Line:
        """The fitted latency and inverse bandwidth."""
        sizes = self.measured(name, kind)
        return cost_model.fit(sizes, [self.median(size, name, kind, column) for size in sizes])

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
        of_all = self.result["piece_bytes"], self.result["report_bytes"]
        return Job(self.ranks, self.nodes, size, each["tensors"], each["buckets"], *of_all)


def title(times: Times) -> str:
    """How many ranks there are, and where."""
    ranks = count(times.ranks, "rank")
    return ranks if times.nodes == 1 else f"{ranks} on {times.nodes} nodes"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"**{title}**", "", *(f"| {' | '.join(cells)} |" for cells in lines), ""]


def latency_table(times: Times, kind: str) -> list[str]:
    """Median time of a sum, and half of what lies between the quartiles, by size and contestant.

    The last column: memory that the library touches for the first time in each Allreduce.
    """

    def cell(size: int, name: str) -> str:
        if not times.measured(name, kind, [size]):
            return MISSING
        first, median, third = times.quartiles(size, name, kind)
        return f"{duration(median)} ±{(third - first) / 2 / median:.0%}"

    names = times.names(kind)
    rows = []
    for each in times.result["sizes"]:
        size, fresh = each["bytes"], f"{each['fresh_bytes'] / 1e6:.1f} MB"
        rows.append([label(size), *(cell(size, name) for name in names), fresh])
    return _table(f"{title(times)}: sum, {kind}", ["buffer", *names, "fresh memory of Allreduce"], rows)


def fit_table(times: Times) -> list[str]:
    """Fitted latency and bandwidth, what the line leaves unexplained, and the bus bandwidth at some sizes."""
    bus_sizes = [size for size in times.sizes if size in BUS_SIZES or size == times.sizes[-1]]
    rows = []
    sums = [(name, kind) for name in CONTESTANTS for kind in KINDS if times.measured(name, kind)]
    contestants = [("message", ""), ("addition", ""), *sums]
    for name, kind in contestants:
        line = times.line(name, kind)
        misses = [abs(line(size) / times.median(size, name, kind) - 1) for size in times.measured(name, kind)]
        bus = {
            size: cost_model.bus_bandwidth(times.ranks, size, times.median(size, name, kind)) / 1e9
            for size in times.measured(name, kind, bus_sizes)
            if kind
        }
        bandwidth = f"{1e-9 / line.per_byte:.2f}" if line.per_byte else ""
        cells = [f"{bus[size]:.2f}" if size in bus else "" for size in bus_sizes]
        rows.append([name, kind, f"{line.latency * 1e6:.1f}", bandwidth, f"{np.median(misses):.0%}", *cells])
    head = ["", "sums", "alpha, µs", "1/beta, GB/s", "off the line", *(f"bus at {label(size)}" for size in bus_sizes)]
    return _table(f"{title(times)}: latency and bandwidth, bus bandwidth in GB/s", head, rows)


def update_table(times: Times) -> list[str]:
    """Sum and update of long buffers, and the ratio to what everyone would write; with one rank, of some of them."""
    column, rows = "reduce_and_update", []
    chosen = times.sizes if times.ranks > 1 else [*BUS_SIZES, times.sizes[-1]]
    for size in (size for size in times.sizes if size >= LONG and size in chosen):
        for kind in KINDS:
            present = [name for name in CONTESTANTS if times.measured(name, kind, [size])]
            cells = [
                duration(times.median(size, name, kind, column)) if name in present else MISSING for name in CONTESTANTS
            ]
            ratio = MISSING
            if "node_shared" in present:
                pairs = [times.seconds[size, name, kind, column] for name in ("node_shared", "Allreduce")]
                first, median, third = quartiles([a / b for a, b in zip(*pairs, strict=True)])
                ratio = f"{median:.2f} ({first:.2f} to {third:.2f})"
            rows.append([label(size), kind, duration(times.median(size, "dummy", kind, column)), *cells, ratio])
    head = ["buffer", "sums", "update alone", *CONTESTANTS, "node_shared against Allreduce: median (quartiles)"]
    return _table(f"{title(times)}: sum and update", head, rows) if rows else []


def model_table(times: Times, kind: str) -> list[str]:
    """Measured, and predicted from messages, additions and the update alone."""
    rows, names = [], times.names(kind, cost_model.REDUCE)
    for size in (size for size in times.sizes if size in MODEL_SIZES or size == times.sizes[-1]):
        machine, job = times.machine(size, kind), times.job(size)
        for column, predict in PREDICTIONS.items():
            cells = [
                f"{duration(times.median(size, name, kind, column))} ({duration(predict(name, machine, job))})"
                if times.measured(name, kind, [size])
                else MISSING
                for name in names
            ]
            rows.append([label(size), COLUMNS[column], *cells])
    return _table(f"{title(times)}: measured (predicted), {kind}", ["buffer", "", *names], rows)


def render(results: list[dict[str, Any]]) -> str:
    """All tables; one rank has nobody to sum with, so its table is that of the update."""
    lines = []
    for times in map(Times, results):
        if times.ranks > 1:
            lines += [*latency_table(times, "float32"), *latency_table(times, "int32"), *fit_table(times)]
        lines += update_table(times)
        lines += model_table(times, "int32") if times.ranks > 1 else []
    last = results[-1]
    lines.append(
        f"Medians of {count(last['repeats'], 'round')} in which all take turns, of the slowest rank; ±: half of what"
        f" lies between the quartiles; {count(last['threads'], 'thread')} a rank; {last['cpu']}, {last['mpi_library']}."
    )
    return "\n".join(lines)
