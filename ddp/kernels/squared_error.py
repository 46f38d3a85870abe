"""The squared error of regression.

Axes: B batch, O outputs.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32

__all__ = ["squared_error"]


@kernel
def squared_error(y: Float32, t: Float32, loss: Float32, dy: Float32) -> None:
    """Write loss = sum (y - t)^2 of each sample and its gradient dy = 2 (y - t).

    Args:
        y: (B, O) float32.
        t: (B, O) float32.
        loss: (B,) float32, overwritten.
        dy: (B, O) float32, overwritten.

    Source: slide "A simple example (linear regression)", err(y, t) = (y - t)^2.
    """
    for s in prange(y.shape[0]):
        total = np.float32(0)
        for o in range(y.shape[1]):
            error = y[s, o] - t[s, o]
            total += error * error
            dy[s, o] = np.float32(2) * error
        loss[s] = total
