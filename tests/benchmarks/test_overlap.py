"""The benchmark of whole networks runs, and its tables say what was recorded."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import overlap
from benchmarks.networks import NETWORKS
from benchmarks.overlap import Place, arguments, fastest, render, summary
from benchmarks.training import Run
from ddp.command_line import parse

ROOT = Path(__file__).parents[2]


def record(step_ms: float, **times: float) -> dict[str, float]:
    return {"step_ms": step_ms, "comm_exposed_ms": 0.1 * step_ms, **times}


RESULT: dict[str, Any] = {
    "network": "mlp", "ranks": 2, "nodes": 1, "batch": 64, "steps": 30, "parameters": 10, "trainer": ["--seed", "1"],
    "cpu": "A CPU", "mpi_library": "An MPI", "best": "flat",
    "rungs": {
        "flat": [record(4, wait_ms=0.5), record(8, wait_ms=0.25), record(6, wait_ms=0.75)],
        "naive": [record(9), record(9), record(9)],
        "dummy": [record(2), record(5), record(3)],
    },
    "weak": [{"together": 180.0, "apart": [100.0, 100.0]}, {"together": 190.0, "apart": [90.0, 100.0]}],
}  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)
def test_the_trainer_understands_the_arguments(network: Any) -> None:
    config = parse(arguments(network, "bucketed", 2, 64, 420)).config
    assert (config.model.name, config.data.shape, config.data.name) == (
        network.model["name"],
        network.shape,
        "synthetic",
    )
    assert (config.batch.size, config.batch.shards, config.comm.reducer) == (128, 8, "bucketed")
    assert (config.train.steps, config.output.log_every) == (420, 20)
    assert all(getattr(config.model, name) == value for name, value in network.model.items())


def test_shards_of_a_rank_are_as_many_and_as_large_alone_as_together() -> None:
    one, two = (parse(arguments(NETWORKS[0], "flat", ranks, 64, 42)).config.batch for ranks in (1, 2))
    assert (two.size, two.shards) == (2 * one.size, 2 * one.shards)


def test_a_runs_figures_are_medians_without_the_first_record() -> None:
    steps = tuple(record(ms, wait_ms=ms / 2) for ms in (100.0, 4.0, 2.0, 3.0))
    assert summary(Run(2, 0, {}, {}, steps)) == pytest.approx({"step_ms": 3, "comm_exposed_ms": 0.3, "wait_ms": 1.5})
    assert summary(Run(2, 0, {}, {}, steps[:1]))["step_ms"] == 100


def test_the_fastest_rung_is_one_that_communicates() -> None:
    assert fastest(RESULT["rungs"]) == "flat"
    assert fastest({"dummy": RESULT["rungs"]["dummy"]}) == ""


def test_tables_of_planted_times() -> None:
    lines = render([RESULT]).splitlines()
    flat = next(line for line in lines if line.startswith("| mlp | flat"))
    # Ratios round by round: 4 / 2, 8 / 5, 6 / 3.
    cells = ["mlp", "flat", "6.00 (4.00 to 8.00)", *[""] * 5, "0.60", "0.50", "10.0%", "2.000 (1.800 to 2.000)"]
    assert flat == f"| {' | '.join(cells)} |"
    assert next(line for line in lines if line.startswith("| mlp | dummy")).endswith("| 10.0% |  |")
    assert "| mlp | flat | 185 (180 to 190) | 195 (190 to 200) | 0.950 (0.900 to 1.000) |" in lines
    assert lines[-1].startswith("64 samples a rank, `--seed 1`;")
    assert "weak" not in render([{**RESULT, "weak": []}])


def test_a_rank_by_itself_runs_on_the_host_where_it_is_in_the_job(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=2\nb slots=2\n")
    options = argparse.Namespace(ranks=4, threads=1, hostfile=hosts)
    assert Place(options).of_job() == ["--threads", "1", "--hostfile", str(hosts)]
    assert [Place(options).of_rank(rank)[-1] for rank in range(4)] == ["a:1", "a:1", "b:1", "b:1"]
    options.hostfile = None
    assert Place(options).of_job() == Place(options).of_rank(3) == ["--threads", "1"]


@pytest.mark.timeout(250)
def test_two_ranks_train_by_two_rungs(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "overlap.json"
    page.write_text("<!-- benchmarks.overlap: begin -->\n<!-- benchmarks.overlap: end -->\n")
    options = ["--networks", "mlp", "--reducers", "flat,dummy", "--batch", "8", "--steps", "12", "--repeats", "1"]
    command = [sys.executable, "-m", "benchmarks.overlap", *options, "--results", str(results), "--write", str(page)]
    subprocess.run(
        [*command, "--", "--comm.exact", "false"], cwd=ROOT, timeout=240, check=True, stdout=subprocess.DEVNULL
    )
    (result,) = json.loads(results.read_text())
    assert (result["network"], result["ranks"], result["steps"], result["best"]) == ("mlp", 2, 12, "flat")
    for name in ("flat", "dummy"):
        (times,) = result["rungs"][name]
        assert set(times) == {"step_ms", *overlap.PHASES}
        assert times["step_ms"] > 0
    (weak,) = result["weak"]
    assert len(weak["apart"]) == 2
    assert min(weak["together"], *weak["apart"]) > 0
    assert "--comm.exact false" in page.read_text()


def test_a_network_that_is_none_is_a_mistake() -> None:
    command = [sys.executable, "-m", "benchmarks.overlap", "--networks", "mlp,alexnet"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "--networks alexnet: give some of mlp,mnist_cnn,vgg11" in ended.stderr
