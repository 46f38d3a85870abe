"""The replica check: what it compares, and whom it names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ddp import nn
from ddp.fixed_point import build_scales
from ddp.optim import SGD
from ddp.replicas import ReplicaCheck, describe


def build(world: Any, every: int = 10) -> tuple[ReplicaCheck, nn.Sequential, SGD]:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2), exact=True)
    optimizer = SGD(model.parameters, model.gradient_sums, 0.9)
    return ReplicaCheck(world, every, model, optimizer, build_scales(True, model.scales, 8)), model, optimizer


def test_everything_that_a_step_changes_is_compared(world: Any) -> None:
    replicas, model, optimizer = build(world)
    tensors = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    buffers = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    momentum = [f"optimizer.momentum.{name}" for name in tensors]
    assert list(replicas.parts) == [*tensors, *momentum, *buffers, "scales of the gradient sums"]
    model.parameters[:] = 7
    optimizer.state["momentum"][:] = 8
    model.load_state_dict(model.state_dict() | {"1.running_mean": np.full(3, 9, np.float32)})
    for names, value in (tensors, 7), (momentum, 8), (["1.running_mean"], 9):
        assert all((replicas.parts[name] == value).all() for name in names)
    assert sum(replicas.parts[name].size for name in tensors) == model.num_parameters


HOSTS = ["a", "a", "b", "b", "c"]
GOOD, BAD = {"0.weight": 1, "0.bias": 2}, {"0.weight": 3, "0.bias": 2}


@pytest.mark.parametrize("odd", range(5))
def test_the_rank_that_differs_from_most_is_named_with_its_host(odd: int) -> None:
    digests = [BAD if rank == odd else GOOD for rank in range(5)]
    text = describe(HOSTS, digests, 300, 200)
    assert text.startswith(
        f"rank {odd} on {HOSTS[odd]} has other parameters than most ranks after step 300 (0.weight);"
    )
    assert "resume from a checkpoint of step 200 or before" in text
    assert text.count("rank ") == 1
    assert "\n" not in text


def test_two_that_differ_from_most() -> None:
    other = {"0.weight": 1, "0.bias": 7}
    text = describe(HOSTS, [GOOD, BAD, GOOD, GOOD, other], 300, 200)
    assert text.startswith("rank 1 on a, rank 4 on c have other parameters than most ranks after step 300")
    assert "(0.weight, 0.bias)" in text


@pytest.mark.parametrize("digests", [[GOOD, BAD], [GOOD, BAD, GOOD, BAD]])
def test_without_a_majority_nobody_is_accused(digests: list[dict[str, int]]) -> None:
    text = describe(HOSTS, digests, 300, 200)
    named = ", ".join(f"rank {rank} on {HOSTS[rank]}" for rank in range(len(digests)))
    assert text.startswith(f"{named} have different parameters, and most agree with none")


def test_a_long_list_is_cut() -> None:
    digests = [GOOD] * 51 + [{"0.weight": rank, "0.bias": 2} for rank in range(2, 51)]
    text = describe(["h"] * 100, digests, 2, 1)
    assert text.startswith("rank 51 on h, rank 52 on h, rank 53 on h, rank 54 on h and 45 more have other parameters")
