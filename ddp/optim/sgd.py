"""Stochastic gradient descent on flat buffers."""

from __future__ import annotations

import math

import numpy as np

from ddp.kernels.types import Addends, Float32, Float64, GradientSum, Int64
from ddp.kernels.update import LANES, add_up, make_blocks, sgd_update


class SGD:
    """w = w - lr * d, where d is the gradient with weight decay and momentum, as torch.optim.SGD.

    With momentum 0 and no weight decay this is the slides' w = w - eta t(dL/dw), the t a transpose.

    Attributes:
        state: buffers to keep in a checkpoint, by name, each laid out like the parameters.
        squares: (M,) of the last step, the sum of the squares of the gradient in each block.
    """

    def __init__(
        self,
        parameters: Float32,
        sums: GradientSum | Addends,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        blocks: Int64 | None = None,
        velocity: Float32 | None = None,
    ) -> None:
        """Take the buffers to update.

        Args:
            parameters: (N,) changed by `step`.
            sums: (N,) read by `step`: sums of gradients over the global batch, in float32 or fixed point; or rows that
                `step` adds first.
            momentum: factor on the previous direction, in [0, 1).
            nesterov: whether to look ahead along the new direction.
            weight_decay: factor of the parameters added to their gradient.
            blocks: (M, 3) where the blocks of the parameter tensors lie in the buffers, from `make_blocks`; default:
                one tensor.
            velocity: (N,) zeros, memory for the previous direction; default: its own.
        """
        self.parameters = parameters
        self.addends = sums if isinstance(sums, Addends) else Addends(sums[np.newaxis])
        self.blocks = make_blocks([slice(0, parameters.size)]) if blocks is None else blocks
        self.factors = np.float32(momentum), nesterov, np.float32(weight_decay)
        if not momentum:
            velocity = np.zeros(0, np.float32)
        elif velocity is None:
            velocity = np.zeros(parameters.size, np.float32)
        self.state: dict[str, Float32] = {"momentum": velocity} if momentum else {}
        self._velocity = velocity
        self._lanes, self.squares = np.zeros((len(self.blocks), LANES)), np.zeros(len(self.blocks))

    def add_up(self, scale: Float32) -> Float64:
        """Add the rows of the sums before `step` does, for who must know the norm first.

        Args:
            scale: (T,) what the sums of each tensor are multiplied by.

        Returns:
            (M,) `squares`.
        """
        add_up(*self.addends, self.blocks, scale, self._lanes, self.squares)
        return self.squares

    def step(self, lr: float, scale: float | Float32, added_up: bool = False) -> float:
        """Update the parameters in one pass.

        Args:
            lr: learning rate of this step.
            scale: what the sums, or those of each tensor, (T,), are multiplied by: 1 / samples for the mean loss.
            added_up: whether `add_up` was called.

        Returns:
            The norm of the gradient; of a part of the parameters, of that part.
        """
        scales = np.asarray(scale, np.float32)
        if not scales.ndim:
            scales = np.full(int(self.blocks[:, 2].max(initial=-1)) + 1, scale, np.float32)
        rows, own, start = self.addends
        addends = Addends(rows[own : own + 1], 0, start) if added_up else self.addends
        self._update(addends, self.blocks, np.float32(lr), scales)
        return norm(self.squares)

    def warm_up(self) -> None:
        """Compile the kernels without touching parameters or state."""
        one = np.ones(1, np.float32)
        add_up(*self.addends, self.blocks[:0], one, self._lanes, self.squares)
        self._update(self.addends, self.blocks[:0], np.float32(0), one)

    def _update(self, addends: Addends, blocks: Int64, lr: np.float32, scales: Float32) -> None:
        work = self._lanes, self.squares
        sgd_update(self.parameters, *addends, self._velocity, blocks, scales, lr, *self.factors, *work)


def norm(squares: Float64) -> float:
    """The root of a sum that is rounded once, so that no order of the numbers changes it."""
    return math.sqrt(math.fsum(squares))
