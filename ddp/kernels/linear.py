"""The fully connected layer: y = x w + b with samples as rows.

Axes: B batch, I input features, O output features.

The slides ("Linear (a.k.a. Fully Connected Layer)") write y = W x for one column vector x; here a
batch stacks samples as rows, so w is their W transposed, (I, O), and every inner loop runs over
contiguous O. Each output element is summed in one fixed order, whatever the batch or the threads; sums
over samples go shard by shard, the logical shard being the unit of arithmetic.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Float64, Int64

__all__ = ["linear_backward_bias", "linear_backward_input", "linear_backward_weight", "linear_forward"]

CHANNELS_PER_CACHE_LINE = 16


@kernel
def linear_forward(x: Float32, w: Float32, b: Float32, y: Float32) -> None:
    """Write y = x w + b.

    Args:
        x: (B, I) float32.
        w: (I, O) float32.
        b: (O,) float32, or (0,) for no bias.
        y: (B, O) float32, overwritten.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", y_i = sum_j W_ij x_j.
    """
    for s in prange(x.shape[0]):
        for o in range(y.shape[1]):
            y[s, o] = b[o] if b.shape[0] > 0 else 0
        for i in range(x.shape[1]):
            x_si = x[s, i]
            for o in range(y.shape[1]):
                y[s, o] += x_si * w[i, o]


@kernel
def linear_backward_weight(x: Float32, dy: Float32, shards: Int64, leaf: Float32, dw: Float64) -> None:
    """Write dw, the sum over the logical shards of each one's x^T dy.

    A shard's sum is taken in float32, in the order of its samples; shards are added in float64. So a
    shard gives the same bits whichever rank computes it, and the sum hardly depends on who adds what.

    Args:
        x: (B, I) float32.
        dy: (B, O) float32.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        leaf: (I, O) float32, workspace; holds the last shard's gradient afterwards.
        dw: (I, O) float64, overwritten; zero for an empty batch.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", dL/dW = dL/dy x (outer product).
    """
    for i in prange(dw.shape[0]):
        for o in range(dw.shape[1]):
            dw[i, o] = 0
        for shard in range(shards.shape[0] - 1):
            for o in range(dw.shape[1]):
                leaf[i, o] = 0
            for s in range(shards[shard], shards[shard + 1]):
                x_si = x[s, i]
                for o in range(dw.shape[1]):
                    leaf[i, o] += x_si * dy[s, o]
            for o in range(dw.shape[1]):
                dw[i, o] += leaf[i, o]


@kernel
def linear_backward_bias(dy: Float32, shards: Int64, leaf: Float32, db: Float64) -> None:
    """Write db, the sum over the logical shards of each one's sum of the rows of dy.

    Args:
        dy: (B, O) float32.
        shards: (S + 1,) int64, as for `linear_backward_weight`.
        leaf: (O,) float32, workspace.
        db: (O,) float64, overwritten; zero for an empty batch.

    Source: the slides have no bias; y = x w + b gives dL/db = sum over the batch of dL/dy.
    """
    # A thread owns whole cache lines of a row, so each line of dy is read by one thread only.
    for line in prange((db.shape[0] + CHANNELS_PER_CACHE_LINE - 1) // CHANNELS_PER_CACHE_LINE):
        first = line * CHANNELS_PER_CACHE_LINE
        last = min(first + CHANNELS_PER_CACHE_LINE, db.shape[0])
        for o in range(first, last):
            db[o] = 0
        for shard in range(shards.shape[0] - 1):
            for o in range(first, last):
                leaf[o] = 0
            for s in range(shards[shard], shards[shard + 1]):
                for o in range(first, last):
                    leaf[o] += dy[s, o]
            for o in range(first, last):
                db[o] += leaf[o]


@kernel
def linear_backward_input(dy: Float32, w: Float32, dx: Float32) -> None:
    """Write dx = dy w^T.

    Args:
        dy: (B, O) float32.
        w: (I, O) float32.
        dx: (B, I) float32, overwritten.

    Source: slide "Linear (a.k.a. Fully Connected Layer)", dL/dx = dL/dy W (vector-matrix product).
    """
    for s in prange(dx.shape[0]):
        for i in range(dx.shape[1]):
            total = np.float32(0)
            for o in range(dy.shape[1]):
                total += dy[s, o] * w[i, o]
            dx[s, i] = total
