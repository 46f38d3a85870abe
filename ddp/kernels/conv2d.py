"""Two-dimensional convolution, stride 1, on the FMA tile: cross-correlation of channels-last images.

Axes: B batch, H W input image with its zeros around, OH OW output image, IC OC channels, K kernel size;
OH = H - K + 1, likewise OW. Weights are (K, K, IC, OC), and are read in panels of output channels (`panel.py`).

The slides' zeros outside the image are put there by `pad_image`; what is left is the valid form. A row of
an image lies contiguously as (column, channel), so the K columns and IC channels that one output pixel needs
of a row are K * IC contiguous numbers, as are the weights that multiply them: a sum over two levels, the
kernel's rows and these. All three passes are that one tile with other distances:

    pass        rows of the tile       vectors       sum over
    forward     output pixels          OC            kernel row; kernel column and IC
    by input    input pixels           IC            the same, of dy with zeros around it, and turned weights
    by weight   kernel and IC          OC            sample, output row, output column

Pixels of a tile need not be neighbours: it is told where each of its rows lies, so that small images fill it too.
Each output element is summed in one fixed order, whatever the batch or the threads.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import get_thread_id, inline, kernel, prange
from ddp.kernels.linear import linear_backward_bias
from ddp.kernels.memory import allocate
from ddp.kernels.shard_tile import add_leaves
from ddp.kernels.tile import (
    ACCUMULATE,
    RELU,
    TILE_COLUMNS,
    TILE_ROWS,
    WITH_BIAS,
    tile_activation,
    tile_masked,
)
from ddp.kernels.types import Float32, GradientSum, Int64
from ddp.kernels.vector import UNIT

__all__ = [
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_forward",
    "locate_pixels",
    "locate_taps",
    "make_leaves",
    "pad_image",
]

GROUP = 18 * TILE_ROWS  # pixels that a tile's rows are cut from, of one sample or of several
SMALL = 128  # rows of panels that are read one after the other for each tile, as they stay in the first-level cache

LANES = UNIT.lanes
GROUP_BYTES = 500_000  # of the samples that stay in the second-level cache while all tiles of dw pass


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
    B, H, W, C = x.shape
    PH, PW = padded.shape[1:3]
    first, count = max(padding, 0) * C, min(W, PW) * C
    sources, targets = x.reshape(B * H, W * C), padded.reshape(B * PH, PW * C)
    for row in prange(B * PH):
        s, i = row // PH, row % PH - padding
        target = targets[row]
        if 0 <= i < H:
            source = sources[s * H + i, max(-padding, 0) * C :]
            left, middle, right = target[:first], target[first : first + count], target[first + count :]
            for c in range(left.shape[0]):
                left[c] = 0
            for c in range(count):
                middle[c] = source[c]
            for c in range(right.shape[0]):
                right[c] = 0
        else:
            for c in range(target.shape[0]):
                target[c] = 0


def locate_pixels(image: tuple[int, int], width: int, channels: int) -> Int64:
    """Where the pixels' filters begin in a group of samples: a multiple of samples that fills whole tiles.

    Args:
        image: OH, OW, height and width of the output image.
        width: W of the input image with the zeros around; its height is OH + W - OW.
        channels: of the input image.

    Returns:
        (group, OH OW) int64: elements from the group's first.
    """
    OH, OW = image
    group = max(1, GROUP // (OH * OW))
    s, i, j = np.indices((group, OH, OW))
    return np.asarray((((s * (OH + width - OW) + i) * width + j) * channels).reshape(group, OH * OW), np.int64)


@kernel
def conv2d_forward(x: Float32, panels: Float32, pixels: Int64, b: Float32, relu: bool, y: Float32) -> None:
    """Write y = w * x + b, the cross-correlation of every image with the filters, or its ReLU.

    Args:
        x: (B, H, W, IC) float32, with the zeros around the images.
        panels: from `pack_weight`.
        pixels: from `locate_pixels`.
        b: (OC,) float32, or (0,) for no bias.
        relu: whether y is max(., 0) of it.
        y: (B, OH, OW, OC) float32, overwritten.

    Source: slide "Convolution", y_{b,oc,i,j} = sum_{ic,i',j'} w_{oc,ic,i',j'} x_{b,ic,i+i',j+j'}.
    """
    H, W, IC = x.shape[1:]
    B, OH, OW, OC = y.shape
    K = panels.shape[1]
    flags = (WITH_BIAS if b.shape[0] > 0 else 0) | (RELU if relu else 0)
    group, rows, columns = pixels.shape[0], pixels.reshape(-1), TILE_COLUMNS
    num_groups, together = _num_blocks(B, group), max(1, SMALL // (K * K * IC))
    for task in prange(_num_blocks(panels.shape[0], together) * num_groups):
        first, s = task // num_groups * together, task % num_groups * group
        size = min(group, B - s) * OH * OW
        num_blocks = _num_blocks(size, TILE_ROWS)
        for block in range(num_blocks):
            row, end = size * block // num_blocks, size * (block + 1) // num_blocks
            for panel in range(first, min(first + together, panels.shape[0])):
                oc = panel * columns
                tile_activation(
                    x, s * H * W * IC, rows[row:], 0, W * IC, 1, panels, panel * K * K * IC * columns,
                    0, K * IC * columns, columns, 1, K, K * IC, end - row, min(columns, OC - oc),
                    y, (s * OH * OW + row) * OC + oc, OC, b, oc, 0, flags,
                )  # fmt: skip


def locate_taps(kernel_size: int, width: int, channels: int) -> Int64:
    """Where the numbers that one output pixel needs lie.

    Args:
        kernel_size: K.
        width: W of the input image with the zeros around.
        channels: IC.

    Returns:
        (K K IC,) int64: elements from the pixel's first, in the order of the weights.
    """
    di, dj, ic = np.indices((kernel_size, kernel_size, channels))
    return np.asarray(((di * width + dj) * channels + ic).ravel(), np.int64)


def make_leaves(size: int, channels: int, workers: int) -> tuple[Float32, Float32]:
    """Room for a shard's gradient by the weights, and for what the workers note of it.

    Args:
        size: K K IC.
        channels: OC.
        workers: how many threads can share the pass.

    Returns:
        float32 leaves (size, channels), and for each worker two vectors, the scale and the largest leaf.
    """
    return allocate(size, channels), allocate(workers, 2 * UNIT.lanes)


@kernel
def conv2d_backward_weight(
    x: Float32,
    dy: Float32,
    taps: Int64,
    shards: Int64,
    work: tuple[Float32, Float32],
    scale: np.float32,
    dw: GradientSum,
    largest: Int64,
) -> None:
    """Write dw, the total over the logical shards of each one's gradient by the weights.

    Each worker computes some tiles of dw, for a few samples at a time that stay in the second-level cache meanwhile:
    the sums so far are a tenth of the image and its gradient.

    Args:
        x: (B, H, W, IC) float32, with the zeros around the images.
        dy: (B, OH, OW, OC) float32.
        taps: from `locate_taps`.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        work: from `make_leaves`, overwritten.
        scale: what each shard's sum is multiplied by, before it is rounded to an integer if dw is int32.
        dw: (K, K, IC, OC) float32 or int32, overwritten; zero for an empty batch.
        largest: (threads,) int64, one of which is raised to the bits of the largest |sum * scale|, as a float32's.

    Source: slide "Convolution (Back propagation)",
    dL/dw_{oc,ic,i',j'} = sum_{b,i,j} dL/dy_{b,oc,i,j} x_{b,ic,i+i',j+j'}.
    """
    H, W, IC = x.shape[1:]
    OH, OW, OC = dy.shape[1:]
    if shards[-1] == 0:
        dw[:] = 0
        return
    leaves, ledgers = work
    bits, workers = ledgers.view(np.int32), ledgers.shape[0]
    size, panels = taps.shape[0], _num_blocks(OC, TILE_COLUMNS)
    num_blocks = _num_blocks(size, TILE_ROWS)
    together = max(1, GROUP_BYTES // (4 * (H * W * IC + OH * OW * OC)))
    for worker in prange(workers):
        for lane in range(LANES):
            ledgers[worker, lane], ledgers[worker, LANES + lane] = scale, 0
        mine = range(num_blocks * panels * worker // workers, num_blocks * panels * (worker + 1) // workers)
        is_later = 0
        for shard in range(shards.shape[0] - 1):
            start, stop = shards[shard], shards[shard + 1]
            for s in range(start, stop, together):
                for tile in mine:
                    block, oc = tile // panels, tile % panels * TILE_COLUMNS
                    first, end = size * block // num_blocks, size * (block + 1) // num_blocks
                    tile_activation(
                        x, s * H * W * IC, taps[first:], H * W * IC, W * IC, IC,
                        dy, s * OH * OW * OC + oc, OH * OW * OC, OW * OC, OC, min(together, stop - s), OH, OW,
                        end - first, min(TILE_COLUMNS, OC - oc), leaves, first * OC + oc, OC,
                        x, 0, 0, ACCUMULATE if s > start else 0,
                    )  # fmt: skip
            if stop > start:
                for tile in mine:
                    block, oc = tile // panels, tile % panels * TILE_COLUMNS
                    for row in range(size * block // num_blocks, size * (block + 1) // num_blocks):
                        for column in range(oc, min(oc + TILE_COLUMNS, OC), LANES):
                            place = row * OC + column
                            add_leaves(OC - column, leaves, place, dw, place, ledgers, 2 * LANES * worker, is_later)
                is_later = 1
        thread = get_thread_id()
        for lane in range(LANES):
            largest[thread] = max(largest[thread], bits[worker, LANES + lane])


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
def conv2d_backward_input(dy: Float32, panels: Float32, pixels: Int64, y: Float32, dx: Float32) -> None:
    """Write dx, the gradient by the input, and if y is given, only where y > 0.

    Args:
        dy: (B, H + K - 1, W + K - 1, OC) float32, by `pad_image` with K - 1 - padding zeros around.
        panels: from `turn_weight`.
        pixels: from `locate_pixels`.
        y: (B, H, W, IC) float32 output of the ReLU whose derivative is to be applied, or (0, H, W, IC).
        dx: (B, H, W, IC) float32, overwritten.

    Source: slide "Convolution (Back propagation)", its index set made explicit:
    dL/dx_{b,ic,p,q} = sum_{oc,i',j'} dL/dy_{b,oc,p-i',q-j'} w_{oc,ic,i',j'}.
    """
    H, W, OC = dy.shape[1:]
    B, OH, OW, IC = dx.shape
    K = panels.shape[1]
    masked = 1 if y.shape[0] > 0 else 0
    group, rows, columns = pixels.shape[0], pixels.reshape(-1), TILE_COLUMNS
    num_groups = _num_blocks(B, group)
    for task in prange(panels.shape[0] * num_groups):
        panel, s = task // num_groups, task % num_groups * group
        ic, size = panel * TILE_COLUMNS, min(group, B - s) * OH * OW
        num_blocks = _num_blocks(size, TILE_ROWS)
        for block in range(num_blocks):
            row, end = size * block // num_blocks, size * (block + 1) // num_blocks
            place = (s * OH * OW + row) * IC + ic
            tile_masked(
                dy, s * H * W * OC, rows[row:], 0, W * OC, 1, panels, panel * K * K * OC * columns,
                0, K * OC * columns, columns, 1, K, K * OC, end - row, min(columns, IC - ic),
                dx, place, IC, y, place, IC, masked,
            )  # fmt: skip
