"""`python -m launch scale --mode accuracy` on real ranks: every batch is trained to the target, on all ranks alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.scaling.accuracy import read_results
from tests.system.jobs import LAUNCH, Job

OPTIONS = ["--mode", "accuracy", "--ranks", "1,2", "--repeats", "1", "--batches", "64,128", "--target", "0.8"]
TOGETHER_S = 280.0


@pytest.mark.timeout(600)
def test_batches_are_trained_to_a_target(tmp_path: Path) -> None:
    job = Job([*LAUNCH, "scale", *OPTIONS, "--output", "study", "--", "--model.hidden", "[32]"], tmp_path)
    finished = job.finish(timeout_s=TOGETHER_S)
    assert (finished.code, job.remaining()) == (0, []), finished.text
    results = {(each.training.batch, each.training.ranks): each for each in read_results(tmp_path / "study")}
    assert set(results) == {(batch, ranks) for batch in (64, 128) for ranks in (1, 2)}
    for (batch, ranks), result in results.items():
        epochs = result.epochs_to(0.8)
        assert epochs is not None, finished.text
        assert result.steps_per_epoch == -(-result.provenance["samples"]["train"] // batch)
        assert result.provenance["world_size"] == ranks
        assert result.step_ms > 0
        assert result.training.lr == pytest.approx(0.1 * batch / 64)
        # Exact sums: what is learned is the same on any number of ranks.
        assert result.accuracies[:epochs] == results[batch, 1].accuracies[:epochs]
        assert result.losses[:epochs] == results[batch, 1].losses[:epochs]
    runs = tmp_path / "study" / "runs"
    assert not list(runs.glob("*/checkpoints"))  # of those that were ended at the target
    report = (tmp_path / "study" / "report.md").read_text()
    assert "the same to the last bit" in report
    assert "mode accuracy, 1 seed a batch; begun" in report
    assert [line for line in report.splitlines() if line.startswith("## ")] == [
        "## Batch size and accuracy",
        "## Machine and software",
        "## To repeat it",
    ]
