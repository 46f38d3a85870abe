"""The benchmark of the reducers runs, at small sizes, and its tables say what was measured."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import allreduce
from benchmarks.allreduce_tables import CONTESTANTS, KINDS, Times, duration, label, render

ROOT = Path(__file__).parents[2]


def planted(size: int, factor: float) -> dict[str, Any]:
    """Contestant number k takes (k + 1) us, and a ns for each byte; the second round twice that."""
    names = [
        ("message", ""),
        ("addition", ""),
        *((name, kind) for name in (*CONTESTANTS, "dummy") for kind in KINDS),
    ]
    return {
        "bytes": size,
        "fresh_bytes": 2_000_000,
        "tensors": [size],
        "buckets": [size],
        "contestants": [
            {"name": name, "sums": kind, "column": column, "seconds": [t * factor, 2 * t * factor, 4 * t * factor]}
            for k, (name, kind) in enumerate(names)
            for column in ("reduce", "reduce_and_update")
            for t in [(k + 1) * 1e-6 + size * 1e-9]
        ],
    }


RESULT = {
    "ranks": 2, "nodes": 1, "report_bytes": 320, "piece_bytes": 4 << 20, "threads": 1, "repeats": 3,
    "cpu": "A CPU", "mpi_library": "An MPI",
    "sizes": [planted(size, 0.5) for size in (4, 64, 1 << 20)],
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [("4", 4), ("64KiB", 65536), ("36 MB", 36_000_000), ("1mib", 1 << 20)])
def test_sizes_are_read(text: str, expected: int) -> None:
    assert allreduce.num_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "3", "0KiB", "1.5MiB", "-4", "4 furlongs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="give bytes, 4 at least"):
        allreduce.num_bytes(text)


@pytest.mark.parametrize("text", ["", "0", "1,", "two", "1,-2"])
def test_what_is_no_number_of_ranks_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="give numbers of ranks"):
        allreduce.counts(text)


def test_buffers_grow_by_four_and_that_of_nine_million_parameters_is_among_them() -> None:
    assert allreduce.sizes(64) == [4, 16, 64]
    assert allreduce.sizes(256 << 20)[-3:] == [36_000_000, 64 << 20, 256 << 20]
    assert len(allreduce.sizes(256 << 20)) == 15


def test_labels() -> None:
    assert [label(size) for size in (4, 1024, 4 << 20, 36_000_000)] == ["4 B", "1 KiB", "4 MiB", "36 MB"]
    times = (1.234e-7, 1.234e-6, 12.34e-6, 123.4e-6, 1.234e-3, 0.1234)
    assert [duration(t) for t in times] == ["0.12 µs", "1.23 µs", "12.3 µs", "123 µs", "1.23 ms", "123 ms"]


def test_the_fit_of_a_contestant_is_that_of_its_medians() -> None:
    line = Times(RESULT).line("Allreduce", "float32")
    assert (line.latency, line.per_byte) == pytest.approx((3e-6, 1e-9))


def test_tables_of_planted_times() -> None:
    lines = render([RESULT]).splitlines()
    first = lines.index("**2 ranks: sum, float32**")
    assert lines[first + 2] == f"| buffer | {' | '.join(CONTESTANTS)} | fresh memory of Allreduce |"
    # The third contestant: 3 us, and quartiles at 0.75 and 1.5 of the median.
    assert lines[first + 4].startswith("| 4 B | 3.00 µs ±38% |")
    assert lines[first + 4].endswith(" | 2.0 MB |")
    fitted = next(line for line in lines if line.startswith("| Allreduce | int32 |"))
    assert fitted.startswith("| Allreduce | int32 | 4.0 | 1.00 | 0% |")
    seconds = 4e-6 + (1 << 20) * 1e-9
    assert fitted.endswith(f" {(1 << 20) / seconds / 1e9:.2f} |")
    ratio = next(line for line in lines if line.startswith("| 1 MiB | float32 | 1.07 ms"))  # dummy: 17 us
    assert ratio.endswith(" 1.01 (1.01 to 1.01) |")
    assert any(line.startswith("| 1 MiB | sum and update |") for line in lines)
    assert lines[-1].endswith("1 thread a rank; A CPU, An MPI.")


def test_where_shared_memory_is_short_the_tables_have_a_gap() -> None:
    short = {**RESULT, "sizes": [dict(each) for each in RESULT["sizes"]]}
    short["sizes"][2]["contestants"] = [c for c in short["sizes"][2]["contestants"] if c["name"] != "node_shared"]
    rows = [line.split(" | ") for line in render([short]).splitlines() if line.startswith("| 1 MiB | int32")]
    assert [row[3 + CONTESTANTS.index("node_shared")] for row in rows] == ["-"]
    none = {**RESULT, "sizes": [dict(each) for each in RESULT["sizes"]]}
    for each in none["sizes"]:
        each["contestants"] = [c for c in each["contestants"] if c["name"] != "node_shared"]
    assert not any(line.startswith("| node_shared") for line in render([none]).splitlines())
    assert rows[0][-1] == "- |"


@pytest.mark.timeout(200)
def test_two_ranks_measure_everything_at_small_sizes(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "allreduce.json"
    page.write_text("<!-- benchmarks.allreduce: begin -->\n<!-- benchmarks.allreduce: end -->\n")
    options = ["--ranks", "2", "--repeats", "2", "--seconds", "0.001", "--largest", "64KiB", "--limit", "150"]
    command = [sys.executable, "-m", "benchmarks.allreduce", *options, "--results", str(results), "--write", str(page)]
    subprocess.run(command, cwd=ROOT, timeout=180, check=True, stdout=subprocess.DEVNULL)
    (result,) = json.loads(results.read_text())
    assert result["ranks"] == 2
    assert [each["bytes"] for each in result["sizes"]] == allreduce.sizes(64 << 10)
    for each in result["sizes"]:
        names = {one["name"] for one in each["contestants"] if one["sums"] != "int32"}
        assert names - {"node_shared"} == {*CONTESTANTS, "message", "addition", "dummy"} - {"node_shared"}
        assert all(len(one["seconds"]) == 2 and min(one["seconds"]) > 0 for one in each["contestants"])
        assert sum(each["tensors"]) == sum(each["buckets"]) == each["bytes"]
    assert page.read_text().count("| 64 KiB |") >= 3
