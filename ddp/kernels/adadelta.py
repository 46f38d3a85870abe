"""The update of AdaDelta.

Axes: N parameters, M blocks of them, each within one of T parameter tensors.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import kernel, prange
from ddp.kernels.types import Float32, Float64, GradientSum, Int64
from ddp.kernels.update import add_up_block, sum_of_squares

__all__ = ["adadelta_update"]


@kernel
def adadelta_update(
    w: Float32,
    rows: GradientSum,
    own: int,
    start: int,
    v: Float32,
    u: Float32,
    blocks: Int64,
    scales: Float32,
    weight_decays: Float32,
    lr: np.float32,
    rho: np.float32,
    rest: np.float32,
    eps: np.float32,
    lanes: Float64,
    squares: Float64,
) -> None:
    """Update w, v and u by one step of AdaDelta, in one pass in float32.

    g = scale sum + weight_decay w;  v = rho v + (1 - rho) g^2;  d = sqrt(u + eps) / sqrt(v + eps) g;
    u = rho u + (1 - rho) d^2;  w = w - lr d.

    Args:
        w: (N,) float32, parameters, updated.
        rows: (R, stride) float32 or int32, whose sum over R is that of the shards' gradients, see
            `ddp.kernels.types.Addends`; row `own` is overwritten by it.
        own: which row.
        start: where in a row the parameters begin.
        v: (N,) float32, running mean of the squared gradients, updated.
        u: (N,) float32, running mean of the squared steps, updated.
        blocks: (M, 3) int64, from `ddp.kernels.update.make_blocks`.
        scales: (T,) float32, what turns each tensor's sums into the gradient of the loss.
        weight_decays: (T,) float32, coefficients of the L2 penalty.
        lr: learning rate, 1 in the paper.
        rho: weight of the past in the running means.
        rest: 1 - rho, rounded once.
        eps: added under both roots.
        lanes: (M, LANES) float64, workspace.
        squares: (M,) float64, overwritten with each block's sum of the squared gradients, before decay.

    Sources: M. D. Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, algorithm 1; torch.optim.Adadelta.
    """
    for m in prange(blocks.shape[0]):
        block, tensor = slice(blocks[m, 0], blocks[m, 1]), blocks[m, 2]
        scale, weight_decay = scales[tensor], weight_decays[tensor]
        w_m, v_m, u_m = w[block], v[block], u[block]
        sums_m = add_up_block(rows, own, start + blocks[m, 0], start + blocks[m, 1])
        squares[m] = sum_of_squares(sums_m, lanes[m]) * np.float64(scale) ** 2
        for n in range(w_m.size):
            g = np.float32(sums_m[n]) * scale + weight_decay * w_m[n]
            v_n = rho * v_m[n] + rest * (g * g)
            d = np.sqrt(u_m[n] + eps) / np.sqrt(v_n + eps) * g
            u_m[n] = rho * u_m[n] + rest * (d * d)
            v_m[n] = v_n
            w_m[n] -= lr * d
