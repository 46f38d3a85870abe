"""Throughput of whole training runs by number of ranks, and whether they trained the same bits.

    python -m benchmarks.ranks --ranks 1,2 --repeats 5 --write README.md -- --train.epochs 10

Runs are interleaved, so that drift of a shared machine does not look like scaling. Every run is a
`python -m launch run`; figures are those of its `end` record. The results go to a JSON file beside the
table; `--write` puts the table between the markers of a Markdown file, which is never edited by hand.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.report import RESULTS, save_results, spread, write_between_markers
from benchmarks.training import Run, train


def measure(rank_counts: list[int], repeats: int, arguments: list[str]) -> list[Run]:
    """All runs, one repeat of every rank count after the other; a first round warms the cache and is dropped."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        return [
            run
            for repeat in range(repeats + 1)
            for ranks in rank_counts
            for run in [train(ranks, repeat, arguments, path)]
            if repeat > 0
        ]


def table(runs: list[Run], arguments: list[str]) -> str:
    """The results as Markdown."""
    start = runs[0].start
    cores = len(start["affinity"][0])
    one = [run for run in runs if run.ranks == min(r.ranks for r in runs)]
    base = statistics.median(run.end["samples_per_s"] for run in one)
    reference = runs[0].end["parameters_sha256"]
    lines = [
        "| ranks | samples/s: median (min to max) | speed-up | final parameters |",
        "|---|---|---|---|",
    ]
    for ranks in sorted({run.ranks for run in runs}):
        mine = [run.end for run in runs if run.ranks == ranks]
        rates = [end["samples_per_s"] for end in mine]
        median = statistics.median(rates)
        same = all(end["parameters_sha256"] == reference for end in mine)
        bits = f"`{reference[:12]}`" if same else "**differ**"
        flag = " (more ranks than cores)" if ranks > cores else ""
        lines.append(f"| {ranks}{flag} | {spread(rates)} | {median / base:.2f} | {bits} |")
    what = f"`{start['model']}` on `{start['data']}`" + (f", `{' '.join(arguments)}`" if arguments else "")
    repeats = max(run.repeat for run in runs)
    lines += [
        "",
        f"{what}; one thread a rank, {repeats} interleaved runs each, on {cores} cores of {start['cpu']}"
        f" ({start['mpi_library']}, Numba {start['versions']['numba']}).",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", default="1,2", help="rank counts, separated by commas (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each (default: %(default)s)")
    parser.add_argument("--name", default="ranks", help="name of the results file (default: %(default)s)")
    parser.add_argument("--write", type=Path, help="Markdown file to put the table into")
    parser.add_argument("trainer", nargs="*", help="arguments of ddp.train, after --")
    options = parser.parse_args()
    runs = measure([int(count) for count in options.ranks.split(",")], options.repeats, options.trainer)
    records = [{"ranks": run.ranks, "repeat": run.repeat, "start": run.start, "end": run.end} for run in runs]
    save_results(RESULTS / f"{options.name}.json", {"arguments": options.trainer, "runs": records})
    rendered = table(runs, options.trainer)
    print(rendered)
    if options.write:
        write_between_markers(options.write, "benchmarks.ranks", rendered)


if __name__ == "__main__":
    main()
