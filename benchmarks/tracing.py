"""What `--output.trace true` adds to a step.

    python -m benchmarks.tracing --repeats 15 --write docs/tracing.md

Whole runs of `python -m launch run` on generated samples, with a trace and without one in turn; a run's figure is the
median of its `step` records but the first, the cost is taken pair by pair.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.networks import NETWORKS, Network
from benchmarks.overlap import arguments, summary
from benchmarks.report import add_report_options, quartiles, report
from benchmarks.training import Training
from launch.wording import count

REDUCERS = ("flat", "bucketed")
STEPS = {"mlp": 2000, "mnist_cnn": 200}
"""Of a run: about two seconds."""
RANKS, BATCH = 2, 64


def run(network: Network, reducer: str, is_traced: bool, folder: Path) -> tuple[float, int]:
    """Milliseconds of a step, and events of rank 0's trace in a step."""
    steps = STEPS[network.name]
    given = [*arguments(network, reducer, RANKS, BATCH, steps), "--output.trace", str(is_traced).lower()]
    training = Training(RANKS, 0, given, folder)
    milliseconds = summary(training.finish())["step_ms"]
    traces = sorted(training.path.glob("trace-rank*.json"))
    events = len(json.loads(traces[0].read_text())["traceEvents"]) if traces else 0
    return milliseconds, round(events / steps)


def measure(network: Network, reducer: str, repeats: int, folder: Path) -> dict[str, Any]:
    """Pairs of runs; a first one compiles the kernels."""
    run(network, reducer, True, folder)
    pairs = [[run(network, reducer, is_traced, folder) for is_traced in (False, True)] for _ in range(repeats)]
    return {
        "network": network.name,
        "reducer": reducer,
        "without_ms": [without for (without, _), _ in pairs],
        "with_ms": [traced for _, (traced, _) in pairs],
        "events": pairs[0][1][1],
    }


def render(results: list[dict[str, Any]]) -> str:
    """A row for each network and reducer."""
    lines = [
        "| network, batch | reducer | events a step | a step without, ms: median (quartiles) |"
        " tracing adds: median (quartiles) |",
        "|---|---|---|---|---|",
    ]
    for each in results:
        first, middle, third = quartiles(each["without_ms"])
        added = [traced / without - 1 for traced, without in zip(each["with_ms"], each["without_ms"], strict=True)]
        low, median, high = quartiles(added)
        lines.append(
            f"| {each['network']}, {BATCH} a rank | {each['reducer']} | {each['events']} |"
            f" {middle:.3f} ({first:.3f} to {third:.3f}) | {median:.1%} ({low:.1%} to {high:.1%}) |"
        )
    pairs = min(len(each["with_ms"]) for each in results)
    lines += ["", f"{count(RANKS, 'rank')} of 1 thread on one node; {count(pairs, 'pair')} of runs in turn."]
    return "\n".join(lines)


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="pairs of runs (default: %(default)s)")
    add_report_options(parser, "tracing")
    options = parser.parse_args()

    def measure_all() -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory() as folder:
            networks = [network for network in NETWORKS if network.name in STEPS]
            return [
                measure(network, reducer, options.repeats, Path(folder)) for network in networks for reducer in REDUCERS
            ]

    report(options, "benchmarks.tracing", measure_all, render)


if __name__ == "__main__":
    main()
