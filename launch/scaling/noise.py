"""What the gradient noise scale says of the batch.

Source: S. McCandlish et al., "An Empirical Model of Large-Batch Training", 2018.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def typical(steps: Sequence[Mapping[str, Any]]) -> float | None:
    """The median over the second half of a training, as it grows while a network learns.

    Args:
        steps: the `step` records; one without a number is from before the first, or of noise that hid the gradient:
            of a large scale.

    Returns:
        In samples; None if nothing was measured, or half of the records have no number.
    """
    records = [record["noise_scale"] for record in steps if "noise_scale" in record]
    values = list(itertools.dropwhile(lambda value: value is None, records))
    late = [math.inf if value is None else float(value) for value in values[len(values) // 2 :]]
    median = statistics.median(late) if late else math.inf
    return median if math.isfinite(median) else None


def advice(batch: int, noise_scale: float | None) -> str:
    """A sentence, of the noise scale that was measured with a batch; empty if none was."""
    if noise_scale is None:
        return ""
    return (
        f"The gradient noise scale in the second half of training with batch {batch} is about"
        f" **{in_samples(noise_scale)} samples**: a batch of so many takes about twice the fewest steps and twice the"
        " fewest samples; smaller ones save samples, much larger ones hardly save steps."
    )


def in_samples(noise_scale: float | None) -> str:
    """As precise as it is: two digits."""
    if noise_scale is None:
        return "-"
    rounded = float(f"{noise_scale:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
