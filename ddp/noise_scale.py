"""The gradient noise scale: the batch up to which twice the samples are about as good as twice the steps.

With G the gradient of the mean loss over all data, and Sigma the covariance of a single sample's gradient,

    B_simple = tr(Sigma) / |G|^2.

A batch that is much smaller learns as much from every sample; one that is much larger spends samples without saving
steps, and of B_simple samples takes twice the fewest steps and twice the fewest samples.
Source: S. McCandlish et al., "An Empirical Model of Large-Batch Training", 2018, section 2 and appendix A.1.
"""

from __future__ import annotations

import math

from ddp.partition import block_partition

DECAY = 0.97
"""Of the running means, a measurement: both parts are noisy, and only the quotient of their means makes sense."""


class NoiseScale:
    """Estimated from the gradient of every step, and now and then that of one of its logical shards.

    Of b samples the sum of the gradients, L, has the expectation E|L|^2 / b = b |G|^2 + tr(Sigma): an equation for the
    shard, and one for the global batch, to be solved for both. That is appendix A.1 of the paper.

    Attributes:
        noise: running mean of the estimates of tr(Sigma); it and the next begin at 0, which their quotient forgets.
        signal: the same of |G|^2.
    """

    def __init__(self, every: int, num_shards: int) -> None:
        """Take how many steps lie between measurements, 0 for never, and the logical shards of a step."""
        self.every, self.num_shards = every, num_shards
        self.noise = self.signal = 0.0
        self._steps, self._samples, self._wholes = 0, 0, 0.0

    def shard(self, step: int) -> int | None:
        """Which shard is to be measured in a step, counted from 0: each in its turn; mostly none."""
        if not self.every or (step + 1) % self.every:
            return None
        return (step // self.every) % self.num_shards

    def add(self, samples: int, norm: float, shard: int | None, square: float) -> None:
        """Add a step; one whose gradient is not finite, or whose shard is empty or all of the batch, tells nothing.

        Args:
            samples: B, of the global batch.
            norm: |L| of the global batch, by which |G|^2 is known the better the more steps lie between measurements.
            shard: that was measured, if any.
            square: |L|^2 of that shard.
        """
        whole = norm**2 / samples
        if not math.isfinite(whole):
            return
        self._steps, self._samples, self._wholes = self._steps + 1, self._samples + samples, self._wholes + whole
        size = 0 if shard is None else len(block_partition(samples, self.num_shards, shard))
        if 0 < size < samples and math.isfinite(square):
            share = size / samples
            self._measure((square / size - share * whole) / (1 - share))

    def _measure(self, noise: float) -> None:
        """Add an estimate of tr(Sigma), and that of |G|^2 by it and the batches since the last one."""
        signal = (self._wholes - self._steps * noise) / self._samples
        self.noise = DECAY * self.noise + (1 - DECAY) * noise
        self.signal = DECAY * self.signal + (1 - DECAY) * signal
        self._steps, self._samples, self._wholes = 0, 0, 0.0

    @property
    def value(self) -> float | None:
        """In samples; None before the first measurement, and while the noise hides the gradient."""
        return self.noise / self.signal if self.signal > 0 and self.noise >= 0 else None
