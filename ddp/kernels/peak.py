"""The peak: what the FMA tile reaches when nothing else has to be done, on this process's cores, now.

A fraction of a peak from a data sheet would depend on clock rates and neighbours that a shared machine does
not tell. The tile is run at its full size on operands that stay in the first-level cache.
"""

from __future__ import annotations

import time

import numpy as np

from ddp.kernels.jit import get_num_threads, kernel, prange
from ddp.kernels.tile import TILE_COLUMNS, TILE_ROWS, tile_activation
from ddp.kernels.types import Float32

DEPTH = 128  # 7 kB of one operand and 16 kB of the other, with AVX-512
PASSES = 2000  # about 1 ms
REPEATS = 5


@kernel
def _tiles(passes: int, a: Float32, b: Float32, c: Float32) -> None:
    """Run the tile `passes` times on each thread's own operands.

    Args:
        passes: number of products a thread.
        a: (T, TILE_ROWS, DEPTH) float32.
        b: (T, DEPTH, TILE_COLUMNS) float32.
        c: (T, TILE_ROWS, TILE_COLUMNS) float32, overwritten with the products.
    """
    for thread in prange(a.shape[0]):
        rows, depth, columns = a.shape[1], a.shape[2], b.shape[2]
        for _ in range(passes):
            tile_activation(
                a, thread * rows * depth, depth, 0, 0, 1, b, thread * depth * columns, 0, 0, columns, 1, 1, depth,
                rows, columns, c, thread * rows * columns, columns, c, 0, 0, 0,
            )  # fmt: skip


def measure_peak_gflops() -> float:
    """The most GFLOP/s of this process's threads together: the best of a few runs of about a millisecond."""
    threads = get_num_threads()
    a = np.ones((threads, TILE_ROWS, DEPTH), np.float32)
    b = np.ones((threads, DEPTH, TILE_COLUMNS), np.float32)
    c = np.zeros((threads, TILE_ROWS, TILE_COLUMNS), np.float32)
    best_s = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        _tiles(PASSES, a, b, c)
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * a.size * TILE_COLUMNS * PASSES / best_s / 1e9
