"""Sums over the samples of each logical shard.

Axes: B batch, S logical shards.
"""

from __future__ import annotations

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Float64, Int64

__all__ = ["sum_shards"]


@kernel
def sum_shards(x: Float32, shards: Int64, total: Float64) -> None:
    """Write the sum of each shard's numbers, in float64, in the order of its samples.

    Args:
        x: (B,) float32.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        total: (S,) float64, overwritten.
    """
    for shard in prange(total.shape[0]):
        sum_k = 0.0
        for s in range(shards[shard], shards[shard + 1]):
            sum_k += x[s]
        total[shard] = sum_k
