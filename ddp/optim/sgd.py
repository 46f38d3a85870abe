"""Stochastic gradient descent on flat buffers."""

from __future__ import annotations

import numpy as np

from ddp.kernels.types import Float32
from ddp.kernels.update import sgd_update


class SGD:
    """w = w - lr * d, where d is the gradient with weight decay and momentum, as torch.optim.SGD.

    With momentum 0 and no weight decay this is the slides' w = w - eta t(dL/dw), the t a transpose.

    Attributes:
        state: buffers to keep in a checkpoint, by name, each laid out like the parameters.
    """

    def __init__(
        self,
        parameters: Float32,
        gradients: Float32,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        """Take the buffers to update.

        Args:
            parameters: (N,) changed by `step`.
            gradients: (N,) read by `step`: sums over the global batch.
            momentum: factor on the previous direction, in [0, 1).
            nesterov: whether to look ahead along the new direction.
            weight_decay: factor of the parameters added to their gradient.
        """
        self.parameters, self.gradients = parameters, gradients
        self.momentum, self.nesterov, self.weight_decay = momentum, nesterov, weight_decay
        velocity = np.zeros(parameters.size if momentum else 0, np.float32)
        self.state: dict[str, Float32] = {"momentum": velocity} if momentum else {}
        self._velocity = velocity

    def step(self, lr: float, scale: float) -> None:
        """Update the parameters in one pass.

        Args:
            lr: learning rate of this step.
            scale: what the gradient sums are multiplied with: 1 / samples for the mean loss.
        """
        self._update(self.parameters, self.gradients, self._velocity, lr, scale)

    def warm_up(self) -> None:
        """Compile the kernel without touching parameters or state."""
        one = np.zeros(1, np.float32)
        self._update(one, one.copy(), np.zeros(1 if self.momentum else 0, np.float32), 0.0, 0.0)

    def _update(self, w: Float32, g: Float32, v: Float32, lr: float, scale: float) -> None:
        sgd_update(w, g, v, scale, lr, self.momentum, self.nesterov, self.weight_decay)
