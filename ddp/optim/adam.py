"""Adam, AdamW and LAMB on flat buffers."""

from __future__ import annotations

import math

import numpy as np

from ddp.kernels.adam import adam_update
from ddp.kernels.types import Addends, Float32, Float64, GradientSum, Int64
from ddp.optim.optimizer import Mask, Optimizer, trust_ratios


class Adam(Optimizer):
    """As torch.optim.Adam, AdamW and, layer-wise, LAMB; its state has PyTorch's names, `exp_avg` and `exp_avg_sq`.

    LAMB is AdamW with a learning rate for each tensor, lr |w| / |d|, where d is AdamW's direction, decay included.
    Sources: D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015; I. Loshchilov, F. Hutter,
    "Decoupled Weight Decay Regularization", ICLR 2019; Y. You et al., "Large Batch Optimization for Deep Learning:
    Training BERT in 76 Minutes", ICLR 2020, with phi(z) = z.
    """

    def __init__(
        self,
        parameters: Float32,
        sums: GradientSum | Addends,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float | Float32 = 0.0,
        decoupled: bool = False,
        layerwise: bool = False,
        adapts: Mask | None = None,
        blocks: Int64 | None = None,
        states: Float32 | None = None,
    ) -> None:
        """Take the buffers to update.

        Args:
            parameters: see `Optimizer`.
            sums: see `Optimizer`.
            beta1: weight of the past in the mean of the gradients, in [0, 1).
            beta2: weight of the past in the mean of their squares, in [0, 1).
            eps: added to the denominator, above 0.
            weight_decay: factor of the parameters; of all tensors, or (T,) of each.
            decoupled: whether they are added to the direction, as by AdamW; else to the gradient.
            layerwise: whether each tensor has a learning rate of its own.
            adapts: (T,) which tensors have one, if `layerwise`; default: all.
            blocks: see `Optimizer`.
            states: (2, N) zeros, memory for the state; default: its own.
        """
        super().__init__(parameters, sums, weight_decay, blocks)
        self.betas, self.eps, self.adapts, self.is_layerwise = (beta1, beta2), np.float32(eps), adapts, layerwise
        none = np.zeros_like(self.weight_decays)
        self._decays = (none, self.weight_decays) if decoupled else (self.weight_decays, none)
        states = np.zeros((2, parameters.size), np.float32) if states is None else states
        self._mean, self._mean_square = states[0], states[1]
        self.state = {"exp_avg": self._mean, "exp_avg_sq": self._mean_square}
        self._directions = np.zeros(len(self.blocks))

    def _measure(self, scales: Float32, addends: Addends) -> Float64:
        self._call(addends, self.blocks, scales, np.zeros_like(scales), moments=True, parameters=False)
        return self._directions

    def _update(self, addends: Addends, blocks: Int64, scales: Float32, lr: float, norms: Float64 | None) -> None:
        rates = np.full(len(scales), lr)
        if self.is_layerwise:
            assert norms is not None
            rates = lr * trust_ratios(norms, self.adapts)
        self._call(addends, blocks, scales, rates.astype(np.float32), not self.is_layerwise, parameters=True)

    def _call(
        self, addends: Addends, blocks: Int64, scales: Float32, rates: Float32, moments: bool, parameters: bool
    ) -> None:
        (beta1, beta2), number = self.betas, self.steps + 1
        weights = np.float32(beta1), np.float32(1 - beta1), np.float32(beta2), np.float32(1 - beta2)
        corrections = np.float32(1 / (1 - beta1**number)), np.float32(1 / math.sqrt(1 - beta2**number))
        state, of_tensors = (self._mean, self._mean_square), (scales, *self._decays, rates)
        factors, flags = (*weights, *corrections, self.eps), (moments, parameters)
        work = self._lanes, self.squares, self._directions
        adam_update(self.parameters, *addends, *state, blocks, *of_tensors, *factors, *flags, *work)
