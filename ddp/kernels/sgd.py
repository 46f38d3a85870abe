"""The update of the family of SGD: momentum, Nesterov's, dampening, and LARS by the factors of each tensor.

Axes: N parameters, M blocks of them, each within one of T parameter tensors.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Float64, GradientSum, Int64
from ddp.kernels.update import add_up_block, sum_of_squares

__all__ = ["sgd_update"]


@kernel
def sgd_update(
    w: Float32,
    rows: GradientSum,
    own: int,
    start: int,
    v: Float32,
    blocks: Int64,
    scales: Float32,
    weight_decays: Float32,
    gains: Float32,
    rates: Float32,
    momentum: np.float32,
    nesterov: bool,
    lanes: Float64,
    squares: Float64,
) -> None:
    """Update w and v by one SGD step, in one pass in float32.

    g = scale sum;  g' = gain (g + weight_decay w);  v = momentum v + g';
    d = g' + momentum v if nesterov else v (g' without momentum);  w = w - rate d.

    Args:
        w: (N,) float32, parameters, updated.
        rows: (R, stride) float32 or int32, whose sum over R is that of the shards' gradients, see
            `ddp.kernels.types.Addends`; row `own` is overwritten by it.
        own: which row.
        start: where in a row the parameters begin.
        v: (N,) float32, velocity, updated; (0,) when momentum is 0.
        blocks: (M, 3) int64, from `ddp.kernels.update.make_blocks`.
        scales: (T,) float32, what turns each tensor's sums into the gradient of the loss.
        weight_decays: (T,) float32, coefficients of the L2 penalty.
        gains: (T,) float32, 1 - dampening; of LARS the learning rate of each tensor, which the velocity then includes.
        rates: (T,) float32, the learning rate, the slides' eta; of LARS 1.
        momentum: 0 for none.
        nesterov: look ahead by one step of momentum.
        lanes: (M, LANES) float64, workspace.
        squares: (M,) float64, overwritten with each block's sum of g^2, in an order that no thread changes.

    Sources: slide "Stochastic Gradient Descent", w = w - eta dL/dw; torch.optim.SGD; Y. You et al., "Large Batch
    Training of Convolutional Networks", 2017, algorithm 1.
    """
    for m in prange(blocks.shape[0]):
        block, tensor = slice(blocks[m, 0], blocks[m, 1]), blocks[m, 2]
        scale, weight_decay, gain, rate = scales[tensor], weight_decays[tensor], gains[tensor], rates[tensor]
        w_m, v_m = w[block], v[block]  # counted from 0: the compiler then uses vectors
        sums_m = add_up_block(rows, own, start + blocks[m, 0], start + blocks[m, 1])
        squares[m] = sum_of_squares(sums_m, lanes[m]) * np.float64(scale) ** 2
        for n in range(w_m.size):
            d = gain * (np.float32(sums_m[n]) * scale + weight_decay * w_m[n])
            if v.size > 0:
                v_n = momentum * v_m[n] + d
                v_m[n] = v_n
                d = d + momentum * v_n if nesterov else v_n
            w_m[n] -= rate * d
