"""Max pooling over k x k windows that do not overlap.

Axes: B batch, H W input image, C channels, k kernel size; the output image is H // k x W // k, and
rows and columns that fill no whole window are ignored, as in PyTorch.
"""

from __future__ import annotations

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, UInt8

__all__ = ["max_pool2d_backward", "max_pool2d_forward"]


@kernel
def max_pool2d_forward(x: Float32, kernel_size: int, y: Float32, argmax: UInt8) -> None:
    """Write the maximum of each window, and where in the window it stands.

    The first maximum in row-major order wins. A NaN in a window wins over every number.

    Args:
        x: (B, H, W, C) float32.
        kernel_size: k, 1 to 16, so that a position fits in 8 bits.
        y: (B, H // k, W // k, C) float32, overwritten.
        argmax: as y, uint8, overwritten: di * k + dj of the maximum.

    Source: torch.nn.MaxPool2d; the slides do not define pooling.
    """
    B, OH, OW, C = y.shape
    for row in prange(B * OH):
        s, i = row // OH, row % OH
        for j in range(OW):
            for c in range(C):
                y[s, i, j, c] = x[s, i * kernel_size, j * kernel_size, c]
                argmax[s, i, j, c] = 0
            for tap in range(1, kernel_size * kernel_size):
                p, q = i * kernel_size + tap // kernel_size, j * kernel_size + tap % kernel_size
                for c in range(C):
                    x_pixel = x[s, p, q, c]
                    wins = (x_pixel > y[s, i, j, c]) | (x_pixel != x_pixel)  # the latter: is it NaN?
                    y[s, i, j, c] = x_pixel if wins else y[s, i, j, c]
                    argmax[s, i, j, c] = tap if wins else argmax[s, i, j, c]


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
    B, H, W, C = dx.shape
    OH, OW = dy.shape[1:3]
    for row in prange(B * H):
        s, p = row // H, row % H
        i, di = p // kernel_size, p % kernel_size
        for q in range(W):
            j, dj = q // kernel_size, q % kernel_size
            if i < OH and j < OW:
                tap = di * kernel_size + dj
                for c in range(C):
                    dx[s, p, q, c] = dy[s, i, j, c] if argmax[s, i, j, c] == tap else 0
            else:
                for c in range(C):
                    dx[s, p, q, c] = 0
