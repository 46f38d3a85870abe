"""LARS against the equations of its paper, in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ddp.config import OptimizerConfig
from ddp.kernels.types import Float32, Float64
from ddp.optim import SGD, build_optimizer, tensor_norms
from tests.unit.optim.made import IS_WEIGHT, SLICES, Made, rate

LR, TRUST, MOMENTUM = 0.1, 0.1, 0.9


@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_it_is_the_algorithm_of_the_paper(weight_decay: float) -> None:
    """You et al. 2017, algorithm 1: lambda = eta |w| / (|g| + beta |w|), v = m v + gamma lambda (g + beta w), w -= v.

    Biases have lambda 1 and beta 0, as in the authors' program.
    """
    made = Made()
    config = OptimizerConfig(name="lars", momentum=MOMENTUM, trust_coefficient=TRUST, weight_decay=weight_decay)
    optimizer = build_optimizer(config, made.parameters, made.addends, made.blocks, is_weight=IS_WEIGHT)
    w = made.parameters.astype(np.float64)
    v = np.zeros_like(w)

    def update(step: int, g: Float32) -> Float64:
        for where, is_weight in zip(SLICES, IS_WEIGHT, strict=True):
            w_l, g_l = w[where].copy(), g[where].astype(np.float64)
            beta = weight_decay if is_weight else 0
            local = TRUST * np.linalg.norm(w_l) / (np.linalg.norm(g_l) + beta * np.linalg.norm(w_l))
            v[where] = MOMENTUM * v[where] + rate(step, LR) * (local if is_weight else 1) * (g_l + beta * w_l)
            w[where] -= v[where]
        return w

    made.compare(optimizer, LR, update)


def one_step(w: Float32, g: Float32, **given: float) -> Float32:
    """Of a single tensor."""
    w = w.copy()
    SGD(w, g.copy(), trust_coefficient=0.5, **given).step(0.1, 1.0)  # type: ignore[arg-type]
    return w


def test_the_step_is_as_long_whatever_the_gradients_scale() -> None:
    w, g = np.array([3.0, 4.0], np.float32), np.array([0.6, -0.8], np.float32)
    for scale in 1.0, 1e-6, 1e6:
        np.testing.assert_allclose(w - one_step(w, np.float32(scale) * g), 0.1 * 0.5 * 5 * g, rtol=1e-6)


@pytest.mark.parametrize(("w", "g"), [([0, 0], [1, 2]), ([1, 2], [0, 0]), ([1, 2], [1e-42, 0])])
def test_without_a_norm_to_compare_the_rate_is_the_plain_one(w: list[float], g: list[float]) -> None:
    """Parameters that begin at 0 would never move; a gradient of 0 has no direction, and almost 0 an infinite rate."""
    start, gradient = np.array(w, np.float32), np.array(g, np.float32)
    np.testing.assert_allclose(one_step(start, gradient), start - np.float32(0.1) * gradient)


def test_parts_of_tensors_with_the_norms_of_the_whole_give_the_same_bits() -> None:
    """Two owners cut the buffers within a tensor, at the border of blocks."""
    whole, halves = Made(), Made()
    given = {"momentum": 0.9, "weight_decay": 1e-2, "trust_coefficient": TRUST}
    alone = SGD(whole.parameters, whole.sums, blocks=whole.blocks, **given)  # type: ignore[arg-type]
    cut = int(whole.blocks[1, 0])
    assert SLICES[0].start < cut < SLICES[0].stop
    owners = []
    for rows, where in (slice(0, 1), slice(0, cut)), (slice(1, None), slice(cut, None)):
        blocks = whole.blocks[rows] - np.array([where.start, where.start, 0])
        decays = np.full(len(SLICES), 1e-2, np.float32)
        owners.append(
            SGD(halves.parameters[where], halves.sums[where], 0.9, False, decays, blocks, trust_coefficient=TRUST)
        )
    scales = np.full(len(SLICES), 1 / 8, np.float32)
    for g in itertools.islice(Made().gradients(), 3):
        whole.sums[:] = halves.sums[:] = g
        alone.step(LR, 1 / 8)
        squares = np.concatenate([owner.measure(scales) for owner in owners])
        for owner in owners:
            owner.step(LR, scales, norms=tensor_norms(squares, whole.blocks, len(SLICES)))
    assert halves.parameters.tobytes() == whole.parameters.tobytes()
