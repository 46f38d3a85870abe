"""Two-dimensional convolution, stride 1, on the FMA tile: cross-correlation of channels-last images.

Axes: B batch, H W input image with its zeros around, OH OW output image, IC OC channels, K kernel size;
OH = H - K + 1, likewise OW. Weights are (K, K, IC, OC).

The slides' zeros outside the image are put there by `pad_image`; what is left is the valid form. A row of
an image lies contiguously as (column, channel), so the K columns and IC channels that one output pixel needs
of a row are K * IC contiguous numbers, as are the weights that multiply them: a sum over two levels, the
kernel's rows and these. All three passes are that one tile with other distances:

    pass        rows of the tile       vectors       sum over
    forward     output pixels          OC            kernel row; kernel column and IC
    by input    input pixels           IC            the same, of dy with zeros around it, and turned weights
    by weight   kernel column and IC   OC            sample, output row, output column

Each output element is summed in one fixed order, whatever the batch or the threads.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import get_thread_id, inline, kernel, prange
from ddp.kernels.linear import linear_backward_bias
from ddp.kernels.shard_tile import tile_over_long_shards
from ddp.kernels.tile import (
    RELU,
    TILE_COLUMNS,
    TILE_ROWS,
    WITH_BIAS,
    tile_activation,
    tile_masked,
)
from ddp.kernels.types import Float32, GradientSum, Int64

__all__ = [
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_forward",
    "pad_image",
    "turn_weight",
]


@inline
def _num_blocks(n: int, largest: int) -> int:
    """How many blocks of at most `largest` items hold n."""
    return (n + largest - 1) // largest


@kernel
def pad_image(x: Float32, padding: int, padded: Float32) -> None:
    """Copy images into the middle of larger ones, zeros around; with negative padding cut their borders off.

    Args:
        x: (B, H, W, C) float32.
        padding: pixels added on every side.
        padded: (B, H + 2 padding, W + 2 padding, C) float32, overwritten.
    """
    H, W, C = x.shape[1:]
    for row in prange(x.shape[0] * padded.shape[1]):
        s, i = row // padded.shape[1], row % padded.shape[1]
        for j in range(padded.shape[2]):
            p, q = i - padding, j - padding
            is_inside = 0 <= p < H and 0 <= q < W
            for c in range(C):
                padded[s, i, j, c] = x[s, p, q, c] if is_inside else 0


@kernel
def conv2d_forward(x: Float32, w: Float32, b: Float32, relu: bool, y: Float32) -> None:
    """Write y = w * x + b, the cross-correlation of every image with the filters, or its ReLU.

    Args:
        x: (B, H, W, IC) float32, with the zeros around the images.
        w: (K, K, IC, OC) float32.
        b: (OC,) float32, or (0,) for no bias.
        relu: whether y is max(., 0) of it.
        y: (B, OH, OW, OC) float32, overwritten.

    Source: slide "Convolution", y_{b,oc,i,j} = sum_{ic,i',j'} w_{oc,ic,i',j'} x_{b,ic,i+i',j+j'}.
    """
    H, W, IC = x.shape[1:]
    B, OH, OW, OC = y.shape
    K = w.shape[0]
    flags = (WITH_BIAS if b.shape[0] > 0 else 0) | (RELU if relu else 0)
    num_blocks = _num_blocks(OW, TILE_ROWS)
    for row in prange(B * OH):
        s, i = row // OH, row % OH
        for oc in range(0, OC, TILE_COLUMNS):
            columns = min(TILE_COLUMNS, OC - oc)
            for block in range(num_blocks):
                j, end = OW * block // num_blocks, OW * (block + 1) // num_blocks
                tile_activation(
                    x, ((s * H + i) * W + j) * IC, IC, 0, W * IC, 1, w, oc, 0, K * IC * OC, OC, 1, K, K * IC,
                    end - j, columns, y, ((s * OH + i) * OW + j) * OC + oc, OC, b, oc, 0, flags,
                )  # fmt: skip


@kernel
def conv2d_backward_weight(
    x: Float32, dy: Float32, shards: Int64, scale: np.float32, dw: GradientSum, largest: Int64
) -> None:
    """Write dw, the total over the logical shards of each one's gradient by the weights.

    Args:
        x: (B, H, W, IC) float32, with the zeros around the images.
        dy: (B, OH, OW, OC) float32.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        scale: what each shard's sum is multiplied by, before it is rounded to an integer if dw is int32.
        dw: (K, K, IC, OC) float32 or int32, overwritten; zero for an empty batch.
        largest: (threads,) int64, one of which is raised to the bits of the largest |sum * scale|, as a float32's.

    Source: slide "Convolution (Back propagation)",
    dL/dw_{oc,ic,i',j'} = sum_{b,i,j} dL/dy_{b,oc,i,j} x_{b,ic,i+i',j+j'}.
    """
    H, W, IC = x.shape[1:]
    OH, OW, OC = dy.shape[1:]
    K, num_shards = dw.shape[0], shards.shape[0] - 1
    num_blocks = _num_blocks(K * IC, TILE_ROWS)
    for task in prange(K * num_blocks):
        di, block = task // num_blocks, task % num_blocks
        first, end = K * IC * block // num_blocks, K * IC * (block + 1) // num_blocks
        for oc in range(0, OC, TILE_COLUMNS):
            found = tile_over_long_shards(
                x, di * W * IC + first, 1, H * W * IC, W * IC, IC, dy, oc, OH * OW * OC, OW * OC, OC, OH, OW,
                shards, num_shards, scale, end - first, min(TILE_COLUMNS, OC - oc),
                dw, (di * K * IC + first) * OC + oc, OC,
            )  # fmt: skip
            thread = get_thread_id()
            largest[thread] = max(largest[thread], found)


def conv2d_backward_bias(dy: Float32, shards: Int64, scale: np.float32, db: GradientSum, largest: Int64) -> None:
    """Write db, the total over the logical shards of each one's sum of dy over samples and pixels.

    Args:
        dy: (B, OH, OW, OC) float32, C-contiguous.
        shards: (S + 1,) int64, as for `conv2d_backward_weight`.
        scale: as for `conv2d_backward_weight`.
        db: (OC,) float32 or int32, overwritten; zero for an empty batch.
        largest: as for the weights.

    Source: the slides have no bias; every pixel is a row of the linear layer's gradient by its bias.
    """
    B, OH, OW, OC = dy.shape
    linear_backward_bias(dy.reshape(B * OH * OW, OC), shards * (OH * OW), scale, db, largest)


@kernel
def turn_weight(w: Float32, turned: Float32) -> None:
    """Write the weights of the backward pass by input: turned by half a turn, their channels exchanged.

    Args:
        w: (K, K, IC, OC) float32.
        turned: (K, K, OC, IC) float32, overwritten: turned[i', j', oc, ic] = w[K-1-i', K-1-j', ic, oc].
    """
    K, _, IC, OC = w.shape
    for tap in prange(K * K):
        di, dj = tap // K, tap % K
        for oc in range(OC):
            for ic in range(IC):
                turned[di, dj, oc, ic] = w[K - 1 - di, K - 1 - dj, ic, oc]


@kernel
def conv2d_backward_input(dy: Float32, turned: Float32, y: Float32, dx: Float32) -> None:
    """Write dx, the gradient by the input, and if y is given, only where y > 0.

    Args:
        dy: (B, H + K - 1, W + K - 1, OC) float32, by `pad_image` with K - 1 - padding zeros around.
        turned: (K, K, OC, IC) float32, from `turn_weight`.
        y: (B, H, W, IC) float32 output of the ReLU whose derivative is to be applied, or (0, H, W, IC).
        dx: (B, H, W, IC) float32, overwritten.

    Source: slide "Convolution (Back propagation)", its index set made explicit:
    dL/dx_{b,ic,p,q} = sum_{oc,i',j'} dL/dy_{b,oc,p-i',q-j'} w_{oc,ic,i',j'}.
    """
    H, W, OC = dy.shape[1:]
    B, OH, OW, IC = dx.shape
    K = turned.shape[0]
    masked = 1 if y.shape[0] > 0 else 0
    num_blocks = _num_blocks(OW, TILE_ROWS)
    for row in prange(B * OH):
        s, i = row // OH, row % OH
        for ic in range(0, IC, TILE_COLUMNS):
            columns = min(TILE_COLUMNS, IC - ic)
            for block in range(num_blocks):
                j, end = OW * block // num_blocks, OW * (block + 1) // num_blocks
                place = ((s * OH + i) * OW + j) * IC + ic
                tile_masked(
                    dy, ((s * H + i) * W + j) * OC, OC, 0, W * OC, 1, turned, ic, 0, K * OC * IC, IC, 1, K, K * OC,
                    end - j, columns, dx, place, IC, y, place, IC, masked,
                )  # fmt: skip
