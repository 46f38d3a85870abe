"""The README's commands and its Python example, run as they are printed there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.jobs import ROOT, SET_FOR_TESTS

README = (ROOT / "README.md").read_text()
# Set up what the tests run in, or belong to a cluster: read, not run.
NOT_RUN = ("make ", "python3 -m venv ", ". .venv", "pip install ", "module load ", "mpirun -n 16 ")
SHORT = ["--train.steps", "3"]


def console_lines() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert all(line.startswith("$ ") for line in lines)
    return [line[2:].partition("  #")[0].strip() for line in lines]


def runnable() -> list[str]:
    return [line for line in console_lines() if not line.startswith(NOT_RUN)]


def test_every_kind_of_command_is_there() -> None:
    lines = runnable()
    assert any(line.startswith("mpirun -n 2 python -m ddp.train") for line in lines)
    assert any(line.startswith("python -m launch run") for line in lines)
    assert any(line.startswith("python -m launch verify") for line in lines)
    assert any(line.startswith("python -m launch scale") for line in lines)
    assert all(line.startswith(("mpirun ", "python -m ")) for line in lines), (
        "a new kind of command: run it, or list it"
    )


@pytest.mark.timeout(240)
@pytest.mark.parametrize("line", list(dict.fromkeys(runnable())))
def test_command_runs(line: str, tmp_path: Path) -> None:
    if "fashion" in line or "mnist_cnn" in line:
        if not Path("/usr/share/datasets/fashion-mnist").is_dir():
            pytest.skip("needs Debian's package dataset-fashion-mnist")
    command = shlex.split(line)
    if "scale" in command:  # all that is said, but once, and a few steps only
        command[command.index("--repeats") + 1] = "1"
        command[command.index("--") : command.index("--")] = ["--steps", "8", "--output", "study"]
    elif "ddp.train" in command or "--" in command:
        command += SHORT
    environment = {
        **{name: value for name, value in os.environ.items() if name not in SET_FOR_TESTS},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "DDP_SIMGRID_PYTHON": "",  # which would simulate for half a minute
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=220
    )
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr.lower()
    if "--help" in command:
        assert "--optimizer.lr" in done.stdout
    elif "--print-config" in command:
        assert "[optimizer]" in done.stdout
    elif "scale" in command:
        assert "trained the same bits" in done.stdout
        assert (tmp_path / "study" / "report.html").exists()
    elif "verify" in command:
        assert "the same bits at all" in done.stdout
    elif "doctor" in command:
        assert done.stdout.endswith(" 0 errors\n")
    elif "script" in command:
        assert done.stdout.startswith("#!/bin/bash\n")
        assert " -m launch run -n 8 " in done.stdout
    elif "--dry-run" in command:
        assert " -m ddp.train" in done.stdout
    else:
        assert "done: 3 steps" in done.stdout
        assert list((tmp_path / "runs").glob("*/model.safetensors"))


def test_python_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert {name: array.shape for name, array in names["gradients"].items()} == {  # type: ignore[attr-defined]
        "0.weight": (8, 1, 3, 3),
        "0.bias": (8,),
        "3.weight": (10, 8 * 28 * 28),
        "3.bias": (10,),
    }


def test_every_configuration_is_valid_and_says_how_to_run_it() -> None:
    for path in sorted((ROOT / "configs").glob("*.toml")):
        header = path.read_text().split("\n\n")[0]
        assert f"mpirun -n 2 python -m ddp.train --config configs/{path.name}" in header
