"""The update of the family of Adam: with the decay of AdamW, or with LAMB's rate of each tensor.

Axes: N parameters, M blocks of them, each within one of T parameter tensors.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.types import Float32, Float64, GradientSum, Int64
from ddp.kernels.update import LANES, add_up_block, sum_of_squares

__all__ = ["adam_update"]


@inline
def _direction(
    w: np.float32, m: np.float32, v: np.float32, c1: np.float32, c2: np.float32, eps: np.float32, decay: np.float32
) -> np.float32:
    d: np.float32 = c1 * m / (c2 * np.sqrt(v) + eps) + decay * w
    return d


@inline
def _squared_directions(
    w: Float32,
    m: Float32,
    v: Float32,
    c1: np.float32,
    c2: np.float32,
    eps: np.float32,
    decay: np.float32,
    lanes: Float64,
) -> float:
    """The sum of d^2 of one block, in the order of `sum_of_squares`."""
    whole = w.size - w.size % LANES
    for k in range(LANES):
        lanes[k] = 0
    for first in range(0, whole, LANES):
        w_f, m_f, v_f = w[first : first + LANES], m[first : first + LANES], v[first : first + LANES]
        for k in range(LANES):
            d = np.float64(_direction(w_f[k], m_f[k], v_f[k], c1, c2, eps, decay))
            lanes[k] += d * d
    total = 0.0
    for k in range(LANES):
        total += lanes[k]
    for n in range(whole, w.size):
        d = np.float64(_direction(w[n], m[n], v[n], c1, c2, eps, decay))
        total += d * d
    return total


@kernel
def adam_update(
    w: Float32,
    rows: GradientSum,
    own: int,
    start: int,
    m: Float32,
    v: Float32,
    blocks: Int64,
    scales: Float32,
    penalties: Float32,
    decays: Float32,
    rates: Float32,
    beta1: np.float32,
    rest1: np.float32,
    beta2: np.float32,
    rest2: np.float32,
    c1: np.float32,
    c2: np.float32,
    eps: np.float32,
    moves_moments: bool,
    moves_parameters: bool,
    lanes: Float64,
    squares: Float64,
    squared_directions: Float64,
) -> None:
    """Update m, v and w by one step, in one pass in float32; or m and v first, and w once the rates are known.

    g = scale sum + penalty w;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
    d = c1 m / (c2 sqrt(v) + eps) + decay w;  w = w - rate d,
    with c1 = 1 / (1 - beta1^t) and c2 = 1 / sqrt(1 - beta2^t) in step t = 1, 2, ...

    Adam has no decay, AdamW no penalty; LAMB's rates are lr |w| / |d|, with the norms of whole tensors.

    Args:
        w: (N,) float32, parameters, updated if `moves_parameters`.
        rows: (R, stride) float32 or int32, whose sum over R is that of the shards' gradients, see
            `ddp.kernels.types.Addends`; row `own` is overwritten by it if `moves_moments`, else none is read.
        own: which row.
        start: where in a row the parameters begin.
        m: (N,) float32, running mean of the gradients.
        v: (N,) float32, running mean of their squares.
        blocks: (M, 3) int64, from `ddp.kernels.update.make_blocks`.
        scales: (T,) float32, what turns each tensor's sums into the gradient of the loss.
        penalties: (T,) float32, coefficients of the L2 penalty.
        decays: (T,) float32, weight decay apart from the gradient.
        rates: (T,) float32, learning rates.
        beta1: weight of the past in m.
        rest1: 1 - beta1, rounded once.
        beta2: weight of the past in v.
        rest2: 1 - beta2.
        c1: what m is multiplied by because it began with 0.
        c2: what sqrt(v) is multiplied by for the same reason.
        eps: added to the denominator.
        moves_moments: whether to update m and v.
        moves_parameters: whether to update w.
        lanes: (M, LANES) float64, workspace.
        squares: (M,) float64, if `moves_moments` overwritten with each block's sum of the squared gradients.
        squared_directions: (M,) float64, unless `moves_parameters` overwritten with each block's sum of d^2.

    Sources: D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, algorithm 1; I. Loshchilov,
    F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2; Y. You et al., "Large Batch Optimization
    for Deep Learning: Training BERT in 76 Minutes", ICLR 2020, algorithm 2; torch.optim.Adam and AdamW.
    """
    for b in prange(blocks.shape[0]):
        block, tensor = slice(blocks[b, 0], blocks[b, 1]), blocks[b, 2]
        scale, penalty, decay, rate = scales[tensor], penalties[tensor], decays[tensor], rates[tensor]
        w_b, m_b, v_b = w[block], m[block], v[block]
        if moves_moments:
            sums_b = add_up_block(rows, own, start + blocks[b, 0], start + blocks[b, 1])
            squares[b] = sum_of_squares(sums_b, lanes[b]) * np.float64(scale) ** 2
            for n in range(w_b.size):
                g = np.float32(sums_b[n]) * scale + penalty * w_b[n]
                m_b[n] = beta1 * m_b[n] + rest1 * g
                v_b[n] = beta2 * v_b[n] + rest2 * (g * g)
        if moves_parameters:
            for n in range(w_b.size):
                w_b[n] -= rate * _direction(w_b[n], m_b[n], v_b[n], c1, c2, eps, decay)
        else:
            squared_directions[b] = _squared_directions(w_b, m_b, v_b, c1, c2, eps, decay, lanes[b])
