"""The main job, `mpirun -n P python -m ddp.train`, and what it leaves behind, for several numbers of ranks."""

from __future__ import annotations

import functools
import hashlib
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.system.jobs import LAUNCH, TRAIN, Finished, Job, Start, records

RANKS = (1, 2, 3, 5, 8)
EPOCHS, STEPS_PER_EPOCH = 20, 23  # 1438 training samples in batches of 64
TEST_SAMPLES = 359
LAYERS = ("1.weight", "3.weight", "5.weight")  # in state-dict order

# DESIGN.md, section 4.
FIELDS = {
    "start": """versions hosts cpu mpi_library world_size threads_per_rank affinity git_revision parameters samples
        inputs""",
    "step": """step epoch loss lr grad_norm samples_per_s step_ms compute_ms comm_exposed_ms update_ms data_ms
        slowest_rank forward_ms backward_ms wait_ms""",
    "eval": """split epoch step loss accuracy samples""",
    "checkpoint": """path step""",
    "reducer": """step rung reason step_ms""",
    "straggler": """step rank text""",
    "end": """steps epochs wall_s train_s samples_per_s gflops_per_rank peak_gflops_per_rank fraction_of_peak
        parameters_sha256""",
}

Runs = Callable[[int], tuple[Finished, Path]]


@pytest.fixture(scope="module")
def run_of(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The default job on P ranks, run once: how it ended, and its run directory."""

    @functools.cache
    def _run_of(ranks: int) -> tuple[Finished, Path]:
        folder = tmp_path_factory.mktemp(f"ranks-{ranks}")
        return finished_in(start(ranks, cwd=folder), folder)

    return _run_of


def finished_in(job: Job, folder: Path) -> tuple[Finished, Path]:
    finished = job.finish()
    assert finished.code == 0, finished.text
    (run,) = (folder / "runs").iterdir()
    return finished, run


def check_closing_line(out: str, run: Path) -> None:
    closing = [line for line in out.splitlines() if str(Path("runs") / run.name) in line]
    assert closing == out.splitlines()[-1:]
    assert re.fullmatch(rf"done: 460 steps, test accuracy 9[78]\.\d\d%; run directory runs/{run.name}", closing[0])


def parameters(path: Path) -> np.ndarray:
    state = load_file(path)
    return np.concatenate([state[name].ravel() for name in LAYERS]).astype(np.float64)


@pytest.mark.parametrize("ranks", RANKS)
def test_it_trains_and_says_so_once(ranks: int, run_of: Runs) -> None:
    finished, run = run_of(ranks)
    check_closing_line(finished.out, run)
    assert all(line.startswith("warning: ") for line in finished.err.splitlines())
    for epoch in range(1, EPOCHS + 1):
        assert len(re.findall(rf"^epoch +{epoch}  test loss", finished.out, re.MULTILINE)) == 1


@pytest.mark.parametrize("ranks", RANKS)
def test_the_run_directory_is_complete(ranks: int, run_of: Runs) -> None:
    _, run = run_of(ranks)
    assert re.fullmatch(r"mlp-digits-\d{8}-\d{6}", run.name)
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "config.toml",
        "metrics.jsonl",
        "model.safetensors",
    ]
    checkpoints = sorted((run / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-00000437.safetensors", "step-00000460.safetensors"]
    np.testing.assert_array_equal(parameters(checkpoints[-1]), parameters(run / "model.safetensors"))
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["model"] == {
        "name": "mlp",
        "degree": 2,
        "hidden": [512, 512],
        "bias": False,
        "dropout": True,
        "depth": 11,
        "convolution": "auto",
    }
    assert {"seed", "threads", "data", "batch", "loss", "optimizer", "schedule", "train", "comm"} <= config.keys()


@pytest.mark.parametrize("ranks", RANKS)
def test_the_metrics(ranks: int, run_of: Runs) -> None:
    _, run = run_of(ranks)
    lines = records(run)
    for line in lines:
        assert set(FIELDS[line["event"]].split()) <= line.keys()
    assert [line["time_s"] for line in lines] == sorted(line["time_s"] for line in lines)

    by_event = {event: [line for line in lines if line["event"] == event] for event in FIELDS}
    (first,), (last,) = by_event["start"], by_event["end"]
    assert (lines[0], lines[-1]) == (first, last)
    assert first["world_size"] == len(first["hosts"]) == len(first["affinity"]) == ranks
    assert first["parameters"] == 64 * 512 + 512 * 512 + 512 * 10
    assert first["samples"] == {"train": 1438, "test": TEST_SAMPLES}

    steps = EPOCHS * STEPS_PER_EPOCH
    assert [line["step"] for line in by_event["step"]] == list(range(10, steps + 1, 10))
    assert all(0 <= line["slowest_rank"] < ranks for line in by_event["step"])
    assert [line["step"] for line in by_event["checkpoint"]] == list(range(23, steps + 1, 23))
    assert [line["epoch"] for line in by_event["eval"]] == list(range(1, EPOCHS + 1))
    assert {line["samples"] for line in by_event["eval"]} == {TEST_SAMPLES}
    assert by_event["eval"][-1]["accuracy"] >= 0.97
    assert len(by_event["reducer"]) == (ranks > 1)
    assert (last["steps"], last["epochs"]) == (steps, EPOCHS)


@pytest.mark.parametrize("ranks", RANKS)
def test_the_checksum_is_that_of_the_parameters(ranks: int, run_of: Runs) -> None:
    _, run = run_of(ranks)
    flat = parameters(run / "model.safetensors").astype("<f4")
    assert records(run)[-1]["parameters_sha256"] == hashlib.sha256(flat.tobytes()).hexdigest()


@pytest.mark.parametrize("ranks", [ranks for ranks in RANKS if ranks > 1])
def test_any_number_of_ranks_trains_the_same_network(ranks: int, run_of: Runs) -> None:
    expected = parameters(run_of(1)[1] / "model.safetensors")
    found = parameters(run_of(ranks)[1] / "model.safetensors")
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


def test_the_runs_own_configuration_reproduces_it(run_of: Runs, start: Start, tmp_path: Path) -> None:
    _, run = run_of(2)
    _, again = finished_in(start(2, "--config", str(run / "config.toml"), cwd=tmp_path), tmp_path)
    assert records(again)[-1]["parameters_sha256"] == records(run)[-1]["parameters_sha256"]
    assert (again / "config.toml").read_bytes() == (run / "config.toml").read_bytes()


def test_the_launcher_starts_the_same_job(run_of: Runs, tmp_path: Path) -> None:
    finished, run = finished_in(Job([*LAUNCH, "run", "-n", "2", "--", "--seed", "0"], tmp_path), tmp_path)
    check_closing_line(finished.out, run)
    assert records(run)[0]["world_size"] == 2
    assert records(run)[-1]["parameters_sha256"] == records(run_of(2)[1])[-1]["parameters_sha256"]


def test_without_mpirun_there_is_one_rank(tmp_path: Path) -> None:
    _, run = finished_in(Job([*TRAIN, "--train.steps", "2"], tmp_path), tmp_path)
    assert records(run)[0]["world_size"] == 1
    assert records(run)[-1]["steps"] == 2
