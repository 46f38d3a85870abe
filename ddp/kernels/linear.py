"""The fully connected layer on the FMA tile: y = x w^T + b with samples as rows.

Axes: B batch, I input features, O output features.

The slides ("Linear (a.k.a. Fully Connected Layer)") write y = W x for one column vector x; here a batch
stacks samples as rows. w is their W, (O, I). All three passes read both operands along a contiguous axis:
the forward pass as dot products along I, the two others with vectors along I.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.dot import DOT_ROWS, dot_tile
from ddp.kernels.jit import kernel, prange
from ddp.kernels.shard_tile import SHARD_ROWS, tile_over_shards
from ddp.kernels.tile import (
    ACCUMULATE,
    RELU,
    TILE_COLUMNS,
    TILE_ROWS,
    WITH_BIAS,
    tile_masked,
)
from ddp.kernels.types import Float32, Float64, Int64

__all__ = ["linear_backward_bias", "linear_backward_input", "linear_backward_weight", "linear_forward"]

ONE = np.ones(1, np.float32)
DEPTH = 2048  # of a block along I: four rows of w, 32 kB, stay in L1 while all samples pass


@kernel
def linear_forward(x: Float32, w: Float32, b: Float32, relu: bool, y: Float32) -> None:
    """Write y = x w^T + b, or its ReLU.

    Args:
        x: (B, I) float32.
        w: (O, I) float32.
        b: (O,) float32, or (0,) for no bias.
        relu: whether y is max(., 0) of it.
        y: (B, O) float32, overwritten.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", y_i = sum_j W_ij x_j.
    """
    (B, I), O = x.shape, y.shape[1]  # noqa: E741
    for first in range(0, I, DEPTH):
        depth = min(DEPTH, I - first)
        flags = ACCUMULATE if first > 0 else 0
        if first + depth == I:
            flags |= (WITH_BIAS if b.shape[0] > 0 else 0) | (RELU if relu else 0)
        for block in prange((O + DOT_ROWS - 1) // DOT_ROWS):
            o = block * DOT_ROWS
            for s in range(0, B, DOT_ROWS):
                rows, columns = min(DOT_ROWS, B - s), min(DOT_ROWS, O - o)
                dot_tile(x, s * I + first, I, w, o * I + first, I, depth, rows, columns, y, s * O + o, O, b, o, flags)


@kernel
def linear_backward_weight(x: Float32, dy: Float32, shards: Int64, dw: Float64) -> None:
    """Write dw, the sum over the logical shards of each one's dy^T x.

    A shard's sum is taken in float32, in the order of its samples; shards are added in float64. So a
    shard gives the same bits whichever rank computes it, and the sum hardly depends on who adds what.

    Args:
        x: (B, I) float32.
        dy: (B, O) float32.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        dw: (O, I) float64, overwritten; zero for an empty batch.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", dL/dW = dL/dy x (outer product).
    """
    O, I = dw.shape  # noqa: E741
    num_shards = shards.shape[0] - 1
    for block in prange((I + TILE_COLUMNS - 1) // TILE_COLUMNS):
        i = block * TILE_COLUMNS
        columns = min(TILE_COLUMNS, I - i)
        for o in range(0, O, SHARD_ROWS):
            rows = min(SHARD_ROWS, O - o)
            tile_over_shards(dy, o, 1, O, x, i, I, shards, num_shards, rows, columns, dw, o * I + i, I)


@kernel
def linear_backward_bias(dy: Float32, shards: Int64, db: Float64) -> None:
    """Write db, the sum over the logical shards of each one's sum of the rows of dy.

    Args:
        dy: (N, O) float32: a row a sample, or a pixel.
        shards: (S + 1,) int64, rising from 0 to N: where each shard begins, and the end.
        db: (O,) float64, overwritten; zero for an empty batch.

    Source: the slides have no bias; y = W x + b gives dL/db = sum over the batch of dL/dy, the product
    of a row of ones with dy.
    """
    O = db.shape[0]  # noqa: E741
    num_shards = shards.shape[0] - 1
    for block in prange((O + TILE_COLUMNS - 1) // TILE_COLUMNS):
        o = block * TILE_COLUMNS
        columns = min(TILE_COLUMNS, O - o)
        tile_over_shards(ONE, 0, 0, 0, dy, o, O, shards, num_shards, 1, columns, db, o, 0)


@kernel
def linear_backward_input(dy: Float32, w: Float32, x: Float32, dx: Float32) -> None:
    """Write dx = dy w, and if x is given, only where x > 0.

    Args:
        dy: (B, O) float32.
        w: (O, I) float32.
        x: (B, I) float32 output of the ReLU whose derivative is to be applied, or (0, I) for none.
        dx: (B, I) float32, overwritten.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", dL/dx = dL/dy W (vector-matrix product).
    """
    (B, I), O = dx.shape, dy.shape[1]  # noqa: E741
    masked = 1 if x.shape[0] > 0 else 0
    for block in prange((I + TILE_COLUMNS - 1) // TILE_COLUMNS):
        i = block * TILE_COLUMNS
        columns = min(TILE_COLUMNS, I - i)
        for s in range(0, B, TILE_ROWS):
            tile_masked(
                dy, s * O, O, 0, 0, 1, w, i, 0, 0, I, 1, 1, O,
                min(TILE_ROWS, B - s), columns, dx, s * I + i, I, x, s * I + i, I, masked,
            )  # fmt: skip
