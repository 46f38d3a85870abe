"""From channels-last images to rows of features in (C, H, W) order, and back.

Axes: B batch, H W image, C channels.

The order is that of the public arrays and of PyTorch's `nn.Flatten`, so that the weights of a linear
layer behind an image mean the same in a state_dict.
"""

from __future__ import annotations

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32

__all__ = ["flatten_backward", "flatten_forward"]


@kernel
def flatten_forward(x: Float32, y: Float32) -> None:
    """Write y[s, (c H + i) W + j] = x[s, i, j, c].

    Args:
        x: (B, H, W, C) float32.
        y: (B, C * H * W) float32, overwritten.
    """
    B, H, W, C = x.shape
    for s in prange(B):
        for c in range(C):
            for i in range(H):
                for j in range(W):
                    y[s, (c * H + i) * W + j] = x[s, i, j, c]


@kernel
def flatten_backward(dy: Float32, dx: Float32) -> None:
    """Write dx[s, i, j, c] = dy[s, (c H + i) W + j].

    Args:
        dy: (B, C * H * W) float32.
        dx: (B, H, W, C) float32, overwritten.
    """
    B, H, W, C = dx.shape
    for s in prange(B):
        for i in range(H):
            for j in range(W):
                for c in range(C):
                    dx[s, i, j, c] = dy[s, (c * H + i) * W + j]
