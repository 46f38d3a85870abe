"""The loss and the accuracy on a split, every sample counted exactly once over all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ddp.comm.agreement import GO_ON, Agreement
from ddp.comm.world import World
from ddp.data import Split
from ddp.nn import Loss, Sequential
from ddp.partition import block_partition

LARGEST_BATCH = 64
"""Samples of a forward pass, where training's own batches are smaller: larger ones are hardly faster."""
LARGEST_WORKSPACE = 100_000_000
"""Bytes up to which the workspaces may grow for evaluation alone."""


@dataclass(frozen=True)
class Evaluation:
    """Results over a whole split."""

    loss: float
    """Mean of the samples' losses."""
    accuracy: float | None
    """Fraction of samples whose largest output is their label; None for regression."""
    samples: int

    @property
    def quality(self) -> tuple[str, float]:
        """Name and value of what the run is judged by: `accuracy`, or `rmse` for regression."""
        return ("rmse", self.loss**0.5) if self.accuracy is None else ("accuracy", self.accuracy)

    def text(self) -> str:
        """The result in words."""
        name, value = self.quality
        return f"test accuracy {value:.2%}" if name == "accuracy" else f"test rmse {value:.4f}"


class Evaluator:
    """Evaluates a model on one split; owns the buffers for its batches.

    A sample's loss depends neither on its batch nor on its rank, so all ranks gather the losses themselves and add them
    in the samples' order: the result has the same bits on any number of ranks.
    """

    def __init__(self, world: World, split: Split, batch_size: int) -> None:
        """Take the split.

        Args:
            world: the ranks, which share the work by `block_partition`.
            split: the samples.
            batch_size: samples of one forward pass, the same on all ranks.
        """
        self.world, self.split, self.read_ahead = world, split, split.read_ahead
        self.mine = block_partition(len(split), world.size, world.rank)
        self.batch_size = batch_size
        self.buffer = split.make_buffer(batch_size)
        # A sample's loss is zero but on the rank that computes it, so that bits added as integers are the loss itself.
        self._integers = np.zeros(len(split) + 1, np.int32)
        self._losses, self._num_correct = self._integers[:-1].view(np.float32), self._integers[-1:]

    @property
    def rounds(self) -> int:
        """Batches of the rank that has the most samples, which is rank 0; the others may have an empty one."""
        return -(-len(block_partition(len(self.split), self.world.size, 0)) // self.batch_size)

    def warm_up(self) -> None:
        """Compile what gathers the samples."""
        self.split.gather(np.zeros(1, np.int64), self.buffer)

    def evaluate(self, model: Sequential, loss: Loss, agreement: Agreement | None = None) -> Evaluation:
        """Run the model forward on the split, without dropout; collective.

        Args:
            model: the network.
            loss: of its outputs.
            agreement: where the ranks report that the run is to stop; default: evaluation runs to its end.

        Raises:
            StopAgreed: on all ranks after the same batch, if a rank reports so.
        """
        agreement = agreement or Agreement(self.world, False, lambda: GO_ON)
        self._integers.fill(0)
        for number in range(self.rounds):
            with agreement.with_step():
                indices = np.array(self.mine[number * self.batch_size : (number + 1) * self.batch_size], np.int64)
                if len(indices):
                    self.read_ahead(indices)
                    inputs, targets = self.split.gather(indices, self.buffer)
                    outputs = model.forward(inputs, training=False)
                    loss.forward(outputs, targets)
                    self._losses[indices] = loss.sample_losses
                    self._num_correct += _num_correct(outputs, targets)
            agreement.check()
        self.world.all_reduce(self._integers, "sum of losses")
        samples = len(self.split)
        is_regression = self.split.targets.dtype == np.float32
        accuracy = None if is_regression else int(self._num_correct[0]) / samples
        return Evaluation(float(self._losses.sum(dtype=np.float64)) / samples, accuracy, samples)


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


def _num_correct(outputs: Any, targets: Any) -> int:
    if targets.dtype == np.float32:
        return 0
    return int(np.count_nonzero(outputs.argmax(axis=1) == targets))
