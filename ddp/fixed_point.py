"""The scales of gradient sums: what a step's gradients are multiplied by before they are rounded to integers.

Adding floating-point numbers gives other bits in another order, and so on another number of ranks. Integers add
exactly: every logical shard's gradient (a leaf) is multiplied by 2**e and rounded to an integer, the integers are
added by any ranks in any order, and the total is multiplied by 2**-e, once.

Each parameter tensor has its own e. With S shards a leaf may use 31 - log2(S) bits, so that no sum overflows. The
exponents follow the largest leaves of the steps before, with five bits to spare. Where a step's leaves do not fit
after all, or use too few bits, all ranks see that in the same report, and the step is computed again with the
exponents that fit. All of it depends on the leaves alone, thus not on the number of ranks.

Source of the idea: A. Sapio et al., "Scaling Distributed Machine Learning with In-Network Aggregation" (SwitchML),
NSDI 2021, who sum int32 with a scale for each block.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
import numpy.typing as npt

from ddp.kernels.types import Float32, Float64, GradientSum, Int64

SPARE_BITS = 5
"""The largest leaf may grow at least by 32 from a step to the next; with 8, dropout had 1 step of 30 repeated."""
FEWEST_BITS = 14
"""A largest leaf with so many bits fewer than allowed is computed again."""
EXPONENTS = range(-95, 121)
"""With the smallest, S leaves of 31 - log2(S) bits add up to less than 2**126: a larger sum counts as infinite."""


class Verdict(Enum):
    """What is to be done with a step's sums."""

    USE = "use"
    REPEAT = "repeat"
    """Compute the step again, after `adapt`."""
    NON_FINITE = "non-finite"
    """A leaf has a NaN or an infinity."""


class FloatScales:
    """For sums in float32: leaves are added as they are.

    Attributes:
        exponents: (T,) int64, one for each tensor: 0.
        inverses: (T,) float32, 2**-exponents: what a sum is multiplied by.
    """

    def __init__(self, scales: Float32) -> None:
        """Take the scales of the tensors (T,), which are set to 1."""
        self.scales, self.inverses = scales, np.ones_like(scales)
        self.exponents = np.zeros(scales.size, np.int64)
        scales.fill(1)

    def judge(self, largest: Float32) -> Verdict:
        """What to do with the sums of leaves, the largest of which are given: (T,)."""
        return Verdict.USE if np.isfinite(largest).all() else Verdict.NON_FINITE

    def adapt(self, largest: Float32, at_once: bool) -> None:
        """Nothing."""

    def leaves(self, shards: Int64) -> Int64:
        """Where each leaf begins in a rank's part of the batch, and the end: all its samples make one leaf."""
        return shards[[0, -1]]

    def set_exponents(self, exponents: npt.NDArray[np.int64]) -> None:
        """Nothing."""


class FixedPointScales(FloatScales):
    """For sums in int32.

    Attributes:
        bits: a leaf times its scale must be less than 2**bits - 1.
    """

    def __init__(self, scales: Float32, num_shards: int) -> None:
        """Take the scales of the tensors (T,), to be changed by `adapt`; and how many leaves are added.

        >>> FixedPointScales(np.ones(1, np.float32), 8).bits
        28
        """
        super().__init__(scales)
        self.bits = 31 - (num_shards - 1).bit_length()

    def judge(self, largest: Float32) -> Verdict:
        """What to do with sums whose largest leaves, times their scales, are given: (T,), infinities and NaN too."""
        too_large = largest.astype(np.float64) >= 2**self.bits - 1
        if np.isnan(largest).any() or (too_large & (self.exponents == EXPONENTS[0])).any():
            return Verdict.NON_FINITE
        could_be_finer = (largest > 0) & (self.exponents < EXPONENTS[-1])
        too_small = could_be_finer & (largest < 2.0 ** (self.bits - FEWEST_BITS))
        return Verdict.REPEAT if (too_large | too_small).any() else Verdict.USE

    def adapt(self, largest: Float32, at_once: bool) -> None:
        """Change the scales so that these leaves, times their new scales, lie below 2**(bits - 5) and not below half.

        A tensor whose leaves are all 0 keeps its scale; an infinite product says only that a smaller one is needed.

        Args:
            largest: (T,) of the leaves times their scales.
            at_once: whether scales may grow by more than 2: gradients that have become small may soon be large again.
        """
        _, power = np.frexp(largest)
        shift = np.where(largest > 0, self.bits - SPARE_BITS - power.astype(np.int64), 0)
        shift[np.isinf(largest)] = -64
        if not at_once:
            np.minimum(shift, 1, out=shift)
        self.set_exponents(np.clip(self.exponents + shift, EXPONENTS[0], EXPONENTS[-1]))

    def leaves(self, shards: Int64) -> Int64:
        """Where each leaf begins in a rank's part of the batch, and the end: its shards."""
        return shards

    def set_exponents(self, exponents: npt.NDArray[np.int64]) -> None:
        """Take exponents (T,), as of a checkpoint; of one without any, none."""
        if exponents.size:
            self.exponents[:] = exponents
        self.scales[:] = np.ldexp(np.float32(1), self.exponents)
        self.inverses[:] = np.ldexp(np.float32(1), -self.exponents)


def build_scales(exact: bool, scales: Float32, num_shards: int) -> FloatScales:
    """For the sums that `comm.exact` asks for."""
    return FixedPointScales(scales, num_shards) if exact else FloatScales(scales)


def sum_leaves(leaves: Float32 | Float64, scale: np.float32, total: GradientSum, largest: Int64) -> None:
    """Write the sum of leaves that a layer has computed whole, (S, ...), into its gradient.

    Args:
        leaves: of float32 numbers, one for each logical shard.
        scale: what they are multiplied by; if the total is int32 they are rounded then, ties to even.
        total: (...) float32 or int32, overwritten; zero without leaves.
        largest: (threads,) int64, one of which is raised to the bits of the largest |leaf * scale|, as a float32's.
    """
    scaled = leaves * scale
    with np.errstate(invalid="ignore"):  # what does not fit is told by the largest
        np.sum(np.rint(scaled) if total.dtype == np.int32 else scaled, axis=0, dtype=total.dtype, out=total)
    largest[0] = max(largest[0], np.abs(scaled).astype(np.float32).view(np.int32).max(initial=0))
