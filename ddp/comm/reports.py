"""What every logical shard reports in a step besides its gradient, known to all ranks afterwards.

Each shard has a row, written by the rank that computed it and zero on the others, so that the sum over the ranks,
taken of the rows' bits as integers, is the rows themselves: exact, whatever the number of ranks.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.types import Float32, Float64, Int32


class ShardReports:
    """The rows of all shards.

    Attributes:
        integers: all of them as int32, for the reducer.
        loss: (S,) float64, the sum of the losses of a shard's samples.
        squares: (S,) float64, the sum of the squares of a shard's gradient, in the steps that measure it.
        largest: (S, T) float32, for each tensor the largest |leaf * scale|; in the row of a rank's first shard.
        statistics: (S, n) float32, of batch normalisation.
    """

    def __init__(self, num_shards: int, num_tensors: int, num_statistics: int) -> None:
        """Make the rows."""
        widths = np.array([2, 2, num_tensors, num_statistics])
        self.integers: Int32 = np.zeros(num_shards * int(widths.sum()), np.int32)
        loss, squares, largest, statistics = np.split(self.integers, np.cumsum(num_shards * widths)[:3])
        self.loss: Float64 = loss.view(np.float64)
        self.squares: Float64 = squares.view(np.float64)
        self.largest: Float32 = largest.view(np.float32).reshape(num_shards, num_tensors)
        self.statistics: Float32 = statistics.view(np.float32).reshape(num_shards, num_statistics)

    def clear(self) -> None:
        """Make all rows zero, before the step's are written."""
        self.integers.fill(0)
