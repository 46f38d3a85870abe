"""The SGD update of the flat parameters from the flat sums of gradients, and the norm of the gradient.

Axes: N parameters, M blocks of them, each within one parameter tensor.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.types import Float32, Float64, GradientSum, Int64

__all__ = ["LANES", "add_part", "add_up", "make_blocks", "sgd_update"]

BLOCK = 16384  # elements: 64 kB of each buffer
LANES = 64
"""Partial sums of a block's squares, each of every 64th element: the compiler may not make vectors of a single sum."""


def make_blocks(slices: Iterable[slice]) -> Int64:
    """Cut tensors into blocks, the units of work of the threads and of the norm's sum.

    >>> make_blocks([slice(0, 20000), slice(20000, 20010)])
    array([[    0, 16384,     0],
           [16384, 20000,     0],
           [20000, 20010,     1]])

    Args:
        slices: where each tensor lies in the flat buffers.

    Returns:
        (M, 3) int64: start, end and number of the tensor.
    """
    rows = [
        (start, min(start + BLOCK, where.stop), tensor)
        for tensor, where in enumerate(slices)
        for start in range(where.start, where.stop, BLOCK)
    ]
    return np.array(rows, np.int64).reshape(-1, 3)


@inline
def _sum_of_squares(x: GradientSum, lanes: Float64) -> float:
    whole = x.size - x.size % LANES
    for k in range(LANES):
        lanes[k] = 0
    for first in range(0, whole, LANES):
        x_first = x[first : first + LANES]
        for k in range(LANES):
            lanes[k] += np.float64(x_first[k]) * np.float64(x_first[k])
    total = 0.0
    for k in range(LANES):
        total += lanes[k]
    for n in range(whole, x.size):
        total += np.float64(x[n]) * np.float64(x[n])
    return total


@inline
def _add_up_block(rows: GradientSum, own: int, first: int, end: int) -> GradientSum:
    """The sum over the rows of one block, in the own row: 64 kB, which stay in the cache for what comes next."""
    total = rows[own, first:end]
    for r in range(rows.shape[0]):
        if r != own:
            other = rows[r, first:end]
            for n in range(total.size):
                total[n] += other[n]
    return total


@kernel
def add_up(
    rows: GradientSum, own: int, start: int, blocks: Int64, scales: Float32, lanes: Float64, squares: Float64
) -> None:
    """Add the rows into one, and square the gradient: for those who must know its norm before they update.

    Args:
        rows: (R, stride) float32 or int32, see `ddp.kernels.types.Addends`; row `own` is overwritten by the sum.
        own: which row.
        start: where in a row the parameters begin.
        blocks: (M, 3) int64, from `make_blocks`.
        scales: (T,) float32, what turns each tensor's sums into the gradient of the loss.
        lanes: (M, LANES) float64, workspace.
        squares: (M,) float64, overwritten with each block's sum of g^2.
    """
    for m in prange(blocks.shape[0]):
        sums = _add_up_block(rows, own, start + blocks[m, 0], start + blocks[m, 1])
        squares[m] = _sum_of_squares(sums, lanes[m]) * np.float64(scales[blocks[m, 2]]) ** 2


@kernel
def sgd_update(
    w: Float32,
    rows: GradientSum,
    own: int,
    start: int,
    v: Float32,
    blocks: Int64,
    scales: Float32,
    lr: np.float32,
    momentum: np.float32,
    nesterov: bool,
    weight_decay: np.float32,
    lanes: Float64,
    squares: Float64,
) -> None:
    """Update w and v by one SGD step, in one pass in float32.

    g = scale sum;  g' = g + weight_decay w;  v = momentum v + g';
    d = g' + momentum v if nesterov else v (g' without momentum);  w = w - lr d.

    Args:
        w: (N,) float32, parameters, updated.
        rows: (R, stride) float32 or int32, whose sum over R is that of the shards' gradients, see
            `ddp.kernels.types.Addends`; row `own` is overwritten by it.
        own: which row.
        start: where in a row the parameters begin.
        v: (N,) float32, velocity, updated; (0,) when momentum is 0.
        blocks: (M, 3) int64, from `make_blocks`.
        scales: (T,) float32, what turns each tensor's sums into the gradient of the loss.
        lr: learning rate, the slides' eta.
        momentum: 0 for none.
        nesterov: look ahead by one step of momentum.
        weight_decay: coefficient of the L2 penalty.
        lanes: (M, LANES) float64, workspace.
        squares: (M,) float64, overwritten with each block's sum of g^2, in an order that no thread changes.

    Source: slide "Stochastic Gradient Descent", w = w - eta dL/dw; torch.optim.SGD with dampening 0.
    """
    for m in prange(blocks.shape[0]):
        block, scale = slice(blocks[m, 0], blocks[m, 1]), scales[blocks[m, 2]]
        w_m, v_m = w[block], v[block]  # counted from 0: the compiler then uses vectors
        sums_m = _add_up_block(rows, own, start + blocks[m, 0], start + blocks[m, 1])
        squares[m] = _sum_of_squares(sums_m, lanes[m]) * np.float64(scale) ** 2
        for n in range(w_m.size):
            d = np.float32(sums_m[n]) * scale + weight_decay * w_m[n]
            if v.size > 0:
                v_n = momentum * v_m[n] + d
                v_m[n] = v_n
                d = d + momentum * v_n if nesterov else v_n
            w_m[n] -= lr * d


@kernel
def add_part(part: GradientSum, is_first: bool, total: GradientSum) -> None:
    """Add a rank's sums to the total, or begin it with them.

    Args:
        part: (n,) float32 or int32.
        is_first: whether the total is overwritten.
        total: (n,) of the same type, updated.
    """
    for b in prange(-(-total.size // BLOCK)):
        part_b, total_b = part[b * BLOCK : (b + 1) * BLOCK], total[b * BLOCK : (b + 1) * BLOCK]
        if is_first:
            total_b[:] = part_b
        else:
            for n in range(total_b.size):
                total_b[n] += part_b[n]
