"""Batch normalisation over logical shards, channels last.

Axes: N rows, each a pixel or a sample, C channels, S logical shards of consecutive rows.

Every shard is normalised by its own mean and variance, so that its result does not depend on which rank computes
it. A task is one shard and a block of channels: it sums over the shard's rows in float64, then visits the rows,
which are still in the cache, once more. No sum is split over tasks, so threads do not matter either.

Source: S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015; over parts of a batch: E. Hoffer, I. Hubara and
D. Soudry, "Train longer, generalize better", NIPS 2017 ("ghost batch normalization"). The slides do not define it.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Float64, Int64

__all__ = ["batchnorm_backward", "batchnorm_forward", "batchnorm_inference"]

BLOCK = 128  # channels of a task: rows of at least 512 contiguous bytes, or whole rows
ZERO = np.float32(0)


@kernel
def batchnorm_forward(
    x: Float32,
    shards: Int64,
    gamma: Float32,
    beta: Float32,
    eps: float,
    relu: bool,
    y: Float32,
    mean: Float64,
    variance: Float64,
    inv_std: Float32,
) -> None:
    """Write y = gamma (x - mean) / sqrt(variance + eps) + beta, or its ReLU, and each shard's statistics.

    Args:
        x: (N, C) float32.
        shards: (S + 1,) int64, rising from 0 to N: where each shard begins, and the end.
        gamma: (C,) float32, factor.
        beta: (C,) float32, offset.
        eps: added to the variance.
        relu: whether y is max(., 0) of it; a NaN stays a NaN.
        y: (N, C) float32, overwritten.
        mean: (S, C) float64, overwritten with means rounded to float32; 0 for an empty shard.
        variance: (S, C) float64, overwritten with unbiased variances (sum of squares / (n - 1), for the running
            statistics) rounded to float32; 0 for a shard of one row or none.
        inv_std: (S, C) float32, overwritten with 1 / sqrt(v + eps), v being sum of squares / n.

    Source: Ioffe and Szegedy, Algorithm 1.
    """
    C = x.shape[1]
    num_blocks = (C + BLOCK - 1) // BLOCK
    for task in prange((shards.shape[0] - 1) * num_blocks):
        shard, block = task // num_blocks, slice(task % num_blocks * BLOCK, (task % num_blocks + 1) * BLOCK)
        start, end = shards[shard], shards[shard + 1]
        size = max(end - start, 1)
        mean_k, variance_k, inv_std_k = mean[shard, block], variance[shard, block], inv_std[shard, block]
        gamma_k, beta_k = gamma[block], beta[block]
        for c in range(mean_k.size):
            mean_k[c] = variance_k[c] = 0
        for n in range(start, end):
            x_n = x[n, block]
            for c in range(x_n.size):
                x_nc = np.float64(x_n[c])
                mean_k[c] += x_nc
                variance_k[c] += x_nc * x_nc
        for c in range(mean_k.size):
            mu = mean_k[c] / size
            # In float64 the difference keeps enough digits: squares of float32 numbers are exact there.
            sigma2 = variance_k[c] / size - mu * mu
            sigma2 = 0.0 if sigma2 < 0 else sigma2
            mean_k[c] = np.float32(mu)
            variance_k[c] = np.float32(sigma2 * size / max(size - 1, 1))
            inv_std_k[c] = 1 / np.sqrt(sigma2 + eps)
        for n in range(start, end):
            x_n, y_n = x[n, block], y[n, block]
            for c in range(x_n.size):
                y_nc = gamma_k[c] * ((x_n[c] - np.float32(mean_k[c])) * inv_std_k[c]) + beta_k[c]
                y_n[c] = ZERO if relu and y_nc <= ZERO else y_nc


@kernel
def batchnorm_backward(
    x: Float32,
    dy: Float32,
    shards: Int64,
    gamma: Float32,
    mean: Float64,
    inv_std: Float32,
    masked: bool,
    dx: Float32,
    dgamma: Float64,
    dbeta: Float64,
) -> None:
    """Write dx and each shard's leaf gradients by gamma and beta.

    With x^ = (x - mean) inv_std and n rows in the shard: dbeta = sum dy; dgamma = sum dy x^;
    dx = gamma inv_std (dy - dbeta / n - x^ dgamma / n).

    Args:
        x: (N, C) float32.
        dy: (N, C) float32.
        shards: (S + 1,) int64, as in the forward pass.
        gamma: (C,) float32.
        mean: (S, C) float64, from the forward pass.
        inv_std: (S, C) float32, from the forward pass.
        masked: whether x is the output of a ReLU whose derivative is to be applied: dx only where x > 0.
        dx: (N, C) float32, overwritten.
        dgamma: (S, C) float64, overwritten with sums rounded to float32; zero for an empty shard.
        dbeta: (S, C) float64, likewise.

    Source: Ioffe and Szegedy, section 3, the gradients by x, gamma and beta put together.
    """
    C = x.shape[1]
    num_blocks = (C + BLOCK - 1) // BLOCK
    for task in prange((shards.shape[0] - 1) * num_blocks):
        shard, block = task // num_blocks, slice(task % num_blocks * BLOCK, (task % num_blocks + 1) * BLOCK)
        start, end = shards[shard], shards[shard + 1]
        share = 1.0 / max(end - start, 1)
        mean_k, inv_std_k, gamma_k = mean[shard, block], inv_std[shard, block], gamma[block]
        dgamma_k, dbeta_k = dgamma[shard, block], dbeta[shard, block]
        for c in range(dgamma_k.size):
            dgamma_k[c] = dbeta_k[c] = 0
        for n in range(start, end):
            x_n, dy_n = x[n, block], dy[n, block]
            for c in range(x_n.size):
                dy_nc = np.float64(dy_n[c])
                dgamma_k[c] += dy_nc * (np.float64(x_n[c]) - mean_k[c])
                dbeta_k[c] += dy_nc
        for c in range(dgamma_k.size):
            dgamma_k[c] = np.float32(dgamma_k[c] * inv_std_k[c])
            dbeta_k[c] = np.float32(dbeta_k[c])
        for n in range(start, end):
            x_n, dy_n, dx_n = x[n, block], dy[n, block], dx[n, block]
            for c in range(x_n.size):
                x_hat = (x_n[c] - np.float32(mean_k[c])) * inv_std_k[c]
                common = np.float32(dbeta_k[c] * share) + x_hat * np.float32(dgamma_k[c] * share)
                dx_nc = gamma_k[c] * inv_std_k[c] * (dy_n[c] - common)
                dx_n[c] = ZERO if masked and not x_n[c] > ZERO else dx_nc


@kernel
def batchnorm_inference(
    x: Float32, gamma: Float32, beta: Float32, mean: Float32, inv_std: Float32, relu: bool, y: Float32
) -> None:
    """Write y = gamma (x - mean) inv_std + beta, or its ReLU, with statistics that are given.

    Args:
        x: (N, C) float32.
        gamma: (C,) float32.
        beta: (C,) float32.
        mean: (C,) float32, the running mean.
        inv_std: (C,) float32, 1 / sqrt(running variance + eps).
        relu: whether y is max(., 0) of it; a NaN stays a NaN.
        y: (N, C) float32, overwritten.

    Source: Ioffe and Szegedy, Algorithm 2.
    """
    for n in prange(x.shape[0]):
        for c in range(x.shape[1]):
            y_nc = gamma[c] * ((x[n, c] - mean[c]) * inv_std[c]) + beta[c]
            y[n, c] = ZERO if relu and y_nc <= ZERO else y_nc
