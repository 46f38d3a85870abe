"""Throughput of one rank by number of threads and by Numba's threading layer.

    pip install tbb                     # and its folder in LD_LIBRARY_PATH, else that layer is reported as missing
    python -m benchmarks.threads --write docs/performance.md -- --config configs/mnist_cnn.toml --train.steps 100

Runs are interleaved whole runs of `python -m launch run -n 1`, thus under mpirun, as those of a scaling study.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import tempfile
from pathlib import Path

from benchmarks.report import RESULTS, save_results, spread, write_between_markers
from benchmarks.training import Run, train

LAYERS = ("omp", "workqueue", "tbb")
Point = tuple[str, int]
"""A threading layer and a number of threads."""


def is_present(layer: str) -> bool:
    """Whether Numba finds the layer's library."""
    try:
        importlib.import_module(f"numba.np.ufunc.{layer.replace('tbb', 'tbbpool').replace('omp', 'omppool')}")
    except ImportError:
        return False
    return True


def measure(points: list[Point], repeats: int, arguments: list[str]) -> dict[Point, list[Run]]:
    """All points, one repeat of each after the other; a first round warms the cache and is dropped."""
    runs: dict[Point, list[Run]] = {point: [] for point in points}
    with tempfile.TemporaryDirectory() as directory:
        for repeat in range(repeats + 1):
            for layer, threads in points:
                placement = "--threads", str(threads), "--env", f"NUMBA_THREADING_LAYER={layer}"
                run = train(1, repeat, arguments, Path(directory), placement)
                if repeat > 0:
                    runs[layer, threads].append(run)
    return runs


def table(runs: dict[Point, list[Run]], arguments: list[str]) -> str:
    """The results as Markdown."""
    lines = ["| threading layer | threads | samples/s: median (min to max) | against 1 thread |", "|---|---|---|---|"]
    rates = {point: [run.end["samples_per_s"] for run in mine] for point, mine in runs.items()}
    medians = {point: statistics.median(values) for point, values in rates.items()}
    for layer, threads in runs:
        alone = medians.get((layer, 1))
        ratio = f"{medians[layer, threads] / alone:.2f}" if alone else ""
        lines.append(f"| {layer} | {threads} | {spread(rates[layer, threads])} | {ratio} |")
    missing = [layer for layer in LAYERS if layer not in {layer for layer, _ in runs}]
    lines += [f"| {layer} | missing: not installed | | |" for layer in missing]
    first = next(iter(runs.values()))[0].start
    bits = {run.end["parameters_sha256"] for mine in runs.values() for run in mine}
    lines += [
        "",
        f"`{first['model']}` on `{first['data']}`, `{' '.join(arguments)}`; one rank,"
        f" {len(next(iter(runs.values())))} interleaved runs of each, on {len(first['affinity'][0])} cores of"
        f" {first['cpu']} ({first['mpi_library']}, Numba {first['versions']['numba']})."
        f" Trained parameters: {'the same bits in all' if len(bits) == 1 else '**differ**'}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0))
    counts = ",".join(map(str, sorted({1, cores})))
    parser.add_argument("--threads", default=counts, help="numbers of them, separated by commas (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each (default: %(default)s)")
    parser.add_argument("--write", type=Path, help="Markdown file to put the table into")
    parser.add_argument("trainer", nargs="*", help="arguments of ddp.train, after --")
    options = parser.parse_args()
    layers = [layer for layer in LAYERS if is_present(layer)]
    points = [(layer, int(threads)) for layer in layers for threads in options.threads.split(",")]
    runs = measure(points, options.repeats, options.trainer)
    records = [
        {"layer": layer, "threads": threads, "start": run.start, "end": run.end}
        for (layer, threads), mine in runs.items()
        for run in mine
    ]
    save_results(RESULTS / "threads.json", {"arguments": options.trainer, "runs": records})
    rendered = table(runs, options.trainer)
    print(rendered)
    if options.write:
        write_between_markers(options.write, "benchmarks.threads", rendered)


if __name__ == "__main__":
    main()
