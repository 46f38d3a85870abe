"""Stochastic gradient descent on flat buffers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ddp.kernels.types import Float32, GradientSum, Int64
from ddp.kernels.update import make_blocks, sgd_update


class SGD:
    """w = w - lr * d, where d is the gradient with weight decay and momentum, as torch.optim.SGD.

    With momentum 0 and no weight decay this is the slides' w = w - eta t(dL/dw), the t a transpose.

    Attributes:
        state: buffers to keep in a checkpoint, by name, each laid out like the parameters.
    """

    def __init__(
        self,
        parameters: Float32,
        sums: GradientSum,
        slices: Iterable[slice],
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        """Take the buffers to update.

        Args:
            parameters: (N,) changed by `step`.
            sums: (N,) read by `step`: sums of gradients over the global batch, in float32 or fixed point.
            slices: where each of T parameter tensors lies in them.
            momentum: factor on the previous direction, in [0, 1).
            nesterov: whether to look ahead along the new direction.
            weight_decay: factor of the parameters added to their gradient.
        """
        self.parameters, self.sums, self.blocks = parameters, sums, make_blocks(slices)
        self.factors = np.float32(momentum), nesterov, np.float32(weight_decay)
        velocity = np.zeros(parameters.size if momentum else 0, np.float32)
        self.state: dict[str, Float32] = {"momentum": velocity} if momentum else {}
        self._velocity, self._squares = velocity, np.zeros(len(self.blocks))

    def step(self, lr: float, factors: Float32) -> float:
        """Update the parameters in one pass.

        Args:
            lr: learning rate of this step.
            factors: (T,) float32, what each tensor's sums are multiplied by to give the gradient of the loss.

        Returns:
            The norm of the gradient.
        """
        self._update(self.blocks, np.float32(lr), factors)
        # Not a loop in the kernel: the compiler may add partial sums of such a loop in vector lanes.
        return math.sqrt(math.fsum(self._squares))

    def warm_up(self) -> None:
        """Compile the kernel without touching parameters or state."""
        self._update(self.blocks[:0], np.float32(0), np.zeros(1, np.float32))

    def _update(self, blocks: Int64, lr: np.float32, factors: Float32) -> None:
        sgd_update(self.parameters, self.sums, self._velocity, blocks, factors, lr, *self.factors, self._squares)
