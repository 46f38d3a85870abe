"""Softmax, cross entropy, and their composition.

Axes: B batch, C classes. Labels t are class numbers, the slides' one-hot vectors in short.

Training uses the composition `softmax_cross_entropy`: it never forms the logarithm of a probability
that has rounded to 0. The separate functions are the slides' equations one by one. Labels are not
checked here: a label outside 0 .. C - 1 reads and writes out of bounds.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.types import Float32, Int64

__all__ = [
    "cross_entropy_backward",
    "cross_entropy_forward",
    "softmax_backward",
    "softmax_cross_entropy",
    "softmax_forward",
]


@inline
def _shifted_exp(x: Float32, s: int, y: Float32) -> tuple[np.float32, np.float32]:
    """Write exp(x - peak) of row s to y; return the peak and the sum of the row written."""
    peak = x[s, 0]
    for c in range(1, x.shape[1]):
        peak = max(peak, x[s, c])
    total = np.float32(0)
    for c in range(x.shape[1]):
        # Shifted so that the largest argument is 0 and no exponential overflows.
        y[s, c] = np.exp(x[s, c] - peak)
        total += y[s, c]
    return peak, total


@kernel
def softmax_forward(x: Float32, y: Float32) -> None:
    """Write y = softmax(x), row by row.

    Args:
        x: (B, C) float32, C >= 1.
        y: (B, C) float32, overwritten.

    Source: slide "softmax".
    """
    for s in prange(x.shape[0]):
        _, total = _shifted_exp(x, s, y)
        for c in range(x.shape[1]):
            y[s, c] /= total


@kernel
def softmax_backward(y: Float32, dy: Float32, dx: Float32) -> None:
    """Write dx_j = sum_i dy_i (dy_i/dx_j) = y_j (dy_j - sum_i dy_i y_i).

    Args:
        y: (B, C) float32, the forward pass's output.
        dy: (B, C) float32.
        dx: (B, C) float32, overwritten.

    Source: slide "Derivative of softmax".
    """
    for s in prange(y.shape[0]):
        inner = np.float32(0)
        for c in range(y.shape[1]):
            inner += dy[s, c] * y[s, c]
        for c in range(y.shape[1]):
            dx[s, c] = y[s, c] * (dy[s, c] - inner)


@kernel
def cross_entropy_forward(y: Float32, t: Int64, loss: Float32) -> None:
    """Write loss = H(t, y) = -log y_t of each sample.

    Args:
        y: (B, C) float32, probabilities.
        t: (B,) int64, 0 <= t < C.
        loss: (B,) float32, overwritten.

    Source: slide "Cross entropy".
    """
    for s in prange(y.shape[0]):
        loss[s] = -np.log(y[s, t[s]])


@kernel
def cross_entropy_backward(y: Float32, t: Int64, dy: Float32) -> None:
    """Write dy = -1 / y_t at the label, 0 elsewhere.

    Args:
        y: (B, C) float32, probabilities.
        t: (B,) int64, 0 <= t < C.
        dy: (B, C) float32, overwritten.

    Source: slide "Cross entropy", derivative of H.
    """
    for s in prange(y.shape[0]):
        for c in range(y.shape[1]):
            dy[s, c] = 0
        dy[s, t[s]] = np.float32(-1) / y[s, t[s]]


@kernel
def softmax_cross_entropy(x: Float32, t: Int64, loss: Float32, dx: Float32) -> None:
    """Write loss = H(t, softmax(x)) of each sample and its gradient dx = softmax(x) - t.

    With peak = max x, the loss is log(sum exp(x - peak)) - (x_t - peak): finite for any finite x.

    Args:
        x: (B, C) float32, C >= 1.
        t: (B,) int64, 0 <= t < C.
        loss: (B,) float32, overwritten.
        dx: (B, C) float32, overwritten.

    Source: slide "Composition of softmax and cross entropy".
    """
    for s in prange(x.shape[0]):
        peak, total = _shifted_exp(x, s, dx)
        loss[s] = np.log(total) - (x[s, t[s]] - peak)
        for c in range(x.shape[1]):
            dx[s, c] /= total
        dx[s, t[s]] -= np.float32(1)
