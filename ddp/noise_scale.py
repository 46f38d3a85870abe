"""The gradient noise scale: the batch up to which twice the samples are about as good as twice the steps.

With G the gradient of the mean loss over all data, and Sigma the covariance of a single sample's gradient,

    B_simple = tr(Sigma) / |G|^2.

A batch that is much smaller learns as much from every sample; one that is much larger spends samples without saving
steps, and of B_simple samples takes twice the fewest steps and twice the fewest samples.
Source: S. McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, section 2 and appendix A.1.
"""

from __future__ import annotations

import math

import numpy as np

from ddp.kernels.types import Float64
from ddp.partition import block_partition

DECAY = 0.9
"""Of the running means, a measurement: both parts are noisy, and only the quotient of their means makes sense."""


class NoiseScale:
    """Estimated from the gradients of a step's logical shards, and that of the whole batch.

    Of b samples the sum of the gradients, L, has the expectation E|L|^2 / b = b |G|^2 + tr(Sigma). Added up over the S
    shards that is B |G|^2 + S tr(Sigma), for the whole batch B |G|^2 + tr(Sigma): two equations, to be solved for both.
    For shards of one size that is appendix A.1 of the paper. A few samples with large gradients, as late in training,
    count in both of the same step, and so leave |G|^2 alone: it is made of products of different shards.

    Attributes:
        noise: running mean of the estimates of tr(Sigma); it and the next begin at 0, which their quotient forgets.
        signal: the same of |G|^2.
    """

    def __init__(self, every: int, num_shards: int) -> None:
        """Take how many steps lie between measurements, 0 for never, and the logical shards of a step."""
        self.every, self.num_shards = every, num_shards
        self.noise = self.signal = 0.0

    def is_due(self, step: int) -> bool:
        """Whether to measure in a step, counted from 0."""
        return self.every > 0 and (step + 1) % self.every == 0

    def add(self, samples: int, squares: Float64, norm: float) -> None:
        """Add a step's estimates; one whose gradient is not finite, or in a single shard, tells nothing.

        Args:
            samples: B, of the global batch.
            squares: (S,) |L|^2 of each shard.
            norm: |L| of the global batch.
        """
        sizes = np.array([len(block_partition(samples, self.num_shards, shard)) for shard in range(self.num_shards)])
        used = np.flatnonzero(sizes)
        apart, together = float(np.sum(squares[used] / sizes[used])), norm**2 / samples
        if len(used) < 2 or not math.isfinite(apart + together):
            return
        noise = (apart - together) / (len(used) - 1)
        self.noise = DECAY * self.noise + (1 - DECAY) * noise
        self.signal = DECAY * self.signal + (1 - DECAY) * (together - noise) / samples

    @property
    def value(self) -> float | None:
        """In samples; None before the first measurement, and while the noise hides the gradient."""
        return self.noise / self.signal if self.signal > 0 and self.noise >= 0 else None
