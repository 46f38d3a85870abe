"""The loss and the accuracy on a split, every sample counted exactly once over all ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ddp.comm.agreement import GO_ON, Agreement
from ddp.comm.world import World
from ddp.data import Split
from ddp.nn import Loss, Sequential
from ddp.partition import block_partition

MOST_CONFUSED = 1000
"""Classes up to which the confusion matrix is counted, in memory that grows as their square: 4 MB."""


@dataclass(frozen=True)
class Evaluation:
    """Results over a whole split."""

    loss: float
    """Mean of the samples' losses."""
    accuracy: float | None
    """Fraction of samples whose largest output is their label; None for regression."""
    samples: int
    confusion: tuple[tuple[int, ...], ...] = ()
    """How many samples of each label (row) were taken for each class (column); empty where it was not counted."""
    class_samples: tuple[int, ...] = ()
    """How many samples each label has; empty where classes were not counted."""
    class_right: tuple[int, ...] = ()
    """How many of them were taken for it."""

    @property
    def class_accuracy(self) -> tuple[float | None, ...]:
        """Fraction of each label's samples that are taken for it; None where there are none."""
        counts = zip(self.class_right, self.class_samples, strict=True)
        return tuple(right / samples if samples else None for right, samples in counts)

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

    def __init__(self, world: World, split: Split, batch_size: int, num_classes: int = 0) -> None:
        """Take the split.

        Args:
            world: the ranks, which share the work by `block_partition`.
            split: the samples.
            batch_size: samples of one forward pass, the same on all ranks.
            num_classes: that are counted, in a confusion matrix if they are not more than MOST_CONFUSED; 0: none are.
        """
        self.world, self.split, self.read_ahead = world, split, split.read_ahead
        self.mine = block_partition(len(split), world.size, world.rank)
        self.batch_size = batch_size
        self.buffer = split.make_buffer(batch_size)
        # A sample's loss is zero but on the rank that computes it, so that bits added as integers are the loss itself.
        self.num_classes, end = num_classes, len(split)
        # Of each label, what it is taken for; of very many classes, only how many are wrong and how many right.
        self._columns = num_classes if num_classes <= MOST_CONFUSED else 2
        self._integers = np.zeros(end + max(1, num_classes * self._columns), np.int32)
        self._losses, self._counts = self._integers[:end].view(np.float32), self._integers[end:]

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
                    self._count(outputs, targets)
            agreement.check()
        self.world.all_reduce(self._integers, "sum of losses")
        return self._result()

    def _count(self, outputs: Any, targets: Any) -> None:
        """Count what a batch is taken for, or only what of it is right."""
        if targets.dtype == np.float32:
            return
        taken_for = outputs.argmax(axis=1)
        if self.num_classes:
            columns = taken_for if self.num_classes <= MOST_CONFUSED else (taken_for == targets).astype(np.int64)
            np.add.at(self._by_class, (targets, columns), 1)
        else:
            self._counts += np.count_nonzero(taken_for == targets)

    @property
    def _by_class(self) -> npt.NDArray[np.int32]:
        return self._counts.reshape(self.num_classes, self._columns)

    def _result(self) -> Evaluation:
        samples = len(self.split)
        loss = float(self._losses.sum(dtype=np.float64)) / samples
        if self.split.targets.dtype == np.float32:
            return Evaluation(loss, None, samples)
        if not self.num_classes:
            return Evaluation(loss, int(self._counts[0]) / samples, samples)
        counts, is_matrix = self._by_class, self.num_classes <= MOST_CONFUSED
        right, totals = (counts.diagonal() if is_matrix else counts[:, 1]), counts.sum(axis=1)
        confusion = tuple(map(tuple, counts.tolist())) if is_matrix else ()
        by_class = tuple(totals.tolist()), tuple(right.tolist())
        return Evaluation(loss, int(right.sum()) / samples, samples, confusion, *by_class)
