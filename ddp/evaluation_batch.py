"""How many samples to run forward at once, where nothing is learned from them."""

from __future__ import annotations

from ddp.nn import Sequential

LARGEST_BATCH = 64
"""Samples of a forward pass, where training's own batches are smaller: larger ones are hardly faster."""
LARGEST_WORKSPACE = 100_000_000
"""Bytes up to which the workspaces may grow for evaluation alone."""


def evaluation_batch(training: int, bytes_per_sample: int, samples: int) -> int:
    """How many samples to evaluate at once, in workspaces that are shared with training.

    At least as many as it trains on at once; more where those are few, since a pass costs time of its own, but
    only while the workspaces stay small.

    >>> evaluation_batch(8, 100_000, 10_000)
    64
    >>> evaluation_batch(8, 5_000_000, 10_000)
    20

    Args:
        training: samples of the largest batch that a rank trains on.
        bytes_per_sample: what one sample takes in the workspaces.
        samples: of the rank that has the most of the split.
    """
    return max(training, min(LARGEST_BATCH, LARGEST_WORKSPACE // max(1, bytes_per_sample), samples))


def batch_without_training(model: Sequential, sample_shape: tuple[int, ...], samples: int) -> int:
    """How many samples to run forward at once where nothing is trained; builds the model for 2.

    Args:
        model: the network.
        sample_shape: of its inputs.
        samples: that there are.
    """
    model.build(sample_shape, 1)
    for_one = model.workspace_bytes()  # with what does not grow with the batch, such as weights in another order
    model.build(sample_shape, 2)
    return evaluation_batch(1, model.workspace_bytes() - for_one, samples)
