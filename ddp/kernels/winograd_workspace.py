"""What the passes of a Winograd convolution write in between, see `winograd.py` and `winograd_weight.py`."""

from __future__ import annotations

import numpy.typing as npt

from ddp.kernels.memory import allocate
from ddp.kernels.tile import TILE_COLUMNS, TILE_ROWS
from ddp.kernels.types import Float32, GradientSum
from ddp.kernels.vector import UNIT

__all__ = ["Workspace", "chunk_of_weight", "make_blocks", "make_chunks"]

SKEW = 16  # floats between a block's matrices: rows of different k must not all fall into one cache set
PATCHES = 5 * TILE_ROWS  # of a block of the image: the more, the less often are the weights evaluated
DEPTH = 64  # channels of a block of the sum: a panel's U takes 0.3 MB, and its M as much
KEPT = 700_000  # bytes of the U of all weights, where it stays in the second-level cache
CHUNK = 32, 128  # input and output channels of a chunk of dw: its sums take 0.15 MB
CHUNK_PATCHES = 32
SMALLEST_CHUNK = 16


def make_blocks(
    m: int, rows: int, columns: int, workers: int, patches: int = PATCHES, depth: int = DEPTH, kept: int = KEPT
) -> tuple[Float32, Float32, Float32]:
    """Room for V, U and M, for each worker.

    Args:
        m: rows of outputs of a patch, 2 or 4.
        rows: channels summed over.
        columns: channels of the result.
        workers: how many threads can share a pass.
        patches: of a block.
        depth: of the `rows`, those of a block of the sum; it decides how results are rounded.
        kept: bytes that U may take for all blocks of the weights to have their own.

    Returns:
        float32 V (workers, T T, blocks * patches * depth + skew), U (workers, slots, T T, depth * TILE_COLUMNS +
        skew) and M (workers, T T, patches * TILE_COLUMNS + skew): a slot for each block of the sum and each panel
        of the result, or one.
    """
    points, depth = (m + 2) ** 2, min(rows, depth)
    blocks, panels = -(-rows // depth), -(-columns // TILE_COLUMNS)
    slots = blocks * panels if 4 * blocks * panels * points * depth * TILE_COLUMNS <= kept else 1
    return (
        allocate(workers, points, blocks * patches * depth + SKEW),
        allocate(workers, slots, points, depth * TILE_COLUMNS + SKEW),
        allocate(workers, points, patches * TILE_COLUMNS + SKEW),
    )


def chunk_of_weight(in_channels: int, out_channels: int, workers: int) -> tuple[int, int]:
    """Input and output channels of a chunk of dw: the largest that leave every worker one, if possible."""
    chunk = [min(in_channels, CHUNK[0]), min(out_channels, CHUNK[1])]
    while -(-in_channels // chunk[0]) * -(-out_channels // chunk[1]) < workers and max(chunk) > SMALLEST_CHUNK:
        larger = chunk.index(max(chunk))
        chunk[larger] = -(-chunk[larger] // (2 * SMALLEST_CHUNK)) * SMALLEST_CHUNK
    return chunk[0], chunk[1]


def make_chunks(
    m: int, chunk: tuple[int, int], workers: int, kind: npt.DTypeLike, patches: int = CHUNK_PATCHES
) -> tuple[Float32, Float32, Float32, GradientSum, Float32]:
    """Room for what a chunk of dw is computed from, for each worker.

    Args:
        m: rows of outputs of a patch, 2 or 4.
        chunk: its input and output channels.
        workers: how many threads can share the pass.
        kind: type of dw.
        patches: of a block; a shard's sum is rounded after each.

    Returns:
        float32 V (workers, T T, patches * input channels + skew), A dy A^T (the same of output channels) and their
        products (workers, tiles of the chunk, T T, TILE_ROWS * TILE_COLUMNS + skew), sums of dw's type
        (workers, 9 * input * output channels), and for each of the 9 taps two vectors, the scale and the largest leaf.
    """
    points, (height, width) = (m + 2) ** 2, chunk
    tiles = -(-height // TILE_ROWS) * -(-width // TILE_COLUMNS)
    return (
        allocate(workers, points, patches * height + SKEW),
        allocate(workers, points, patches * width + SKEW),
        allocate(workers, tiles, points, TILE_ROWS * TILE_COLUMNS + SKEW),
        allocate(workers, 9 * height * width).view(kind),
        allocate(workers, 9 * 2 * UNIT.lanes),
    )


class Workspace:
    """What the three passes of one layer write in between, made once."""

    def __init__(self, m: int, in_channels: int, out_channels: int, workers: int, kind: npt.DTypeLike) -> None:
        """Allocate.

        Args:
            m: rows of outputs of a patch, 2 or 4.
            in_channels: IC.
            out_channels: OC.
            workers: how many threads can share a pass.
            kind: type of the weight's gradient.
        """
        self.forward = make_blocks(m, in_channels, out_channels, workers)
        self.backward_input = make_blocks(m, out_channels, in_channels, workers)
        self.chunk = chunk_of_weight(in_channels, out_channels, workers)
        self.backward_weight = make_chunks(m, self.chunk, workers, kind)

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return sum(array.nbytes for array in (*self.forward, *self.backward_input, *self.backward_weight))
