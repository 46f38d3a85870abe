"""The slides' linear regression finds the coefficients that generated its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.system.jobs import ROOT, Start, records


@pytest.mark.parametrize("name", ["polynomial_gd", "polynomial_sgd"])
def test_the_generating_coefficients_are_recovered(name: str, start: Start, tmp_path: Path) -> None:
    config = str(ROOT / "configs" / f"{name}.toml")
    finished = start(2, "--config", config, "--output.name", "run", cwd=tmp_path).finish()
    assert finished.code == 0, finished.text
    (weight,) = load_file(tmp_path / "runs" / "run" / "model.safetensors").values()
    np.testing.assert_allclose(weight.ravel(), [1, -2, 3], rtol=1e-2)
    (*_, evaluation) = (line for line in records(tmp_path / "runs" / "run") if line["event"] == "eval")
    assert evaluation["rmse"] == pytest.approx(0.05, rel=0.2)  # the noise, which nothing can predict
    assert "test rmse" in finished.out.splitlines()[-1]
