"""Rectified linear units, elementwise on N numbers of any shape seen as one axis.

The derivative at 0 is 0. The slides give both answers: "derivatives of relu" is 0 for x <= 0, the
"back propagation" below it passes dL/dy for x >= 0. We take the first, as PyTorch does.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32

__all__ = ["relu_backward", "relu_forward"]

ZERO = np.float32(0)  # beside an integer a float32 would go through float64


@kernel
def relu_forward(x: Float32, y: Float32) -> None:
    """Write y = max(x, 0); a NaN stays a NaN.

    Args:
        x: (N,) float32.
        y: (N,) float32, overwritten.

    Source: slide "ReLU".
    """
    for n in prange(x.shape[0]):
        # Not `x if x > 0 else 0`: that would turn a NaN into 0 and hide it from the check before the update.
        y[n] = ZERO if x[n] <= ZERO else x[n]


@kernel
def relu_backward(y: Float32, dy: Float32, dx: Float32) -> None:
    """Write dx = dy where y > 0, else 0.

    Args:
        y: (N,) float32, the forward pass's output (y > 0 exactly where x > 0).
        dy: (N,) float32.
        dx: (N,) float32, overwritten.

    Source: slide "ReLU", derivatives of relu.
    """
    for n in prange(y.shape[0]):
        dx[n] = dy[n] if y[n] > ZERO else ZERO
