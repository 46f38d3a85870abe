"""The fully connected layer on the FMA tile: y = x w + b with samples as rows.

Axes: B batch, I input features, O output features.

The slides ("Linear (a.k.a. Fully Connected Layer)") write y = W x for one column vector x; here a batch stacks
samples as rows. Weights are kept inputs first, w = W^T of shape (I, O), as those of a convolution are: outputs
are then contiguous in the forward pass and in the weight gradient, whose every element is written once, in order.
The pass by input sums over outputs, along which both its operands are contiguous: it takes dot products.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.dot import DOT_COLUMNS, DOT_ROWS, dot_tile
from ddp.kernels.jit import get_thread_id, inline, kernel, prange
from ddp.kernels.shard_tile import SHARD_ROWS, tile_over_shards
from ddp.kernels.tile import ACCUMULATE, RELU, TILE_COLUMNS, TILE_ROWS, WITH_BIAS, tile_activation
from ddp.kernels.types import Float32, GradientSum, Int64

__all__ = ["linear_backward_bias", "linear_backward_input", "linear_backward_weight", "linear_forward"]

ONE = np.ones(1, np.float32)
DEPTH = 512  # of a block along I: a panel of w, 64 kB, stays in the second-level cache while all samples pass
STRIP = 4 * DOT_COLUMNS  # rows of w, 32 kB of 512 outputs each, that stay in L1 while all samples pass


@inline
def _num_blocks(n: int, largest: int) -> int:
    """How many blocks of at most `largest` items hold n."""
    return (n + largest - 1) // largest


@kernel
def linear_forward(x: Float32, w: Float32, b: Float32, relu: bool, y: Float32) -> None:
    """Write y = x w + b, or its ReLU.

    Args:
        x: (B, I) float32.
        w: (I, O) float32.
        b: (O,) float32, or (0,) for no bias.
        relu: whether y is max(., 0) of it.
        y: (B, O) float32, overwritten.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", y_i = sum_j W_ij x_j.
    """
    (B, I), O = x.shape, y.shape[1]  # noqa: E741
    num_blocks = _num_blocks(B, TILE_ROWS)
    for panel in prange(_num_blocks(O, TILE_COLUMNS)):
        o = panel * TILE_COLUMNS
        columns = min(TILE_COLUMNS, O - o)
        for first in range(0, I, DEPTH):
            depth = min(DEPTH, I - first)
            flags = ACCUMULATE if first > 0 else 0
            if first + depth == I:
                flags |= (WITH_BIAS if b.shape[0] > 0 else 0) | (RELU if relu else 0)
            for block in range(num_blocks):
                s, end = B * block // num_blocks, B * (block + 1) // num_blocks
                tile_activation(
                    x, s * I + first, I, 0, 0, 1, w, first * O + o, 0, 0, O, 1, 1, depth,
                    end - s, columns, y, s * O + o, O, b, o, 0, flags,
                )  # fmt: skip


@kernel
def linear_backward_weight(
    x: Float32, dy: Float32, shards: Int64, scale: np.float32, dw: GradientSum, largest: Int64
) -> None:
    """Write dw, the total over the logical shards of each one's x^T dy.

    A shard's sum is taken in float32, in the order of its samples: it has the same bits whichever rank computes it.

    Args:
        x: (B, I) float32.
        dy: (B, O) float32.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        scale: what each shard's sum is multiplied by, before it is rounded to an integer if dw is int32.
        dw: (I, O) float32 or int32, overwritten; zero for an empty batch.
        largest: (threads,) int64, one of which is raised to the bits of the largest |sum * scale|, as a float32's.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", dL/dW = dL/dy x (outer product).
    """
    I, O = dw.shape  # noqa: E741
    num_shards = shards.shape[0] - 1
    for block in prange(_num_blocks(I, SHARD_ROWS)):
        i = block * SHARD_ROWS
        rows = min(SHARD_ROWS, I - i)
        for o in range(0, O, TILE_COLUMNS):
            found = tile_over_shards(
                x, i, 1, I, dy, o, O, shards, num_shards, scale,
                rows, min(TILE_COLUMNS, O - o), dw, i * O + o, O,
            )  # fmt: skip
            thread = get_thread_id()
            largest[thread] = max(largest[thread], found)


@kernel
def linear_backward_bias(dy: Float32, shards: Int64, scale: np.float32, db: GradientSum, largest: Int64) -> None:
    """Write db, the total over the logical shards of each one's sum of the rows of dy.

    Args:
        dy: (N, O) float32: a row a sample, or a pixel.
        shards: (S + 1,) int64, rising from 0 to N: where each shard begins, and the end.
        scale: as for `linear_backward_weight`.
        db: (O,) float32 or int32, overwritten; zero for an empty batch.
        largest: as for the weights.

    Source: the slides have no bias; y = W x + b gives dL/db = sum over the batch of dL/dy, the product
    of a row of ones with dy.
    """
    O = db.shape[0]  # noqa: E741
    num_shards = shards.shape[0] - 1
    for block in prange(_num_blocks(O, TILE_COLUMNS)):
        o = block * TILE_COLUMNS
        found = tile_over_shards(
            ONE, 0, 0, 0, dy, o, O, shards, num_shards, scale,
            1, min(TILE_COLUMNS, O - o), db, o, 0,
        )  # fmt: skip
        thread = get_thread_id()
        largest[thread] = max(largest[thread], found)


@kernel
def linear_backward_input(dy: Float32, w: Float32, x: Float32, dx: Float32) -> None:
    """Write dx = dy w^T, and if x is given, only where x > 0.

    Args:
        dy: (B, O) float32.
        w: (I, O) float32.
        x: (B, I) float32 output of the ReLU whose derivative is to be applied, or (0, I) for none.
        dx: (B, I) float32, overwritten.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", dL/dx = dL/dy W (vector-matrix product).
    """
    (B, I), O = dx.shape, dy.shape[1]  # noqa: E741
    masked = 1 if x.shape[0] > 0 else 0
    for strip in prange(_num_blocks(I, STRIP)):
        end = min((strip + 1) * STRIP, I)
        for s in range(0, B, DOT_ROWS):
            rows = min(DOT_ROWS, B - s)
            for i in range(strip * STRIP, end, DOT_COLUMNS):
                dot_tile(
                    dy, s * O, O, w, i * O, O, O, rows, min(DOT_COLUMNS, end - i),
                    dx, s * I + i, I, x, s * I + i, I, masked,
                )  # fmt: skip
