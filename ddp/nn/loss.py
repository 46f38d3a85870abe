"""Loss functions: sums over the batch, with their gradient by the network's output computed alongside."""

from __future__ import annotations

from typing import Any

import numpy as np

from ddp.kernels.shard_sum import sum_shards
from ddp.kernels.softmax import softmax_cross_entropy
from ddp.kernels.squared_error import squared_error
from ddp.kernels.types import Float32, Float64, Int64


class Loss:
    """What the two losses share: workspaces that grow to the largest batch seen."""

    def build(self, output_size: int, capacity: int) -> None:
        """Make the workspaces for batches of up to `capacity` outputs of `output_size` values."""
        self.losses = np.empty(capacity, np.float32)
        self.dy = np.empty((capacity, output_size), np.float32)

    def _workspace(self, y: Float32) -> tuple[Float32, Float32]:
        if not hasattr(self, "dy") or len(self.dy) < len(y) or self.dy.shape[1:] != y.shape[1:]:
            self.build(y.shape[1], len(y))
        self.num_samples = len(y)
        return self.losses[: len(y)], self.dy[: len(y)]

    def forward(self, y: Float32, t: Any) -> float:
        """The sum of the losses of outputs y against targets t."""
        raise NotImplementedError

    @property
    def sample_losses(self) -> Float32:
        """The losses of the last forward's samples: (B,), a view of the workspace."""
        return self.losses[: self.num_samples]

    def write_shards(self, shards: Int64, sums: Float64) -> None:
        """Write the sum of the last forward's losses over each logical shard: (S + 1,) int64 -> (S,) float64."""
        sum_shards(self.losses, shards, sums)

    def backward(self) -> Float32:
        """The gradient of the last forward's sum by the network's output: (B, O), a view of the workspace."""
        return self.dy[: self.num_samples]


class CrossEntropyLoss(Loss):
    """H(t, softmax(y)) = -log softmax(y)_t, summed over the batch.

    Its gradient is softmax(y) - t (slide "Composition of softmax and cross entropy").
    """

    def forward(self, y: Float32, t: Any) -> float:
        """The sum of the losses of outputs y (B, C) against labels t (B,).

        Raises:
            ValueError: if a label is missing, or is not one of the C classes.
        """
        t = np.asarray(t)
        if t.shape != y.shape[:1] or t.dtype.kind not in "iu":
            raise ValueError(f"labels of shape {t.shape}, type {t.dtype}: give {len(y)} integers, one a sample")
        if t.size and not 0 <= t.min() <= t.max() < y.shape[1]:
            raise ValueError(f"labels from {t.min()} to {t.max()}: the network has classes 0 to {y.shape[1] - 1}")
        t = t.astype(np.int64, copy=False)
        losses, dy = self._workspace(y)
        softmax_cross_entropy(y, t, losses, dy)
        return float(losses.sum(dtype=np.float64))


class MSELoss(Loss):
    """(y - t)^2 summed over outputs and batch (slide "A simple example (linear regression)").

    A sum, like every gradient here; PyTorch's of this name is a mean. Its gradient is 2 (y - t).
    """

    def forward(self, y: Float32, t: Any) -> float:
        """The sum of the squared errors of outputs y (B, O) against targets t (B, O).

        Raises:
            ValueError: if the targets are not of the outputs' shape.
        """
        t = np.ascontiguousarray(t, np.float32)
        if t.shape != y.shape:
            raise ValueError(f"targets of shape {t.shape}: give one for each output, {y.shape}")
        losses, dy = self._workspace(y)
        squared_error(y, t, losses, dy)
        return float(losses.sum(dtype=np.float64))
