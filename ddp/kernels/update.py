"""What the updates of all optimizers are made of: blocks of the flat buffers, their sums over the ranks, and norms.

Axes: N parameters, M blocks of them, each within one parameter tensor.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.types import Float32, Float64, GradientSum, Int64

__all__ = ["LANES", "add_part", "add_up", "add_up_block", "make_blocks", "square_blocks", "sum_of_squares"]

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
def sum_of_squares(x: GradientSum, lanes: Float64) -> float:
    """The sum of x^2 of one block, (n,), in an order that no thread changes; lanes: (LANES,) float64, workspace."""
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
def add_up_block(rows: GradientSum, own: int, first: int, end: int) -> GradientSum:
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
        sums = add_up_block(rows, own, start + blocks[m, 0], start + blocks[m, 1])
        squares[m] = sum_of_squares(sums, lanes[m]) * np.float64(scales[blocks[m, 2]]) ** 2


@kernel
def square_blocks(x: Float32, blocks: Int64, lanes: Float64, squares: Float64) -> None:
    """Square a buffer, for those who must know the norm of each tensor of it.

    Args:
        x: (N,) float32.
        blocks: (M, 3) int64, from `make_blocks`.
        lanes: (M, LANES) float64, workspace.
        squares: (M,) float64, overwritten with each block's sum of x^2.
    """
    for m in prange(blocks.shape[0]):
        squares[m] = sum_of_squares(x[blocks[m, 0] : blocks[m, 1]], lanes[m])


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
