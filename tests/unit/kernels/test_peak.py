"""The peak is measured on work that is really done."""

from __future__ import annotations

import numpy as np

from ddp.kernels import peak


def test_the_measured_loop_computes_the_products() -> None:
    generator = np.random.default_rng(0)
    a = generator.integers(-4, 5, (3, peak.TILE_ROWS, peak.DEPTH)).astype(np.float32)
    b = generator.integers(-4, 5, (3, peak.DEPTH, peak.TILE_COLUMNS)).astype(np.float32)
    c = np.full((3, peak.TILE_ROWS, peak.TILE_COLUMNS), np.nan, np.float32)
    peak._tiles(2, a, b, c)
    assert np.array_equal(c, a @ b)  # small integers: exact in float32
