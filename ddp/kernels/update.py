"""The SGD update of the flat parameters, and the norm of the flat gradient.

Axes: N parameters, M blocks of the gradient.
"""

from __future__ import annotations

import math

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Float64

__all__ = ["num_blocks", "round_gradient", "sgd_update"]

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
    """The length that `round_gradient` needs for its partial sums of n elements.

    >>> [num_blocks(n) for n in (0, 1, 65536, 65537)]
    [0, 1, 1, 2]
    """
    return -(-n // BLOCK)


@kernel
def _round_and_square(sums: Float64, g: Float32, partial: Float64) -> None:
    for block in prange(partial.shape[0]):
        total = 0.0
        for n in range(block * BLOCK, min((block + 1) * BLOCK, g.shape[0])):
            rounded = np.float32(sums[n])
            g[n] = rounded
            total += np.float64(rounded) * np.float64(rounded)
        partial[block] = total


def round_gradient(sums: Float64, g: Float32, partial: Float64) -> float:
    """Round the float64 sums of gradients to float32, and return the sum of squares of what comes out.

    One pass for both, with the same result for any number of threads: each block of 65536 elements is summed in
    float64 in a fixed order, and the blocks' sums are added exactly and rounded once.

    Args:
        sums: (N,) float64.
        g: (N,) float32, overwritten; a sum beyond float32 becomes an infinity.
        partial: (num_blocks(N),) float64, overwritten with each block's sum of squares.

    Returns:
        The sum of g^2; 0 when N is 0, infinite or NaN when an element is.
    """
    _round_and_square(sums, g, partial)
    # Not a loop in the kernel: the compiler may add partial sums of such a loop in vector lanes.
    return math.fsum(partial)
