"""The SGD update of the flat parameters, and the norm of the flat gradient.

Axes: N parameters, M blocks of the gradient.
"""

from __future__ import annotations

import math

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Float64

__all__ = ["num_blocks", "sgd_update", "sum_of_squares"]

BLOCK = 65536  # elements whose squares one thread adds; part of the result's definition


@kernel
def sgd_update(
    w: Float32,
    g: Float32,
    v: Float32,
    scale: float,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None:
    """Update w and v by one SGD step, in one pass in float32.

    g' = scale g + weight_decay w;  v = momentum v + g';
    d = g' + momentum v if nesterov else v (g' without momentum);  w = w - lr d.

    Args:
        w: (N,) float32, parameters, updated.
        g: (N,) float32, sums of gradients.
        v: (N,) float32, velocity, updated; (0,) when momentum is 0.
        scale: what turns the sum into the gradient of the loss, e.g. 1 / samples of the global batch.
        lr: learning rate, the slides' eta.
        momentum: 0 for none.
        nesterov: look ahead by one step of momentum.
        weight_decay: coefficient of the L2 penalty.

    Source: slide "Stochastic Gradient Descent", w = w - eta dL/dw; torch.optim.SGD with dampening 0.
    """
    scale_, lr_ = np.float32(scale), np.float32(lr)
    momentum_, weight_decay_ = np.float32(momentum), np.float32(weight_decay)
    for n in prange(w.shape[0]):
        d = scale_ * g[n] + weight_decay_ * w[n]
        if v.shape[0] > 0:
            v_n = momentum_ * v[n] + d
            v[n] = v_n
            d = d + momentum_ * v_n if nesterov else v_n
        w[n] -= lr_ * d


def num_blocks(n: int) -> int:
    """The length that `sum_of_squares` needs for its partial sums of n elements.

    >>> [num_blocks(n) for n in (0, 1, 65536, 65537)]
    [0, 1, 1, 2]
    """
    return -(-n // BLOCK)


@kernel
def _sums_of_squares(g: Float32, partial: Float64) -> None:
    for block in prange(partial.shape[0]):
        total = 0.0
        for n in range(block * BLOCK, min((block + 1) * BLOCK, g.shape[0])):
            total += np.float64(g[n]) * np.float64(g[n])
        partial[block] = total


def sum_of_squares(g: Float32, partial: Float64) -> float:
    """The sum of g^2 in float64, the same for any number of threads.

    Each block of 65536 elements is summed in float64 in a fixed order. The blocks' sums are added
    exactly and rounded once, so that it does not matter either how blocks are dealt to ranks.

    Args:
        g: (N,) float32.
        partial: (num_blocks(N),) float64, overwritten with each block's sum.

    Returns:
        The sum; 0 when N is 0, infinite or NaN when an element is.
    """
    _sums_of_squares(g, partial)
    # Not a loop in the kernel: the compiler may add partial sums of such a loop in vector lanes.
    return math.fsum(partial)
