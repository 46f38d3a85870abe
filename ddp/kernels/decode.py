"""From samples as they are stored to what the network sees, in one pass.

Axes: N samples of the data set, S of the batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Int64, UInt8

__all__ = ["decode"]


@kernel
def decode(samples: Int64, places: Int64, stored: UInt8 | Float32, scale: Float32, shift: Float32, x: Float32) -> None:
    """Write x[places[s], c] = stored[samples[s], c] * scale[c] + shift[c].

    Args:
        samples: (S,) int64, below N.
        places: (S,) int64, where in x each of them goes, all different.
        stored: (N, C, H, W) uint8 or float32, read-only; may be a memory map.
        scale: (C,) float32.
        shift: (C,) float32.
        x: (B, C, H, W) float32; what `places` does not name stays as it is.
    """
    for s in prange(samples.shape[0]):
        sample, y = stored[samples[s]], x[places[s]]
        for c in range(sample.shape[0]):
            pixels, out, factor, summand = sample[c].reshape(-1), y[c].reshape(-1), scale[c], shift[c]
            for p in range(pixels.shape[0]):
                out[p] = np.float32(pixels[p]) * factor + summand
