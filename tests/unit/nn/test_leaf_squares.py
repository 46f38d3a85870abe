"""Each shard's sum of squares, against a backward pass of that shard alone; and that measuring changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ddp import nn
from ddp.fixed_point import build_scales
from ddp.nn.leaf_squares import LeafSquares

SHARDS = np.array([0, 2, 5, 5, 6])  # one of them empty


def dense(exact: bool) -> nn.Sequential:
    return nn.Sequential(nn.Linear(40, 33), nn.ReLU(), nn.BatchNorm1d(33), nn.Linear(33, 5), seed=1, exact=exact)


def images(exact: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 9, 3, padding=1, method="winograd"),
        nn.BatchNorm2d(9),
        nn.ReLU(),
        nn.Conv2d(9, 17, 3, method="direct"),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(17 * 9, 5),
        seed=2,
        exact=exact,
    )


SHAPES: dict[Callable[[bool], nn.Sequential], tuple[int, ...]] = {dense: (40,), images: (2, 8, 8)}


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("build", SHAPES)
def test_squares_are_those_of_each_shards_own_gradient(build: Any, exact: bool) -> None:
    generator = np.random.default_rng(3)
    x = generator.standard_normal((6, *SHAPES[build])).astype(np.float32)
    dy = generator.standard_normal((6, 5)).astype(np.float32)
    model = build(exact)
    scales = build_scales(exact, model.scales, 4)
    scales.set_exponents(np.full(model.scales.size, 16 * exact))

    def backward(first: int, end: int, shards: Any) -> bytes:
        model.forward(x[first:end], True, nn.Draws(0, 0, np.arange(first, end), shards))
        model.backward(dy[first:end], scales.leaves(shards), input_gradient=False)
        return bytes(model.gradient_sums.tobytes() + model.largest.tobytes())

    before, squares, expected = backward(0, 6, SHARDS), np.zeros(4), []
    model.on_backward = LeafSquares(model).listener(SHARDS, scales.inverses, squares)
    assert backward(0, 6, SHARDS) == before
    model.on_backward = lambda *_: None
    assert backward(0, 6, SHARDS) == before  # the layers' gradients are where they were
    for first, end in itertools.pairwise(SHARDS):
        backward(first, end, np.array([0, end - first]))
        expected.append(sum(np.sum(leaf.astype(np.float64) ** 2) for leaf in model.gradient_dict().values()))
    assert squares == pytest.approx(expected, rel=1e-6)
    assert squares[2] == 0 < min(squares[[0, 1, 3]])
