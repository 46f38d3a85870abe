"""Training on more data than the ranks' memory would hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from tests.system.jobs import TRAIN, Start, records

LIMIT = 512 << 20
LIMITED = (
    sys.executable,
    "-c",
    "import os, resource, sys; "
    f"resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT})); "
    "os.execv(sys.argv[1], sys.argv[1:])",
    *TRAIN,
)
"""The trainer in a process that may not allocate more."""


def test_a_file_larger_than_the_memory_is_trained_on(start: Start, tmp_path: Path) -> None:
    """Of 1 GiB, under a limit of half of that; the result is that of a single rank."""
    for name, samples in (("train", 4096), ("test", 6)):
        inputs = np.lib.format.open_memmap(
            tmp_path / f"{name}-inputs.npy", "w+", np.uint8, (samples, 1, 512, 512)
        )  # a hole but for one row of each image, which takes little space on the disk
        inputs[:, 0, 100] = np.random.default_rng(samples).integers(0, 256, (samples, 512))
        del inputs
        np.save(tmp_path / f"{name}-targets.npy", np.arange(samples) % 3)
    assert (tmp_path / "train-inputs.npy").stat().st_size > 2 * LIMIT
    fields = ["--data.name", "npy", "--data.root", str(tmp_path), "--data.flip", "true", "--model.hidden", "[8]"]
    fields += ["--batch.size", "16", "--train.steps", "4", "--checkpoint.every_epochs", "0"]
    ends = []
    for ranks in (1, 2):
        job = start(ranks, *fields, "--output.name", f"{ranks}", cwd=tmp_path, program=LIMITED)
        finished = job.finish()
        assert finished.code == 0, finished.text
        ends.append(records(tmp_path / "runs" / f"{ranks}")[-1])
    assert [end["event"] for end in ends] == ["end", "end"]
    assert ends[0]["parameters_sha256"] == ends[1]["parameters_sha256"]
