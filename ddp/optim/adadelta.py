"""AdaDelta on flat buffers."""

from __future__ import annotations

import numpy as np

from ddp.kernels.adadelta import adadelta_update
from ddp.kernels.types import Addends, Float32, Float64, GradientSum, Int64
from ddp.optim.optimizer import Optimizer


class AdaDelta(Optimizer):
    """As torch.optim.Adadelta: steps as long as the steps before, along gradients of unit size.

    Its state has PyTorch's names: `square_avg` and `acc_delta`.
    Source: M. D. Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012.
    """

    def __init__(
        self,
        parameters: Float32,
        sums: GradientSum | Addends,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float | Float32 = 0.0,
        blocks: Int64 | None = None,
        states: Float32 | None = None,
    ) -> None:
        """Take the buffers to update.

        Args:
            parameters: see `Optimizer`.
            sums: see `Optimizer`.
            rho: weight of the past in the running means, in [0, 1).
            eps: added under both roots, above 0.
            weight_decay: factor of the parameters added to their gradient; of all tensors, or (T,) of each.
            blocks: see `Optimizer`.
            states: (2, N) zeros, memory for the state; default: its own.
        """
        super().__init__(parameters, sums, weight_decay, blocks)
        self.factors = np.float32(rho), np.float32(1 - rho), np.float32(eps)
        states = np.zeros((2, parameters.size), np.float32) if states is None else states
        self._square_avg, self._acc_delta = states[0], states[1]
        self.state = {"square_avg": self._square_avg, "acc_delta": self._acc_delta}

    def _update(self, addends: Addends, blocks: Int64, scales: Float32, lr: float, norms: Float64 | None) -> None:
        state, of_tensors = (self._square_avg, self._acc_delta), (scales, self.weight_decays)
        factors, work = (np.float32(lr), *self.factors), (self._lanes, self.squares)
        adadelta_update(self.parameters, *addends, *state, blocks, *of_tensors, *factors, *work)
