"""Patches of images evaluated at Winograd's points: what all three passes begin with, see `winograd.py`."""

from __future__ import annotations

from ddp.kernels.jit import inline
from ddp.kernels.types import Float32
from ddp.kernels.vector import LINE_BYTES, UNIT, prefetch
from ddp.kernels.winograd_transform import transform_input, transform_output_gradient

__all__ = ["count_outputs", "evaluate_gradients", "evaluate_patches", "locate_patch", "num_blocks", "prefetch_patch"]

LANES = UNIT.lanes
LINE = LINE_BYTES // 4  # float32 numbers
AHEAD = 3  # patches


@inline
def count_outputs(points: int) -> int:
    """m, from the number of points T T."""
    return 4 if points == 36 else 2


@inline
def num_blocks(n: int, largest: int) -> int:
    """How many blocks of at most `largest` items hold n."""
    return (n + largest - 1) // largest


@inline
def locate_patch(patch: int, patches: tuple[int, int], m: int) -> tuple[int, int, int]:
    """Sample, and row and column of the first output, of the patch of that number."""
    s, place = patch // (patches[0] * patches[1]), patch % (patches[0] * patches[1])
    return s, place // patches[1] * m, place % patches[1] * m


@inline
def prefetch_patch(
    image: Float32, patch: int, patches: tuple[int, int], m: int, padding: int, size: int, channels: tuple[int, int]
) -> None:
    """Have a patch's pixels fetched: pieces too short and far apart for the processor to see a pattern.

    Args:
        image: (B, H, W, C) float32.
        patch: its number.
        patches: rows and columns of them in an image.
        m: rows of outputs of a patch.
        padding: zeros around the images, in pixels.
        size: rows of pixels to fetch.
        channels: the first, and their end.
    """
    H, W, C = image.shape[1:]
    s, row, column = locate_patch(patch, patches, m)
    for i in range(row - padding, row - padding + size):
        for j in range(column - padding, column - padding + size):
            for c in range(channels[0], channels[1], LINE):
                prefetch(image, ((s * H + i) * W + j) * C + c)


@inline
def evaluate_patches(
    x: Float32,
    padding: int,
    patches: tuple[int, int],
    first: int,
    count: int,
    channels: tuple[int, int],
    depth: int,
    v: Float32,
    at: int,
) -> None:
    """Write V = B^T x B.

    Args:
        x: (B, H, W, C) float32.
        padding: zeros around the images, in pixels.
        patches: rows and columns of them in an image.
        first: the first patch.
        count: how many.
        channels: the first, and their end.
        depth: channels of a block of V.
        v: (workers, T T, blocks, room for patches, depth), without its last three axes; overwritten.
        at: worker.
    """
    H, W, C = x.shape[1:]
    points, step = v.shape[1:]
    m = count_outputs(points)
    for number in range(count):
        s, i, j = locate_patch(first + number, patches, m)
        i, j = i - padding, j - padding
        prefetch_patch(x, first + number + AHEAD, patches, m, padding, m + 2, channels)
        for c in range(channels[0], channels[1], LANES):
            block, lane = (c - channels[0]) // depth, (c - channels[0]) % depth
            transform_input(
                m, channels[1] - c, x, ((s * H + i) * W + j) * C + c, W * C, C, -i, H - i, -j, W - j,
                v, at * points * step + (block * count + number) * depth + lane, (m + 2) * step, step, m + 2, m + 2,
                x, 0, 0, 0, 0,
            )  # fmt: skip


@inline
def evaluate_gradients(
    dy: Float32,
    patches: tuple[int, int],
    first: int,
    count: int,
    channels: tuple[int, int],
    points: Float32,
    at: int,
) -> None:
    """Write A dy A^T; arguments as for `evaluate_patches`, one block of all channels."""
    OH, OW, C = dy.shape[1:]
    num_points, step = points.shape[1:]
    m = count_outputs(num_points)
    width = channels[1] - channels[0]
    for number in range(count):
        s, i, j = locate_patch(first + number, patches, m)
        prefetch_patch(dy, first + number + AHEAD, patches, m, 0, m, channels)
        for c in range(0, width, LANES):
            transform_output_gradient(
                m, width - c, dy, ((s * OH + i) * OW + j) * C + channels[0] + c, OW * C, C, 0, OH - i, 0, OW - j,
                points, at * num_points * step + number * width + c, (m + 2) * step, step, m + 2, m + 2,
                dy, 0, 0, 0, 0,
            )  # fmt: skip
