"""The kernels' table, made by a process of its own: it fixes the number of threads, which numpy reads when loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_pass_is_measured_against_its_rival(tmp_path: Path) -> None:
    results = tmp_path / "kernels.json"
    options = ["--networks", "mnist_cnn", "--batch", "2", "--repeats", "2", "--results", str(results)]
    command = [sys.executable, "-m", "benchmarks.kernels", *options]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=True).stdout
    kernels = json.loads(results.read_text())["kernels"]
    work = {(k["network"], k["layer"], k["name"]): k["work"] for k in kernels}
    conv = "Conv2d 26x26x32 to 24x24x64"
    for name in ("forward", "backward_weight", "backward_input"):
        assert work["mnist_cnn", conv, name] == 2 * 2 * 9 * 32 * 64 * 24 * 24
    assert ("mnist_cnn", "Conv2d 28x28x1 to 26x26x32", "backward_input") not in work  # training skips it
    assert work["mnist_cnn", "Dropout 12x12x64 to 12x12x64", "forward"] == 2 * 4 * 2 * 12 * 12 * 64
    assert all(len(k["seconds"]) == len(k["rival_seconds"]) == 2 and min(k["seconds"]) > 0 for k in kernels)
    assert sum(line.startswith("| ") for line in output.splitlines()) == len(kernels) + 2
