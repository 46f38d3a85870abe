"""Whole training steps side by side: this trainer, PyTorch and JAX.

    pip install -e '.[peers]'
    python -m benchmarks.peers --repeats 7 --write docs/performance.md
    python -m benchmarks.peers --render --summary --write README.md  # of the last results, the fastest of the others

A step gathers a random batch of 64 float32 samples, computes the loss and all gradients, and updates by SGD
with momentum. Every contestant lives in processes of its own, which sleep while another is measured: A B C
A B C, each for the same time. So drift of a shared machine meets all of them, and ratios are taken between
neighbours. One core: the process may run on one core only. What is not installed is reported as missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants.task import Task
from benchmarks.networks import NETWORKS, Network
from benchmarks.report import add_report_options, report, spread
from benchmarks.start import request, start_ranks
from launch.hosts import this_host
from launch.placement import Available

OURS = "this trainer"
TWO_RANKS_NAME = "2 ranks of 1 thread"
CAPTION = (
    "Whole training steps of {batch} samples, float32, SGD with momentum; medians of alternating runs on {cpu}."
    " Fraction of the FMA peak, by the operations of the direct method; all contestants and their spread are in"
    " [performance](docs/performance.md)."
)
START_TIMEOUT_S = 300


@dataclass(frozen=True)
class Entry:
    """A contestant as the table names it."""

    name: str
    module: str
    variant: str = ""
    images_only: bool = False
    """Whether it differs from another for networks of images only."""


@dataclass(frozen=True)
class Setting:
    """How many processes and cores, and who takes part."""

    name: str
    ranks: int
    threads: int
    cores: tuple[int, ...]
    entries: tuple[Entry, ...]


OUR_VARIANTS = (
    Entry(OURS, "ddp_trainer"),
    Entry(f"{OURS}, direct convolutions", "ddp_trainer", "direct", images_only=True),
    Entry(f"{OURS}, float32 sums", "ddp_trainer", "float32 sums"),
)
ONE_PROCESS = (
    *OUR_VARIANTS,
    Entry("PyTorch, eager", "pytorch", "eager"),
    Entry("PyTorch, eager, channels-last", "pytorch", "channels-last", images_only=True),
    Entry("PyTorch, torch.compile", "pytorch", "compile"),
    Entry("JAX, jit", "jax_jit"),
)
TWO_RANKS = (
    *OUR_VARIANTS,
    Entry("PyTorch DDP, gloo", "pytorch", "eager"),
    Entry("PyTorch DDP, gloo, channels-last", "pytorch", "channels-last", images_only=True),
)


def settings() -> list[Setting]:
    """Those of this machine: one core, all cores, and two ranks of one thread each."""
    cores = tuple(sorted(os.sched_getaffinity(0)))
    one = Setting("1 core", 1, 1, cores[-1:], ONE_PROCESS)
    every = Setting(f"{len(cores)} cores, 1 process", 1, len(cores), cores, ONE_PROCESS)
    two = Setting(TWO_RANKS_NAME, 2, 1, cores, TWO_RANKS)
    return [one, every, two] if len(cores) > 1 else [one, two]


class Contestant:
    """The processes of one contestant, from this side."""

    def __init__(self, entry: Entry, setting: Setting, network: Network, batch: int) -> None:
        """Start them, and wait until they are ready to train; `problem` says why they are not."""
        self.name, self.ranks, self.problem = entry.name, setting.ranks, ""
        self.folder = tempfile.TemporaryDirectory(prefix="ddp-peers-")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(Path(self.folder.name) / "parent"))
            server.listen()
            server.settimeout(1)
            tasks = [
                Task(
                    entry.module, entry.variant, network, batch, setting.ranks, rank, setting.threads,
                    setting.cores, self.folder.name,
                )
                for rank in range(setting.ranks)
            ]  # fmt: skip
            self.processes = start_processes(tasks, Path(self.folder.name))
            self.streams = []
            with contextlib.suppress(ChildProcessError):
                self.streams = [self._accept(server) for _ in range(setting.ranks)]
        answers = [self._receive(stream) for stream in self.streams] or [{"problem": "failed: did not start"}]
        self.problem = next((answer["problem"] for answer in answers if "problem" in answer), "")
        self.facts = answers[0]

    def measure(self, steps: int) -> dict[str, Any]:
        """Seconds of the slowest rank for so many steps, and the peak of all ranks where they know it."""
        for stream in self.streams:
            stream.write(f"{steps}\n")
            stream.flush()
        answers = [self._receive(stream) for stream in self.streams]
        peaks = [answer["peak_gflops"] for answer in answers if "peak_gflops" in answer]
        return {"seconds": max(answer["seconds"] for answer in answers), "peak_gflops": sum(peaks) or None}

    def close(self) -> None:
        """Hang up, and wait for the processes to end."""
        for stream in self.streams:
            stream.close()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.folder.cleanup()

    def _accept(self, server: socket.socket) -> Any:
        for _ in range(START_TIMEOUT_S):
            try:
                connection, _ = server.accept()
            except TimeoutError:
                if any(process.poll() is not None for process in self.processes):
                    raise ChildProcessError from None
                continue
            connection.settimeout(START_TIMEOUT_S)
            stream = connection.makefile("rw")
            connection.close()  # the stream keeps the socket
            return stream
        raise ChildProcessError

    @staticmethod
    def _receive(stream: Any) -> dict[str, Any]:
        line = stream.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"problem": "failed: its process ended"}
        return answer


def start_processes(tasks: Sequence[Task], folder: Path) -> list[subprocess.Popen[str]]:
    """The ranks of a contestant: by mpirun for this trainer, one by one for PyTorch."""
    program = [sys.executable, "-m", "benchmarks.contestants"]
    if len(tasks) == 1 or tasks[0].contestant != "ddp_trainer":
        commands = [[*program, task.to_json()] for task in tasks]
        return [subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True) for command in commands]
    cores = Available(this_host(), tuple(tasks[0].cores))
    return [start_ranks(request(len(tasks), tasks[0].threads), [*program, tasks[0].to_json()], folder, [cores])]


@contextlib.contextmanager
def contestants(setting: Setting, network: Network, batch: int) -> Iterator[list[Contestant]]:
    """All that take part in a setting, ready to train; ended afterwards."""
    started: list[Contestant] = []
    try:
        for entry in setting.entries:
            if not entry.images_only or "hidden" not in network.model:
                started.append(Contestant(entry, setting, network, batch))
        yield started
    finally:
        for contestant in started:
            contestant.close()


def measure(setting: Setting, network: Network, batch: int, repeats: int, seconds: float) -> dict[str, Any]:
    """One table's rows of one network: `repeats` rounds, in each of which everyone trains for about `seconds`."""
    with contextlib.ExitStack() as stack:
        everyone = stack.enter_context(contestants(setting, network, batch))
        ready = [contestant for contestant in everyone if not contestant.problem]
        steps = {c.name: max(1, round(seconds / (c.measure(3)["seconds"] / 3))) for c in ready}
        steps = {c.name: max(1, round(seconds * steps[c.name] / c.measure(steps[c.name])["seconds"])) for c in ready}
        rounds = [{c.name: c.measure(steps[c.name]) for c in ready} for _ in range(repeats)]
    facts = next((c.facts for c in everyone if c.name == OURS and not c.problem), {})
    rates = {c.name: [steps[c.name] * batch / r[c.name]["seconds"] for r in rounds] for c in ready}
    return {
        "setting": setting.name,
        "network": network.name,
        "batch": batch,
        "steps": steps,
        "samples_per_s": rates,
        "peak_gflops": [r[OURS]["peak_gflops"] for r in rounds] if facts else [],
        "flops_per_sample": facts.get("flops_per_sample"),
        "problems": {c.name: c.problem for c in everyone if c.problem},
        "cpu": facts.get("cpu"),
        "mpi_library": facts.get("mpi_library"),
        "versions": {k: v for c in ready for k, v in c.facts.get("versions", {}).items()},
    }


def rows(result: dict[str, Any]) -> list[str]:
    """The table's rows of one measurement."""
    ours, peaks, lines = result["samples_per_s"].get(OURS), result["peak_gflops"], []
    for name, rates in result["samples_per_s"].items():
        ratio = "" if ours is None or name == OURS else spread([a / b for a, b in zip(ours, rates, strict=True)], 2)
        flops = (result["flops_per_sample"] or 0) / 1e9
        share = f"{statistics.median(r * flops / p for r, p in zip(rates, peaks, strict=True)):.2f}" if peaks else ""
        lines.append(f"| {result['network']} | {name} | {spread(rates)} | {share} | {ratio} |")
    lines += [f"| {result['network']} | {name} | {problem} | | |" for name, problem in result["problems"].items()]
    return lines


def table(results: list[dict[str, Any]]) -> str:
    """All results as Markdown, a table a setting."""
    lines = []
    for setting in dict.fromkeys(result["setting"] for result in results):
        lines += [
            f"**{setting}**",
            "",
            f"| network | contestant | samples/s: median (min to max) | fraction of peak | {OURS} against it |",
            "|---|---|---|---|---|",
            *(row for result in results if result["setting"] == setting for row in rows(result)),
            "",
        ]
    first = results[0]
    versions = {name: version for result in results for name, version in result["versions"].items()}
    shown = ", ".join(f"{name} {versions[name]}" for name in ("numba", "torch", "jax") if name in versions)
    repeats = max(len(rates) for result in results for rates in result["samples_per_s"].values())
    lines.append(
        f"Training steps of {first['batch']} samples, float32, SGD with momentum; {repeats} rounds, in which the"
        f" contestants take turns; ratios round by round. Peak: of the FMA tile, on the same cores in the same round."
        f" {first['cpu']}, {first['mpi_library']}, {shown}."
    )
    return "\n".join(lines)


def summary(results: list[dict[str, Any]]) -> str:
    """A row a network, as Markdown: this trainer against the fastest of the others."""
    one, two = ({r["network"]: r for r in results if r["setting"] == name} for name in ("1 core", TWO_RANKS_NAME))
    lines = [
        "| network | 1 core, samples/s | fraction of peak | against the fastest of PyTorch and JAX |"
        " 2 ranks, samples/s | against PyTorch DDP |",
        "|---|---|---|---|---|---|",
    ]
    for network, result in one.items():
        ours, peaks, flops = result["samples_per_s"][OURS], result["peak_gflops"], result["flops_per_sample"] / 1e9
        share = statistics.median(rate * flops / peak for rate, peak in zip(ours, peaks, strict=True))
        cells = [f"{statistics.median(ours):,.0f}", f"{share:.2f}", against_fastest(result)]
        if network in two:
            cells += [f"{statistics.median(two[network]['samples_per_s'][OURS]):,.0f}", against_fastest(two[network])]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    first = results[0]
    return "\n".join([*lines, "", f"{CAPTION.format(batch=first['batch'], cpu=first['cpu'])}"])


def against_fastest(result: dict[str, Any]) -> str:
    """The median ratio to the fastest contestant that is not this trainer, and its name."""
    rates = result["samples_per_s"]
    others = {name: statistics.median(values) for name, values in rates.items() if not name.startswith(OURS)}
    if not others:
        return "none ran"
    name = max(others, key=lambda other: others[other])
    ratio = statistics.median(a / b for a, b in zip(rates[OURS], rates[name], strict=True))
    return f"{ratio:.2f} ({name})"


def main() -> None:
    """Measure, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join(network.name for network in NETWORKS)
    parser.add_argument("--networks", default=names, help="separated by commas (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="samples of a step (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a contestant's turn (default: %(default)s)")
    add_report_options(parser, "peers")
    parser.add_argument("--summary", action="store_true", help="a row a network, against the fastest other")
    options = parser.parse_args()

    def measure_all() -> list[dict[str, Any]]:
        chosen = [network for network in NETWORKS if network.name in options.networks.split(",")]
        cases = [(setting, network) for setting in settings() for network in chosen]
        return [measure(*case, options.batch, options.repeats, options.seconds) for case in cases]

    name, render = ("benchmarks.peers.summary", summary) if options.summary else ("benchmarks.peers", table)
    report(options, name, measure_all, render)


if __name__ == "__main__":
    main()
