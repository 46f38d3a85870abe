"""A run that fails does not count as one that was measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from benchmarks.training import train


@pytest.mark.timeout(60)
def test_a_run_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError, match="exit status 2"):
        train(1, 0, ["--batch.size", "0"], tmp_path)
