"""Max pooling over k x k windows that do not overlap, and the ReLU around it.

Axes: B batch, H W input image, C channels, k kernel size; the output image is H // k x W // k, and
rows and columns that fill no whole window are ignored, as in PyTorch.

ReLU and maximum commute, and their derivative together is that of the maximum where it is above 0, else 0. So a
ReLU on either side of the pooling costs no pass over memory: where the maximum is not above 0, `argmax` is NOWHERE.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, UInt8

__all__ = ["NOWHERE", "max_pool2d_backward", "max_pool2d_forward"]

NOWHERE = np.uint8(255)
"""In `argmax`: no element of the window takes part in the gradient."""
ZERO = np.float32(0)


@kernel
def max_pool2d_forward(x: Float32, kernel_size: int, relu: bool, y: Float32, argmax: UInt8) -> None:
    """Write the maximum of each window, or its ReLU, and where in the window it stands.

    The first maximum in row-major order wins. A NaN in a window wins over every number.

    Args:
        x: (B, H, W, C) float32.
        kernel_size: k, 1 to 16, so that a position fits in 8 bits; at most 15 with `relu`.
        relu: whether a ReLU stands before or behind: y is max(., 0), argmax NOWHERE where y is not above 0.
        y: (B, H // k, W // k, C) float32, overwritten.
        argmax: as y, uint8, overwritten: di * k + dj of the maximum.

    Source: torch.nn.MaxPool2d; the slides do not define pooling.
    """
    OH, OW, C = y.shape[1:]
    k = kernel_size
    for row in prange(y.shape[0] * OH):
        s, i = row // OH, row % OH
        y_i, argmax_i = y[s, i].reshape(-1), argmax[s, i].reshape(-1)
        for n in range(y_i.size):
            y_i[n], argmax_i[n] = -np.inf, 0
        # By rows of the image, not window by window: the processor fetches one long stream ahead.
        for di in range(k):
            for j in range(OW):
                y_ij, argmax_ij = y[s, i, j], argmax[s, i, j]
                for dj in range(k):
                    x_pq, tap = x[s, k * i + di, k * j + dj], np.uint8(k * di + dj)
                    for c in range(C):
                        wins = (x_pq[c] > y_ij[c]) | (x_pq[c] != x_pq[c])  # the latter: is it NaN?
                        y_ij[c] = x_pq[c] if wins else y_ij[c]
                        argmax_ij[c] = tap if wins else argmax_ij[c]
        if relu:
            for n in range(y_i.size):
                argmax_i[n] = argmax_i[n] if y_i[n] > ZERO else NOWHERE
                y_i[n] = ZERO if y_i[n] <= ZERO else y_i[n]


@kernel
def max_pool2d_backward(dy: Float32, argmax: UInt8, kernel_size: int, dx: Float32) -> None:
    """Write dx: each window's dy at its maximum, 0 elsewhere.

    Args:
        dy: (B, H // k, W // k, C) float32.
        argmax: as dy, uint8, from the forward pass.
        kernel_size: k, 1 to 16.
        dx: (B, H, W, C) float32, overwritten.

    Source: the derivative of a maximum; see slide "The Chain Rule".
    """
    H, W, C = dx.shape[1:]
    OH, k = dy.shape[1], kernel_size
    for row in prange(dx.shape[0] * H):
        s, p = row // H, row % H
        i, di = p // k, p % k
        whole = dy.shape[2] if i < OH else 0
        for j in range(whole):
            dy_ij, argmax_ij = dy[s, i, j], argmax[s, i, j]
            for dj in range(k):
                dx_pq, tap = dx[s, p, k * j + dj], np.uint8(k * di + dj)
                for c in range(C):
                    dx_pq[c] = dy_ij[c] if argmax_ij[c] == tap else ZERO
        for q in range(k * whole, W):
            for c in range(C):
                dx[s, p, q, c] = 0
