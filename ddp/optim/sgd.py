"""Stochastic gradient descent on flat buffers."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ddp.kernels.types import Float32, GradientSum, Int64
from ddp.kernels.update import LANES, make_blocks, sgd_update


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
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        slices: Iterable[slice] | None = None,
    ) -> None:
        """Take the buffers to update.

        Args:
            parameters: (N,) changed by `step`.
            sums: (N,) read by `step`: sums of gradients over the global batch, in float32 or fixed point.
            momentum: factor on the previous direction, in [0, 1).
            nesterov: whether to look ahead along the new direction.
            weight_decay: factor of the parameters added to their gradient.
            slices: where each of T parameter tensors lies in the buffers; default: one tensor.
        """
        self.parameters, self.sums = parameters, sums
        slices = [slice(0, parameters.size)] if slices is None else list(slices)
        self.blocks, self.num_tensors = make_blocks(slices), len(slices)
        self.factors = np.float32(momentum), nesterov, np.float32(weight_decay)
        velocity = np.zeros(parameters.size if momentum else 0, np.float32)
        self.state: dict[str, Float32] = {"momentum": velocity} if momentum else {}
        self._velocity = velocity
        self._lanes, self._squares = np.zeros((len(self.blocks), LANES)), np.zeros(len(self.blocks))

    def step(self, lr: float, scale: float | Float32) -> float:
        """Update the parameters in one pass.

        Args:
            lr: learning rate of this step.
            scale: what the sums, or those of each tensor, (T,), are multiplied by: 1 / samples for the mean loss.

        Returns:
            The norm of the gradient.
        """
        scales = np.full(self.num_tensors, scale, np.float32)
        self._update(self.blocks, np.float32(lr), scales)
        # Not a loop in the kernel: the compiler may add partial sums of such a loop in vector lanes.
        return math.sqrt(math.fsum(self._squares))

    def warm_up(self) -> None:
        """Compile the kernel without touching parameters or state."""
        self._update(self.blocks[:0], np.float32(0), np.ones(self.num_tensors, np.float32))

    def _update(self, blocks: Int64, lr: np.float32, scales: Float32) -> None:
        sgd_update(
            self.parameters, self.sums, self._velocity, blocks, scales, lr, *self.factors, self._lanes, self._squares
        )
