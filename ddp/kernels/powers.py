"""The powers of a number: what a polynomial is a linear function of.

Axes: B batch, D degree.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32

__all__ = ["powers_backward", "powers_forward"]


@kernel
def powers_forward(x: Float32, y: Float32) -> None:
    """Write y[s, k] = x[s]^k for k = 0 .. D.

    Args:
        x: (B, 1) float32.
        y: (B, D + 1) float32, overwritten.

    Source: slide "A simple example (linear regression)", f_w(x) = w_2 x^2 + w_1 x + w_0.
    """
    for s in prange(x.shape[0]):
        power = np.float32(1)
        for k in range(y.shape[1]):
            y[s, k] = power
            power *= x[s, 0]


@kernel
def powers_backward(x: Float32, dy: Float32, dx: Float32) -> None:
    """Write dx[s] = sum_k k x[s]^(k-1) dy[s, k].

    Args:
        x: (B, 1) float32.
        dy: (B, D + 1) float32.
        dx: (B, 1) float32, overwritten.

    Source: the derivative of x^k; see slide "The Chain Rule".
    """
    for s in prange(x.shape[0]):
        total, power = np.float32(0), np.float32(1)
        for k in range(1, dy.shape[1]):
            total += np.float32(k) * power * dy[s, k]
            power *= x[s, 0]
        dx[s, 0] = total
