"""Stochastic gradient descent on flat buffers, and LARS."""

from __future__ import annotations

import numpy as np

from ddp.kernels.sgd import sgd_update
from ddp.kernels.types import Addends, Float32, Float64, GradientSum, Int64
from ddp.kernels.update import add_up
from ddp.optim.optimizer import Mask, Optimizer, trust_ratios


class SGD(Optimizer):
    """w = w - lr * d, where d is the gradient with weight decay and momentum, as torch.optim.SGD.

    With momentum 0 and no weight decay this is the slides' w = w - eta t(dL/dw), the t a transpose.

    With a trust coefficient c it is LARS: a tensor's learning rate is multiplied by c |w| / (|g| + weight_decay |w|),
    and the velocity includes the learning rates of its steps.
    Source: Y. You, I. Gitman, B. Ginsburg, "Large Batch Training of Convolutional Networks", 2017, algorithm 1.
    """

    def __init__(
        self,
        parameters: Float32,
        sums: GradientSum | Addends,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | Float32 = 0.0,
        blocks: Int64 | None = None,
        velocity: Float32 | None = None,
        dampening: float = 0.0,
        trust_coefficient: float = 0.0,
        adapts: Mask | None = None,
    ) -> None:
        """Take the buffers to update.

        Args:
            parameters: see `Optimizer`.
            sums: see `Optimizer`.
            momentum: factor on the previous direction, in [0, 1).
            nesterov: whether to look ahead along the new direction.
            weight_decay: factor of the parameters added to their gradient; of all tensors, or (T,) of each.
            blocks: see `Optimizer`.
            velocity: (N,) zeros, memory for the previous direction; default: its own.
            dampening: with momentum, 1 - dampening is the factor of the gradient in all steps but the first.
            trust_coefficient: of LARS; 0: plain SGD.
            adapts: (T,) which tensors LARS gives a learning rate of their own; default: all.
        """
        super().__init__(parameters, sums, weight_decay, blocks)
        self.momentum, self.nesterov, self.dampening = np.float32(momentum), nesterov, dampening if momentum else 0.0
        self.trust_coefficient, self.adapts = trust_coefficient, adapts
        self.is_layerwise = trust_coefficient > 0
        if not momentum:
            velocity = np.zeros(0, np.float32)
        elif velocity is None:
            velocity = np.zeros(parameters.size, np.float32)
        if momentum:
            self.state = {"momentum": velocity}
        self._velocity = velocity

    def _measure(self, scales: Float32, addends: Addends) -> Float64:
        add_up(*addends, self.blocks, scales, self._lanes, self.squares)
        return self.squares

    def _update(self, addends: Addends, blocks: Int64, scales: Float32, lr: float, norms: Float64 | None) -> None:
        gain = 1 - self.dampening if self.steps else 1.0
        gains: Float32 = np.full(len(scales), gain, np.float32)
        rates: Float32 = np.full(len(scales), lr, np.float32)
        if self.is_layerwise:
            assert norms is not None
            gains, rates = self._local_rates(lr, norms), np.ones_like(rates)
        work = self._lanes, self.squares
        of_tensors = scales, self.weight_decays, gains, rates
        factors = self.momentum, self.nesterov
        sgd_update(self.parameters, *addends, self._velocity, blocks, *of_tensors, *factors, *work)

    def _local_rates(self, lr: float, norms: Float64) -> Float32:
        """(T,) the learning rate of each tensor by LARS, from the norms of parameters and gradient."""
        lengths, gradients = norms.T
        directions = gradients + self.weight_decays[: len(norms)] * lengths
        pairs = np.stack([lengths, directions], axis=1)
        return (lr * trust_ratios(pairs, self.adapts, self.trust_coefficient)).astype(np.float32)
