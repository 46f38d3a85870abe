"""The user's mistakes give one line and exit code 2; what goes wrong on one rank ends all of them."""

from __future__ import annotations

import signal
import socket
import struct
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.flavours import MPICH, Flavour
from tests.system.jobs import Finished, Job, Start

RANKS = 2


def idx(shape: tuple[int, ...], content: bytes, kind: int = 8) -> bytes:
    """An IDX file of bytes (kind 8)."""
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + content


def write_mnist(folder: Path, **replaced: bytes | None) -> list[str]:
    """Ten tiny images in four files, some replaced (None: left out); the arguments that train on them."""
    images, labels = idx((10, 8, 8), bytes(640)), idx((10,), bytes(range(10)))
    files = {"train_images": images, "train_labels": labels, "t10k_images": images, "t10k_labels": labels, **replaced}
    names = {"images": "images-idx3-ubyte", "labels": "labels-idx1-ubyte"}
    for key, content in files.items():
        prefix, kind = key.split("_")
        if content is not None:
            (folder / f"{prefix}-{names[kind]}").write_bytes(content)
    return ["--data.name", "mnist", "--data.root", str(folder), "--batch.size", "10", "--train.steps", "1"]


def existing_run(folder: Path) -> list[str]:
    (folder / "runs" / "old").mkdir(parents=True)
    (folder / "runs" / "old" / "metrics.jsonl").write_text("{}\n")
    return ["--output.name", "old"]


def damaged_checkpoint(folder: Path) -> list[str]:
    (folder / "step-00000001.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{nothing")
    return ["--resume", "step-00000001.safetensors"]


def malformed_config(folder: Path) -> list[str]:
    (folder / "run.toml").write_text("[model\nname = ")
    return ["--config", "run.toml"]


def unknown_field_in_config(folder: Path) -> list[str]:
    (folder / "run.toml").write_text("[optimizer]\nlrr = 0.1\n")
    return ["--config", "run.toml"]


# What the command line is, made in an empty folder; and what the line must name: the value, and the fix.
MISTAKES: dict[str, tuple[Callable[[Path], list[str]] | list[str], list[str]]] = {
    "missing folder": (["--data.name", "mnist", "--data.root", "nowhere"], ["nowhere", "--data.root"]),
    "missing data set": (["--data.name", "mnist"], ["data.name = mnist", "--data.root"]),
    "missing file": (
        lambda folder: write_mnist(folder, t10k_labels=None),
        ["t10k-labels-idx1-ubyte", "no such file", "--data.root"],
    ),
    "truncated IDX file": (
        lambda folder: write_mnist(folder, train_images=idx((10, 8, 8), bytes(639))),
        ["train-images-idx3-ubyte", "truncated", "656", "655"],
    ),
    "wrong magic number": (
        lambda folder: write_mnist(folder, train_labels=idx((10,), bytes(10), kind=13)),
        ["train-labels-idx1-ubyte", "magic number", "00 00 0d 01"],
    ),
    "label out of range": (
        lambda folder: write_mnist(folder, train_labels=idx((10,), bytes([*range(9), 77]))),
        ["train-labels-idx1-ubyte", "label 77", "position 9"],
    ),
    "images and labels of different length": (
        lambda folder: write_mnist(folder, t10k_labels=idx((9,), bytes(9))),
        ["t10k-images-idx3-ubyte", "10 images", "9 labels"],
    ),
    "unknown field": (["--optimizer.learning_rate", "0.1"], ["optimizer.learning_rate", "unknown field"]),
    "unknown field in a file": (unknown_field_in_config, ["optimizer.lrr", "did you mean optimizer.lr?"]),
    "unknown model": (["--model.name", "vgg99"], ["model.name", "vgg99", "mnist_cnn"]),
    "wrong type": (["--train.epochs", "many"], ["train.epochs", "many", "int"]),
    "batch of 0": (["--batch.size", "0"], ["batch.size = 0", "at least 1"]),
    "more shards than samples": (["--batch.size", "4", "--batch.shards", "5"], ["batch.shards = 5", "at most 4"]),
    "batch larger than the data set": (["--batch.size", "1439"], ["batch.size = 1439", "at most 1438"]),
    "learning rate that is no number": (["--optimizer.lr", "nan"], ["optimizer.lr = nan", "finite"]),
    "image too small for the model": (
        ["--model.name", "mnist_cnn", "--data.name", "synthetic", "--data.shape", "[1,4,5]"],
        ["mnist_cnn", "6x6", "4x5"],
    ),
    "regression of classes": (["--model.name", "polynomial"], ["data.name = digits", "model.name = polynomial"]),
    "existing run directory": (existing_run, ["output.name = old", "runs/old", "--resume auto"]),
    "damaged checkpoint": (damaged_checkpoint, ["step-00000001.safetensors", "--resume"]),
    "missing checkpoint": (["--resume", "gone.safetensors"], ["gone.safetensors", "--resume"]),
    "resume of which run?": (["--resume", "auto"], ["--resume auto", "--output.name"]),
    "missing configuration": (["--config", "gone.toml"], ["--config gone.toml", "no such file"]),
    "malformed configuration": (malformed_config, ["--config", "TOML"]),
    "output folder that is a file": (
        lambda folder: (folder / "file").touch() or ["--output.dir", "file"],  # type: ignore[func-returns-value]
        ["file"],
    ),
}


def own_lines(finished: Finished, flavour: Flavour) -> list[str]:
    """The lines of stderr that are ours: all, under MPICH; Open MPI adds some about the exit code."""
    lines = [line for line in finished.err.splitlines() if not line.startswith("warning: ")]
    return lines if flavour is MPICH else [line for line in lines if line.startswith("error: ")]


def check_one_line(job: Job, flavour: Flavour, code: int, named: list[str]) -> None:
    finished = job.finish()
    assert job.remaining() == []
    assert finished.code == code, finished.text
    assert "Traceback" not in finished.text
    (line,) = own_lines(finished, flavour)
    assert line.startswith("error: ")
    assert "error: " not in finished.out
    for part in named:
        assert part in line


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_users_mistake_is_told_once(mistake: str, start: Start, flavour: Flavour, tmp_path: Path) -> None:
    arguments, named = MISTAKES[mistake]
    job = start(RANKS, *(arguments if isinstance(arguments, list) else arguments(tmp_path)), cwd=tmp_path)
    check_one_line(job, flavour, 2, named)


def test_those_files_are_right_but_for_the_mistake(start: Start, tmp_path: Path) -> None:
    finished = start(RANKS, *write_mnist(tmp_path), cwd=tmp_path).finish()
    assert finished.code == 0, finished.text


def test_a_checkpoint_of_another_run_is_refused(start: Start, flavour: Flavour, tmp_path: Path) -> None:
    first = start(1, "--train.steps", "2", "--checkpoint.every_steps", "2", "--output.name", "first", cwd=tmp_path)
    assert first.finish().code == 0
    path = "runs/first/checkpoints/step-00000002.safetensors"
    job = start(RANKS, "--optimizer.momentum", "0.5", "--resume", path, cwd=tmp_path)
    check_one_line(job, flavour, 2, ["optimizer.momentum = 0.5", path, "0.9"])


def test_a_gradient_that_is_not_finite_ends_the_run(start: Start, flavour: Flavour, tmp_path: Path) -> None:
    job = start(RANKS, "--optimizer.lr", "1e30", cwd=tmp_path)
    check_one_line(job, flavour, 3, ["gradient of step", "optimizer.lr (now 1e+30)"])


PLANT = """
import os, signal, sys
from ddp import train

ranks, action = eval(sys.argv[1]), sys.argv[2]
build = train._build_trainer

def planted(world, config):
    trainer = build(world, config)
    train_step = trainer.train_step

    def step():
        if trainer.step == 3 and world.rank in ranks:
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("planted")
        train_step()

    trainer.train_step = step
    return trainer

train._build_trainer = planted
sys.exit(train.main(sys.argv[3:]))
"""


@pytest.mark.parametrize("ranks", [[0], [1], [0, 1, 2]], ids=["rank 0", "rank 1", "all ranks"])
def test_an_exception_ends_all_ranks(ranks: list[int], start: Start, flavour: Flavour, tmp_path: Path) -> None:
    job = start(3, str(ranks), "raise", cwd=tmp_path, program=[sys.executable, "-c", PLANT])
    finished = job.finish()
    assert job.remaining() == []
    # MPICH's mpirun gives the code of the abort or that of a rank which it killed, whichever it hears of first.
    assert finished.code in ((4, signal.SIGKILL) if flavour is MPICH else (4,))
    assert finished.text.count("Traceback") == 1, finished.text
    assert finished.err.count("RuntimeError: planted") == 1
    assert f"error: rank {ranks[0]} on {socket.gethostname()} failed at step 4:\nTraceback" in finished.err
    assert finished.err.count("error: rank") == 1


def test_a_killed_rank_ends_all_ranks(start: Start, tmp_path: Path) -> None:
    job = start(3, "[1]", "kill", cwd=tmp_path, program=[sys.executable, "-c", PLANT])
    finished = job.finish()
    assert job.remaining() == []
    assert finished.code != 0
    assert "Traceback" not in finished.text


FLIP = """
import sys
import numpy as np
from ddp import train

odd = int(sys.argv[1])
build = train._build_trainer

def planted(world, config):
    trainer = build(world, config)
    train_step = trainer.train_step

    def step():
        train_step()
        if trainer.step == 7 and world.rank == odd:
            trainer.model.parameters.view(np.int32)[1000] ^= 1 << 20

    trainer.train_step = step
    return trainer

train._build_trainer = planted
sys.exit(train.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("odd", [0, 2])
def test_a_rank_whose_parameters_have_changed_is_named(
    odd: int, start: Start, flavour: Flavour, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", FLIP, str(odd)]
    arguments = ["--comm.check_every", "5", "--comm.reducer", "flat", "--output.name", "run"]
    job = start(3, *arguments, cwd=tmp_path, program=program)
    named = [f"rank {odd} on {socket.gethostname()} has other parameters than most ranks after step 10 (1.weight)"]
    check_one_line(job, flavour, 4, [*named, "all ranks agreed after step 5"])
    assert not (tmp_path / "runs" / "run" / "model.safetensors").exists()


def test_it_is_named_before_another_reducer_takes_the_parameters(
    start: Start, flavour: Flavour, tmp_path: Path
) -> None:
    program = [sys.executable, "-c", FLIP, "0"]  # rank 0's would become those of the whole node
    job = start(3, "--comm.reducer", "auto", cwd=tmp_path, program=program)
    named = f"rank 0 on {socket.gethostname()} has other parameters than most ranks after step 9 (1.weight)"
    check_one_line(job, flavour, 4, [named, "all ranks agreed after step 0"])


def test_ranks_that_differ_are_found_at_the_end_at_the_latest(start: Start, flavour: Flavour, tmp_path: Path) -> None:
    job = start(2, "--train.steps", "9", cwd=tmp_path, program=[sys.executable, "-c", FLIP, "1"])
    check_one_line(job, flavour, 4, ["rank 0", "rank 1", "different parameters", "after step 9 (1.weight)"])


def test_without_checks_they_go_on(start: Start, tmp_path: Path) -> None:
    arguments = ["--train.steps", "9", "--comm.check_every", "0"]
    finished = start(2, *arguments, cwd=tmp_path, program=[sys.executable, "-c", FLIP, "1"]).finish()
    assert finished.code == 0, finished.text


def test_help_is_printed_once(start: Start, tmp_path: Path) -> None:
    finished = start(RANKS, "--help", cwd=tmp_path).finish()
    assert (finished.code, finished.err) == (0, "")
    assert finished.out.count("usage:") == 1
    assert finished.out.count("--optimizer.lr ") == 1
    assert list(tmp_path.glob("runs")) == []


def test_the_configuration_is_printed_once(start: Start, tmp_path: Path) -> None:
    finished = start(RANKS, "--print-config", "--optimizer.lr", "0.25", cwd=tmp_path).finish()
    assert (finished.code, finished.err) == (0, "")
    config = tomllib.loads(finished.out)  # which refuses a table that is there twice
    assert config["optimizer"]["lr"] == 0.25
    assert config["model"]["hidden"] == [512, 512]
    assert list(tmp_path.glob("runs")) == []
