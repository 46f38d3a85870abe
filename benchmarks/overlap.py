"""What communication adds to the steps of whole networks, rung by rung, and weak scaling.

    python -m benchmarks.overlap --repeats 5 --write docs/communication.md
    python -m benchmarks.overlap --networks mnist_cnn --reducers flat,bucketed,dummy --hostfile hosts --batch 128
    python -m benchmarks.overlap --networks mlp -- --comm.exact false

Every figure is of whole runs of `python -m launch run` on generated samples; the rungs take turns, run by run, so that
drift of a shared machine meets all of them. A run's figure is the median of its `step` records but the first. `dummy`
never communicates: a rung's step divided by its step, round by round, is what communication costs in the end.

Weak scaling: P ranks of one job against P jobs of one rank, each with the samples of one rank, at the same time: then
what they share (memory, caches, power) slows down both. With the rung that was fastest. Efficiency: the samples a
second of the one job divided by the sum of those of the others.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks import NETWORKS, Network
from benchmarks.report import add_report_options, quartiles, report, spread
from benchmarks.training import Run, Training, train
from launch.hosts import Host, read_hostfile
from launch.wording import count

REDUCERS = ("naive", "flat", "bucketed", "node_shared", "sharded", "dummy")
PHASES = {
    "data_ms": "data",
    "forward_ms": "forward",
    "backward_ms": "backward",
    "compute_ms": "compute",
    "update_ms": "update",
    "comm_exposed_ms": "exposed",
    "wait_ms": "waiting",
}
"""Fields of a `step` record, and what the table calls them."""
FEWEST_STEPS = 15
RECORDS = 20
"""`step` records of a long run."""
RECORD_STEPS = 5
"""Steps of a record, at least: to write it takes time, too."""
SHARDS_PER_RANK = 4
"""The same for one rank and for more: a leaf gradient costs the same in all."""


def arguments(network: Network, reducer: str, ranks: int, batch: int, steps: int) -> list[str]:
    """Those of ddp.train, for `batch` samples a rank."""
    model = {f"model.{name}": value for name, value in network.model.items()}
    options = model | {
        "data.name": "synthetic",
        "data.shape": network.shape,
        "data.classes": network.classes,
        "data.samples": max(1024, 4 * ranks * batch),
        "batch.size": ranks * batch,
        "batch.shards": min(ranks * batch, SHARDS_PER_RANK * ranks),
        "optimizer.lr": 0.01,
        "train.epochs": 10**6,
        "train.steps": steps,
        "train.evaluate_every": 0,
        "checkpoint.every_epochs": 0,
        "comm.reducer": reducer,
        "output.log_every": max(RECORD_STEPS, steps // (RECORDS + 1)),
    }
    return [word for name, value in options.items() for word in (f"--{name}", _text(value))]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def summary(run: Run) -> dict[str, float]:
    """Of each time that the `step` records have, the median, without the first record, which has the start in it."""
    counted = run.steps[1:] or run.steps
    names = ["step_ms", *(name for name in PHASES if all(name in record for record in counted))]
    return {name: statistics.median(record[name] for record in counted) for name in names}


class Place:
    """Where the ranks run."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Take the command line's."""
        self.ranks, self.threads = options.ranks, ["--threads", str(options.threads)]
        self.hostfile = options.hostfile

    def of_job(self) -> list[str]:
        """Options of `launch run` for all ranks in one job."""
        return [*self.threads, *(["--hostfile", str(self.hostfile)] if self.hostfile else [])]

    def of_rank(self, rank: int) -> list[str]:
        """The same for a job of one rank, on the host that the rank would be on."""
        if self.hostfile is None:
            return self.threads
        hosts = read_hostfile(self.hostfile)
        return [*self.threads, "-H", str(Host(hosts[rank * len(hosts) // self.ranks].name, 1))]


class Bench:
    """The measurements of one network."""

    def __init__(self, network: Network, options: argparse.Namespace, folder: Path) -> None:
        """Find out how many steps take the wanted time; this compiles the kernels, too."""
        self.network, self.options, self.folder, self.place = network, options, folder, Place(options)
        self.steps = FEWEST_STEPS if options.steps == 0 else options.steps
        self.trial = self.run("flat", -1)
        if options.steps == 0:
            milliseconds = summary(self.trial)["step_ms"]
            self.steps = max(FEWEST_STEPS, round(options.seconds * 1e3 / milliseconds))

    def _arguments(self, reducer: str, ranks: int) -> list[str]:
        return [*arguments(self.network, reducer, ranks, self.options.batch, self.steps), *self.options.trainer]

    def run(self, reducer: str, repeat: int) -> Run:
        """All ranks in one job."""
        _say(f"{self.network.name}: {reducer}, {self.place.ranks} ranks, {self.steps} steps")
        return train(
            self.place.ranks, repeat, self._arguments(reducer, self.place.ranks), self.folder, self.place.of_job()
        )

    def run_apart(self, reducer: str, repeat: int) -> list[Run]:
        """A job for each rank, all at the same time."""
        _say(f"{self.network.name}: {reducer}, {self.place.ranks} jobs of one rank")
        jobs = [
            Training(1, repeat, self._arguments(reducer, 1), self.folder, self.place.of_rank(rank))
            for rank in range(self.place.ranks)
        ]
        return [job.finish() for job in jobs]

    def measure(self) -> dict[str, Any]:
        """All rungs in turn, then weak scaling with the fastest."""
        repeats, names = self.options.repeats, self.options.reducers
        rounds = [{name: summary(self.run(name, repeat)) for name in names} for repeat in range(repeats)]
        rungs = {name: [each[name] for each in rounds] for name in names}
        best = fastest(rungs)
        weak = list(self.weak_rounds(best)) if self.place.ranks > 1 and best else []
        start = self.trial.start
        return {
            "network": self.network.name,
            "ranks": self.place.ranks,
            "nodes": start.get("num_nodes", 1),
            "batch": self.options.batch,
            "steps": self.steps,
            "parameters": start["parameters"],
            "trainer": self.options.trainer,
            "cpu": start["cpu"],
            "mpi_library": start["mpi_library"],
            "rungs": rungs,
            "best": best,
            "weak": weak,
        }

    def weak_rounds(self, reducer: str) -> Iterator[dict[str, Any]]:
        """Samples a second of the one job, and of each of the others."""
        for repeat in range(self.options.repeats):
            together = summary(self.run(reducer, repeat))["step_ms"]
            apart = [summary(run)["step_ms"] for run in self.run_apart(reducer, repeat)]
            batch = self.options.batch
            yield {
                "together": self.place.ranks * batch / together * 1e3,
                "apart": [batch / milliseconds * 1e3 for milliseconds in apart],
            }


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def fastest(rungs: dict[str, list[dict[str, float]]]) -> str:
    """The rung whose steps are shortest, of those that communicate; empty if there is none."""
    medians = {
        name: statistics.median(each["step_ms"] for each in rounds) for name, rounds in rungs.items() if name != "dummy"
    }
    return min(medians, key=lambda name: medians[name], default="")


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A row a rung."""
    lines = []
    rungs: dict[str, list[dict[str, float]]] = result["rungs"]
    for name, rounds in rungs.items():
        medians = {
            field: statistics.median(each[field] for each in rounds) if field in rounds[0] else None for field in PHASES
        }
        steps = [each["step_ms"] for each in rounds]
        share = [each["comm_exposed_ms"] / each["step_ms"] for each in rounds]
        ratio = ""
        if "dummy" in rungs and name != "dummy":
            pairs = zip(steps, (each["step_ms"] for each in rungs["dummy"]), strict=True)
            first, median, third = quartiles([a / b for a, b in pairs])
            ratio = f"{median:.3f} ({first:.3f} to {third:.3f})"
        cells = ["" if value is None else f"{value:.2f}" for value in medians.values()]
        lines.append([
            result["network"], name, spread(steps, 2), *cells, f"{statistics.median(share):.1%}", ratio,
        ])  # fmt: skip
    return lines


def rung_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Where the time of a step goes, by network and rung."""
    head = ["network", "reducer", "step: median (min to max)", *PHASES.values(), "exposed, of the step"]
    head.append("step against dummy: median (quartiles)")
    lines = [head, ["---"] * len(head), *(row for result in results for row in rows(result))]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def weak_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Efficiency by network."""
    lines = [
        "| network | reducer | samples/s of one job: median (min to max) | of as many jobs of one rank, together |"
        " efficiency: median (min to max) |",
        "|---|---|---|---|---|",
    ]
    for result in results:
        if result["weak"]:
            together = [each["together"] for each in result["weak"]]
            apart = [sum(each["apart"]) for each in result["weak"]]
            efficiency = [float(ratio) for ratio in np.divide(together, apart)]
            cells = [result["network"], result["best"], spread(together), spread(apart), spread(efficiency, 3)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def render(results: list[dict[str, Any]]) -> str:
    """All tables as Markdown."""
    first = results[0]
    nodes = "" if first["nodes"] == 1 else f" on {first['nodes']} nodes"
    extra = f", `{' '.join(first['trainer'])}`" if first["trainer"] else ""
    lines = [f"**{first['ranks']} ranks{nodes}: a step, ms**", "", *rung_table(results), ""]
    if any(result["weak"] for result in results):
        lines += [f"**{first['ranks']} ranks{nodes}: weak scaling**", "", *weak_table(results), ""]
    rounds = len(next(iter(first["rungs"].values())))
    lines.append(
        f"{first['batch']} samples a rank{extra}; means over the ranks; {count(rounds, 'round')} of alternating runs,"
        f" of {', '.join(str(result['steps']) for result in results)} steps; {first['cpu']}, {first['mpi_library']}."
    )
    return "\n".join(lines)


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    everyone = {network.name: network for network in NETWORKS}
    parser.add_argument("--networks", default=",".join(everyone), help="separated by commas (default: %(default)s)")
    parser.add_argument("--reducers", default=",".join(REDUCERS), help="separated by commas (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="of a job (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of a rank (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="samples of a step of each rank (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of training in a run (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=0, help="of a run, instead of seconds (default: %(default)s)")
    parser.add_argument("--hostfile", type=Path, help="hosts to run on, as for `launch run` (default: this one)")
    parser.add_argument("trainer", nargs="*", help="further arguments of ddp.train, after --")
    add_report_options(parser, "overlap")
    options = parser.parse_args()
    options.reducers = options.reducers.split(",")
    unknown = set(options.networks.split(",")) - set(everyone)
    if unknown:
        parser.error(f"--networks {','.join(sorted(unknown))}: give some of {','.join(everyone)}")

    def measure_all() -> list[dict[str, Any]]:
        # A run's first rank may be on another host: its directory must be on what all hosts share, as this one is.
        with tempfile.TemporaryDirectory(dir=Path.cwd() if options.hostfile else None) as folder:
            chosen = [everyone[name] for name in options.networks.split(",")]
            return [Bench(network, options, Path(folder)).measure() for network in chosen]

    report(options, "benchmarks.overlap", measure_all, render)


if __name__ == "__main__":
    main()
