"""The random words of `ddp.rng` inside kernels: a test of each kernel that draws holds the two together."""

from __future__ import annotations

import numpy as np

from ddp import rng
from ddp.kernels.jit import inline

__all__ = ["SHIFT_32", "philox_4x32"]

# All of one unsigned type: Numba turns a mixture of signed and unsigned 64-bit integers into a float.
ROUNDS = rng.ROUNDS
MULTIPLIER_0 = np.uint64(rng.MULTIPLIER_0)
MULTIPLIER_1 = np.uint64(rng.MULTIPLIER_1)
WEYL_0 = np.uint64(rng.WEYL_0)
WEYL_1 = np.uint64(rng.WEYL_1)
MASK_32 = np.uint64(rng.MASK_32)
SHIFT_32 = np.uint64(32)


@inline
def philox_4x32(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, key: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """The four 32-bit words of one counter, as `ddp.rng.philox_4x32`."""
    k0, k1 = key & MASK_32, key >> SHIFT_32
    for _ in range(ROUNDS):
        product_0, product_1 = c0 * MULTIPLIER_0, c2 * MULTIPLIER_1
        c0, c1 = (product_1 >> SHIFT_32) ^ c1 ^ k0, product_1 & MASK_32
        c2, c3 = (product_0 >> SHIFT_32) ^ c3 ^ k1, product_0 & MASK_32
        k0, k1 = (k0 + WEYL_0) & MASK_32, (k1 + WEYL_1) & MASK_32
    return c0, c1, c2, c3
