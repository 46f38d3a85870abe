"""Batch normalisation over logical shards, channels last.

Axes: N rows, each a pixel or a sample, C channels, S logical shards of consecutive rows, P parts of shards.

Every shard is normalised by its own mean and variance, so that its result does not depend on which rank computes
it. Each direction reads its operands twice, once for sums over the rows, in float64, and once to write its result,
whole rows at a time. A task is a part of a shard, cut by `cut_shards` from the shard's beginning and by the number of
channels alone: so neither ranks nor threads matter, and one shard is enough for all threads.

Source: S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015; over parts of a batch: E. Hoffer, I. Hubara and
D. Soudry, "Train longer, generalize better", NIPS 2017 ("ghost batch normalization"). The slides do not define it.
"""

from __future__ import annotations

import itertools

import numpy as np

from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.types import Float32, Float64, Int64

__all__ = [
    "batchnorm_backward_input",
    "batchnorm_backward_sums",
    "batchnorm_forward_sums",
    "batchnorm_gradients",
    "batchnorm_normalise",
    "batchnorm_statistics",
    "cut_shards",
]

PART = 32_768  # elements of a part: 128 KB, many to a large layer and one to a small layer's shard
BLOCK = 64  # channels of a task that goes over all shards: whole cache lines
ZERO = np.float32(0)
Eight = tuple[float, float, float, float, float, float, float, float]


def cut_shards(shards: Int64, num_channels: int) -> tuple[Int64, Int64]:
    """Cut shards into parts of whole rows, about as large as `PART`.

    Args:
        shards: (S + 1,) rising from 0 to N: where each shard begins, and the end.
        num_channels: C.

    Returns:
        (P, 4) int64, a row for each part: its first row, where it ends, its shard, and the rows of that shard;
        (S + 1,) int64, the first part of each shard, and P.
    """
    rows = max(1, PART // num_channels)
    parts = [
        (first, min(first + rows, end), shard, end - start)
        for shard, (start, end) in enumerate(itertools.pairwise(shards.tolist()))
        for first in range(start, end, rows)
    ]
    table = np.array(parts, np.int64).reshape(-1, 4)
    return table, np.searchsorted(table[:, 2], np.arange(len(shards))).astype(np.int64)


@inline
def _eight(x: Float32, n: int, c: int) -> Eight:
    """A column of eight rows in float64: a running sum is loaded and stored once for all of them."""
    a, b, d, e = np.float64(x[n, c]), np.float64(x[n + 1, c]), np.float64(x[n + 2, c]), np.float64(x[n + 3, c])
    f, g, h, i = np.float64(x[n + 4, c]), np.float64(x[n + 5, c]), np.float64(x[n + 6, c]), np.float64(x[n + 7, c])
    return a, b, d, e, f, g, h, i


@inline
def _sum(a: Eight) -> float:
    return ((a[0] + a[1]) + (a[2] + a[3])) + ((a[4] + a[5]) + (a[6] + a[7]))


@inline
def _products(a: Eight, b: Eight, shift: float) -> float:
    """The sum of a (b - shift)."""
    upper = (a[0] * (b[0] - shift) + a[1] * (b[1] - shift)) + (a[2] * (b[2] - shift) + a[3] * (b[3] - shift))
    lower = (a[4] * (b[4] - shift) + a[5] * (b[5] - shift)) + (a[6] * (b[6] - shift) + a[7] * (b[7] - shift))
    return upper + lower


@kernel
def batchnorm_forward_sums(x: Float32, parts: Int64, sums: Float64) -> None:
    """Write sum x and sum x^2 over the rows of each part.

    Args:
        x: (N, C) float32.
        parts: (P, 4) int64, from `cut_shards`.
        sums: (P, 2, C) float64, overwritten.
    """
    C = x.shape[1]
    for part in prange(parts.shape[0]):
        start, end = parts[part, 0], parts[part, 1]
        total, squares = sums[part, 0], sums[part, 1]
        for c in range(C):
            total[c] = squares[c] = 0
        for n in range(start, end - 7, 8):
            for c in range(C):
                x_n = _eight(x, n, c)
                total[c] += _sum(x_n)
                squares[c] += _products(x_n, x_n, 0.0)
        for n in range(end - (end - start) % 8, end):
            for c in range(C):
                x_nc = np.float64(x[n, c])
                total[c] += x_nc
                squares[c] += x_nc * x_nc


@inline
def _add_parts(sums: Float64, first: int, last: int, c: int, end: int) -> None:
    """Add a shard's parts to its first one, in their order, for channels c to end - 1."""
    for part in range(first + 1, last):
        for k in range(c, end):
            sums[first, 0, k] += sums[part, 0, k]
            sums[first, 1, k] += sums[part, 1, k]


@kernel
def batchnorm_statistics(
    sums: Float64,
    parts: Int64,
    first_parts: Int64,
    eps: float,
    mean: Float64,
    variance: Float32,
    inv_std: Float32,
) -> None:
    """Write each shard's mean and variance, zeros for an empty shard.

    Args:
        sums: (P, 2, C) float64, from `batchnorm_forward_sums`; overwritten.
        parts: (P, 4) int64, from `cut_shards`.
        first_parts: (S + 1,) int64, from `cut_shards`.
        eps: added to the variance.
        mean: (S, C) float64, overwritten with means rounded to float32.
        variance: (S, C) float32, overwritten with unbiased variances (sum of squares / (n - 1), for the running
            statistics); 0 for a shard of one row or none.
        inv_std: (S, C) float32, overwritten with 1 / sqrt(v + eps), v being sum of squares / n.

    Source: Ioffe and Szegedy, Algorithm 1.
    """
    S, C = mean.shape
    for block in prange((C + BLOCK - 1) // BLOCK):
        start, end = block * BLOCK, min(block * BLOCK + BLOCK, C)
        for shard in range(S):
            first, last = first_parts[shard], first_parts[shard + 1]
            size = parts[first, 3] if first < last else 0
            _add_parts(sums, first, last, start, end)
            for c in range(start, end):
                mu = sums[first, 0, c] / size if size > 0 else 0.0
                # In float64 the difference keeps enough digits: squares of float32 numbers are exact there.
                sigma2 = sums[first, 1, c] / size - mu * mu if size > 0 else 0.0
                sigma2 = 0.0 if sigma2 < 0 else sigma2
                mean[shard, c] = np.float32(mu)
                variance[shard, c] = sigma2 * size / max(size - 1, 1)
                inv_std[shard, c] = 1 / np.sqrt(sigma2 + eps)


@kernel
def batchnorm_normalise(
    x: Float32, parts: Int64, gamma: Float32, beta: Float32, mean: Float64, inv_std: Float32, relu: bool, y: Float32
) -> None:
    """Write y = gamma (x - mean) inv_std + beta, or its ReLU.

    Args:
        x: (N, C) float32.
        parts: (P, 4) int64, from `cut_shards`.
        gamma: (C,) float32, factor.
        beta: (C,) float32, offset.
        mean: (S, C) float64, of each shard in training; the running mean of one shard in evaluation.
        inv_std: (S, C) float32, likewise 1 / sqrt(variance + eps).
        relu: whether y is max(., 0) of it; a NaN stays a NaN.
        y: (N, C) float32, overwritten.

    Source: Ioffe and Szegedy, Algorithms 1 and 2.
    """
    for part in prange(parts.shape[0]):
        mean_k, inv_std_k = mean[parts[part, 2]], inv_std[parts[part, 2]]
        for n in range(parts[part, 0], parts[part, 1]):
            x_n, y_n = x[n], y[n]
            for c in range(gamma.size):
                # The mean's conversion halves the vectors: whole-line stores to memory took nearly twice as long.
                y_nc = gamma[c] * ((x_n[c] - np.float32(mean_k[c])) * inv_std_k[c]) + beta[c]
                y_n[c] = ZERO if relu and y_nc <= ZERO else y_nc


@kernel
def batchnorm_backward_sums(x: Float32, dy: Float32, parts: Int64, mean: Float64, sums: Float64) -> None:
    """Write sum dy and sum dy (x - mean) over the rows of each part.

    Args:
        x: (N, C) float32.
        dy: (N, C) float32.
        parts: (P, 4) int64, from `cut_shards`.
        mean: (S, C) float64, from the forward pass.
        sums: (P, 2, C) float64, overwritten.
    """
    C = x.shape[1]
    for part in prange(parts.shape[0]):
        start, end, mean_k = parts[part, 0], parts[part, 1], mean[parts[part, 2]]
        total, products = sums[part, 0], sums[part, 1]
        for c in range(C):
            total[c] = products[c] = 0
        for n in range(start, end - 7, 8):
            for c in range(C):
                dy_n = _eight(dy, n, c)
                total[c] += _sum(dy_n)
                products[c] += _products(dy_n, _eight(x, n, c), mean_k[c])
        for n in range(end - (end - start) % 8, end):
            for c in range(C):
                dy_nc = np.float64(dy[n, c])
                total[c] += dy_nc
                products[c] += dy_nc * (np.float64(x[n, c]) - mean_k[c])


@kernel
def batchnorm_gradients(
    sums: Float64,
    first_parts: Int64,
    inv_std: Float32,
    dgamma: Float32,
    dbeta: Float32,
) -> None:
    """Write each shard's leaf gradients by gamma and beta, zeros for an empty shard.

    With x^ = (x - mean) inv_std: dgamma = sum dy x^, dbeta = sum dy.

    Args:
        sums: (P, 2, C) float64, from `batchnorm_backward_sums`; overwritten.
        first_parts: (S + 1,) int64, from `cut_shards`.
        inv_std: (S, C) float32, from the forward pass.
        dgamma: (S, C) float32, overwritten.
        dbeta: (S, C) float32, overwritten.
    """
    S, C = inv_std.shape
    for block in prange((C + BLOCK - 1) // BLOCK):
        start, end = block * BLOCK, min(block * BLOCK + BLOCK, C)
        for shard in range(S):
            first, last = first_parts[shard], first_parts[shard + 1]
            _add_parts(sums, first, last, start, end)
            for c in range(start, end):
                dgamma[shard, c] = sums[first, 1, c] * inv_std[shard, c] if first < last else 0.0
                dbeta[shard, c] = sums[first, 0, c] if first < last else 0.0


@kernel
def batchnorm_backward_input(
    x: Float32,
    dy: Float32,
    parts: Int64,
    gamma: Float32,
    mean: Float64,
    inv_std: Float32,
    dgamma: Float32,
    dbeta: Float32,
    masked: bool,
    dx: Float32,
) -> None:
    """Write dx = gamma inv_std (dy - dbeta / n - x^ dgamma / n), n being the rows of the shard.

    Args:
        x: (N, C) float32.
        dy: (N, C) float32.
        parts: (P, 4) int64, from `cut_shards`.
        gamma: (C,) float32.
        mean: (S, C) float64, from the forward pass.
        inv_std: (S, C) float32, from the forward pass.
        dgamma: (S, C) float32, from `batchnorm_gradients`.
        dbeta: (S, C) float32, likewise.
        masked: whether x is the output of a ReLU whose derivative is to be applied: dx only where x > 0.
        dx: (N, C) float32, overwritten.

    Source: Ioffe and Szegedy, section 3, the gradients by x, gamma and beta put together.
    """
    for part in prange(parts.shape[0]):
        shard, share = parts[part, 2], np.float32(1 / parts[part, 3])
        mean_k, inv_std_k, dgamma_k, dbeta_k = mean[shard], inv_std[shard], dgamma[shard], dbeta[shard]
        for n in range(parts[part, 0], parts[part, 1]):
            x_n, dy_n, dx_n = x[n], dy[n], dx[n]
            for c in range(gamma.size):
                x_hat = (x_n[c] - np.float32(mean_k[c])) * inv_std_k[c]
                common = (dbeta_k[c] + x_hat * dgamma_k[c]) * share
                dx_nc = gamma[c] * inv_std_k[c] * (dy_n[c] - common)
                dx_n[c] = ZERO if masked and not x_n[c] > ZERO else dx_nc
