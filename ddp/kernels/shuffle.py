"""The draws that order an epoch: sorting them is the shuffle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ddp import rng
from ddp.kernels.jit import kernel, prange
from ddp.kernels.philox import SHIFT_32, philox_4x32

__all__ = ["draw_keys"]


@kernel
def _draw_keys(key: np.uint64, c2: np.uint64, c3: np.uint64, keys: npt.NDArray[np.uint64]) -> None:
    for n in prange(keys.shape[0]):
        w0, w1, _, _ = philox_4x32(np.uint64(0), np.uint64(n), c2, c3, key)
        keys[n] = w0 << SHIFT_32 | w1


def draw_keys(seed: int, epoch: int, keys: npt.NDArray[np.uint64]) -> None:
    """Write the 64 random bits of each sample by which `ddp.rng.permutation` sorts.

    Args:
        seed: the run's seed, taken modulo 2**64.
        epoch: below 2**32.
        keys: (n,) uint64, overwritten; n at most 2**32.
    """
    c3 = np.uint64(rng.stream_word(rng.Purpose.SHUFFLE, 0))
    _draw_keys(np.uint64(seed & 0xFFFFFFFFFFFFFFFF), np.uint64(epoch), c3, keys)
