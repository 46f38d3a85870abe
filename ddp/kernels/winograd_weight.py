"""The weight gradient of Winograd's convolutions, see `winograd.py`.

    dw = G^T [ sum over patches (B^T x B) (A dy A^T) ] G

Each worker takes chunks of dw. For every shard it evaluates the chunk's channels, multiplies them a tile of input by
output channels at a time, and takes that tile's products back while they are in the cache. The sums over shards of
a chunk have memory of their own: in dw, where its rows lie a power of two apart, they would not stay in the cache.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import get_thread_id, inline, kernel, prange
from ddp.kernels.tile import ACCUMULATE, TILE_COLUMNS, TILE_ROWS, tile_activation
from ddp.kernels.types import Float32, GradientSum, Int64
from ddp.kernels.vector import LINE_BYTES, UNIT, prefetch
from ddp.kernels.winograd_patches import count_outputs, evaluate_gradients, evaluate_patches, num_blocks
from ddp.kernels.winograd_transform import transform_weight_gradient
from ddp.kernels.winograd_workspace import SKEW

__all__ = ["winograd_backward_weight"]

LANES = UNIT.lanes
LINE = LINE_BYTES // 4  # float32 numbers
AHEAD = 8  # rows


@inline
def _add_products(
    v: Float32,
    points: Float32,
    worker: int,
    count: int,
    rows: tuple[int, int, int],
    columns: tuple[int, int, int],
    products: Float32,
    slot: int,
    flags: int,
) -> None:
    """Write, or add to, a tile of the products: the sum over patches of V_k^T (A dy A^T)_k, for all points.

    Args:
        v: V of the chunk's input channels.
        points: A dy A^T of its output channels.
        worker: whose.
        count: patches.
        rows: the first input channel of the tile and the end, and how many the chunk has.
        columns: the same of output channels.
        products: from `make_chunks`.
        slot: the tile's.
        flags: `ACCUMULATE`, or 0.
    """
    num_points = v.shape[1]
    for k in range(num_points):
        at = worker * num_points + k
        tile_activation(
            v, at * v.shape[2] + rows[0], 1, 0, 0, rows[2],
            points, at * points.shape[2] + columns[0], 0, 0, columns[2], 1, 1, count,
            rows[1] - rows[0], columns[1] - columns[0], products,
            ((worker * products.shape[1] + slot) * num_points + k) * products.shape[3], TILE_COLUMNS,
            v, 0, 0, flags,
        )  # fmt: skip


@inline
def _add_gradient(
    products: Float32,
    worker: int,
    slot: int,
    rows: tuple[int, int, int],
    columns: tuple[int, int, int],
    sums: GradientSum,
    ledgers: Float32,
    is_later: int,
) -> None:
    """Write, or add to, a tile of the chunk's sums over shards G^T (products) G; arguments as `_add_products`."""
    num_points, step = products.shape[2:]
    m = count_outputs(num_points)
    height, width = rows[2], columns[2]
    at = (worker * products.shape[1] + slot) * num_points * step
    for row in range(rows[0], rows[1]):
        for column in range(columns[0], columns[1], LANES):
            transform_weight_gradient(
                m, columns[1] - column, products, at + (row - rows[0]) * TILE_COLUMNS + column - columns[0],
                (m + 2) * step, step, 0, m + 2, 0, m + 2,
                sums, worker * sums.shape[1] + row * width + column, 3 * height * width, height * width, 3, 3,
                ledgers, worker * ledgers.shape[1], 6 * LANES, 2 * LANES, is_later,
            )  # fmt: skip


@inline
def _write_chunk(sums: GradientSum, rows: tuple[int, int], columns: tuple[int, int], dw: GradientSum) -> None:
    """Copy a chunk's sums to dw: short pieces, which the processor would fetch one after the other.

    Args:
        sums: (9 * input * output channels of a chunk,) of dw's type.
        rows: the chunk's first input channel, and how many.
        columns: the same of output channels.
        dw: (3, 3, IC, OC) float32 or int32.
    """
    IC, OC = dw.shape[2:]
    for row in range(9 * rows[1]):
        later = row + AHEAD
        place = (later // rows[1] * IC + rows[0] + later % rows[1]) * OC + columns[0]
        for column in range(0, columns[1] + LINE, LINE):
            prefetch(dw, place + column)
        tap, ic, at = row // rows[1], rows[0] + row % rows[1], row * columns[1]
        for column in range(columns[1]):
            dw[tap // 3, tap % 3, ic, columns[0] + column] = sums[at + column]


@kernel
def winograd_backward_weight(
    x: Float32,
    padding: int,
    dy: Float32,
    shards: Int64,
    chunk: tuple[int, int],
    work: tuple[Float32, Float32, Float32, GradientSum, Float32],
    scale: np.float32,
    dw: GradientSum,
    largest: Int64,
) -> None:
    """Write dw, the sum over the logical shards of each one's gradient by the weights.

    Args:
        x: (B, H, W, IC) float32, without zeros around.
        padding: of the forward pass.
        dy: (B, OH, OW, OC) float32.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        chunk: input and output channels of a chunk of dw.
        work: from `make_chunks`, overwritten.
        scale: what each shard's sum is multiplied by, before it is rounded to an integer if dw is int32.
        dw: (3, 3, IC, OC) float32 or int32, overwritten; zero for an empty batch.
        largest: (threads,) int64, one of which is raised to the bits of the largest |sum * scale|, as a float32's.

    Source: slide "Convolution (Back propagation)"; Lavin and Gray, arXiv 1509.09308, section 4.
    """
    OH, OW = dy.shape[1:3]
    IC, OC = dw.shape[2:]
    if shards[-1] == 0:
        for tap in range(9):
            for ic in range(IC):
                for oc in range(OC):
                    dw[tap // 3, tap % 3, ic, oc] = 0
        return
    v, points, products, sums, ledgers = work
    m, workers = count_outputs(v.shape[1]), v.shape[0]
    patches = (num_blocks(OH, m), num_blocks(OW, m))
    of_sample, most, chunks = patches[0] * patches[1], (v.shape[2] - SKEW) // chunk[0], num_blocks(OC, chunk[1])
    num_chunks = num_blocks(IC, chunk[0]) * chunks
    bits = ledgers.view(np.int32)
    for worker in prange(workers):
        for place in range(ledgers.shape[1]):
            ledgers[worker, place] = scale if place // LANES % 2 == 0 else 0
        for number in range(num_chunks * worker // workers, num_chunks * (worker + 1) // workers):
            ic, oc = number // chunks * chunk[0], number % chunks * chunk[1]
            height, width = min(chunk[0], IC - ic), min(chunk[1], OC - oc)
            num_tiles = num_blocks(height, TILE_ROWS)
            is_later = 0
            for shard in range(shards.shape[0] - 1):
                start, size = shards[shard] * of_sample, (shards[shard + 1] - shards[shard]) * of_sample
                parts = num_blocks(size, most)
                for part in range(parts):
                    first, count = start + size * part // parts, size * (part + 1) // parts - size * part // parts
                    evaluate_patches(x, padding, patches, first, count, (ic, ic + height), height, v, worker)
                    evaluate_gradients(dy, patches, first, count, (oc, oc + width), points, worker)
                    for tile in range(num_tiles * num_blocks(width, TILE_COLUMNS)):
                        row, column = tile % num_tiles, tile // num_tiles * TILE_COLUMNS
                        rows = (height * row // num_tiles, height * (row + 1) // num_tiles, height)
                        columns = (column, min(width, column + TILE_COLUMNS), width)
                        slot, flags = tile if parts > 1 else 0, ACCUMULATE if part > 0 else 0
                        _add_products(v, points, worker, count, rows, columns, products, slot, flags)
                        if part == parts - 1:
                            _add_gradient(products, worker, slot, rows, columns, sums, ledgers, is_later)
                if parts > 0:
                    is_later = 1
            _write_chunk(sums[worker], (ic, height), (oc, width), dw)
        thread = get_thread_id()
        for place in range(ledgers.shape[1]):
            if place // LANES % 2 == 1:
                largest[thread] = max(largest[thread], bits[worker, place])
