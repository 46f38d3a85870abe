"""From samples as they are stored to what the network sees, in one pass.

Axes: N samples of the data set, S of the batch, C channels, P pixels of one channel.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Int64, UInt8

__all__ = ["decode"]


@kernel
def decode(samples: Int64, places: Int64, stored: UInt8 | Float32, scale: Float32, shift: Float32, x: Float32) -> None:
    """Write x[places[s], c, p] = stored[samples[s], c, p] * scale[c] + shift[c].

    Args:
        samples: (S,) int64, below N.
        places: (S,) int64, where in x each of them goes, all different.
        stored: (N, C, P) uint8 or float32, read-only; may be a memory map.
        scale: (C,) float32.
        shift: (C,) float32.
        x: (B, C, P) float32; what `places` does not name stays as it is.
    """
    C, P = x.shape[1], x.shape[2]
    for s in prange(samples.shape[0]):
        # No slices: each would count a reference, 40 ns a sample and more between threads.
        sample, place = samples[s], places[s]
        for c in range(C):
            factor, summand = scale[c], shift[c]
            for p in range(P):
                x[place, c, p] = np.float32(stored[sample, c, p]) * factor + summand
