"""What a network says of samples, in batches; a sample's result does not depend on the others of its batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ddp.data import Split
from ddp.evaluation_batch import batch_without_training
from ddp.kernels.softmax import softmax_forward
from ddp.kernels.types import Float32, Int64
from ddp.nn import Sequential


class Predictor:
    """Predicts for samples of one split; owns the buffers for its batches."""

    def __init__(self, model: Sequential, split: Split, classes: bool) -> None:
        """Build the network for batches of a size that suits it.

        Args:
            model: the network; its workspaces are made anew.
            split: the samples; targets do not matter.
            classes: whether the outputs are scores of classes, to be made probabilities.
        """
        self.model, self.split, self.classes = model, split, classes
        self.batch_size = batch_without_training(model, split.sample_shape, len(split))
        model.build(split.sample_shape, self.batch_size)
        self.buffer = split.make_buffer(self.batch_size)

    @property
    def width(self) -> int:
        """Numbers that are predicted for a sample."""
        return int(self.model.output_shape[0])

    def predict(self, samples: range, out: Float32) -> None:
        """Predict for some samples of the split.

        Args:
            samples: which.
            out: (N, width) float32, of all samples of the split; the rows of `samples` are overwritten.
        """
        for start in range(samples.start, samples.stop, self.batch_size):
            stop = min(start + self.batch_size, samples.stop)
            inputs, _ = self.split.gather(np.arange(start, stop), self.buffer)
            outputs = self.model.forward(inputs, training=False)
            if self.classes:
                softmax_forward(outputs, out[start:stop])
            else:
                out[start:stop] = outputs

    def warm_up(self) -> None:
        """Compile every kernel; where the cache may lack one, hold `ddp.kernels.jit.exclusive_cache`."""
        self.predict(range(1), np.zeros((1, self.width), np.float32))


@dataclass(frozen=True)
class Mistake:
    """A sample that is taken for another class than its label's."""

    sample: int
    """Its number in the split."""
    label: int
    taken_for: int
    probability: float
    """Of the class that it is taken for."""


def surest_mistakes(probabilities: Float32, labels: Int64) -> list[Mistake]:
    """All mistakes, those of the highest probability first, of the same in the order of the samples.

    Args:
        probabilities: (N, classes) of each class.
        labels: (N,) the right classes.
    """
    taken_for = probabilities.argmax(axis=1)
    highest = probabilities.max(axis=1)
    wrong = np.flatnonzero(taken_for != labels)
    ordered = wrong[np.argsort(-highest[wrong], kind="stable")]
    return [Mistake(int(i), int(labels[i]), int(taken_for[i]), float(highest[i])) for i in ordered]
