"""What the gradient noise scale says of the batch.

Source: S. McCandlish et al., "An Empirical Model of Large-Batch Training", 2018.
"""

from __future__ import annotations


def advice(batch: int, noise_scale: float | None) -> str:
    """A sentence, of the noise scale that was measured with a batch; empty if none was."""
    if noise_scale is None:
        return ""
    return (
        f"The gradient noise scale at the end of training with batch {batch} is about"
        f" **{in_samples(noise_scale)} samples**: a batch of so many takes about twice the fewest steps and twice the"
        " fewest samples; smaller ones save samples, much larger ones hardly save steps."
    )


def in_samples(noise_scale: float | None) -> str:
    """As precise as it is: two digits."""
    if noise_scale is None:
        return "-"
    rounded = float(f"{noise_scale:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"
