"""The contestants train the same network, and a contestant that cannot start is told of, not left out."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.networks import Network
from ddp.config import ModelConfig
from ddp.models import build_model
from ddp.nn import Sequential

TINY = Network("mlp", {"name": "mlp", "hidden": (8,), "bias": True}, (1, 6, 6), 4)
CORES = tuple(sorted(os.sched_getaffinity(0)))
OURS, NOBODY = peers.ONE_PROCESS[0], peers.Entry("nobody", "no_such_contestant")


@pytest.fixture(params=[("mlp", (1, 6, 6)), ("mnist_cnn", (2, 9, 8))], ids=["mlp", "mnist_cnn"])
def network(request: pytest.FixtureRequest) -> tuple[Sequential, Any]:
    name, shape = request.param
    x = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    return build_model(ModelConfig(name=name, hidden=(8,), bias=True, dropout=False), shape, 4, 1), x


def test_one_round_of_this_trainer_and_of_one_that_is_missing() -> None:
    setting = peers.Setting("1 core", 1, 1, CORES[:1], (OURS, NOBODY))
    result = peers.measure(setting, TINY, batch=8, repeats=2, seconds=0.01)
    assert result["problems"] == {"nobody": "missing: No module named 'benchmarks.contestants.no_such_contestant'"}
    assert len(result["samples_per_s"][peers.OURS]) == len(result["peak_gflops"]) == 2
    assert min(result["samples_per_s"][peers.OURS]) > 0
    assert "| mlp | nobody | missing: No module" in peers.table([result])
    assert peers.summary([result]).splitlines()[2].endswith("| none ran |")
    result["samples_per_s"] |= {"A": [1.0, 1.0], "B": [0.5, 4.0]}
    ratios = [result["samples_per_s"][peers.OURS][k] / (0.5, 4.0)[k] for k in range(2)]
    assert f"| {np.median(ratios):.2f} (B) |" in peers.summary([result])


@pytest.mark.torch
def test_two_ranks_of_this_trainer_and_of_pytorch() -> None:
    import_torch()
    setting = peers.Setting("2 ranks", 2, 1, CORES, peers.TWO_RANKS)
    result = peers.measure(setting, TINY, batch=8, repeats=1, seconds=0.01)
    assert result["problems"] == {}
    assert set(result["samples_per_s"]) == {peers.OURS, f"{peers.OURS}, float32 sums", "PyTorch DDP, gloo"}


@pytest.mark.torch
def test_pytorch_has_the_same_network(network: tuple[Sequential, Any]) -> None:
    torch = import_torch()
    from benchmarks.contestants.pytorch import translate

    model, x = network
    theirs = translate(model.layers)
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in model.state_dict().items()}, strict=True)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(model.forward(x, training=False), expected, rtol=1e-4, atol=1e-5)


def import_torch() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch's import deprecates is not this project's
        return pytest.importorskip("torch")
