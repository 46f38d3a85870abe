"""Two-dimensional convolution, stride 1: cross-correlation with zeros outside the image.

Axes: B batch, H W input image, OH OW output image, IC OC channels, K kernel size;
OH = H + 2 * padding - K + 1, likewise OW. Images are channels-last, weights (K, K, IC, OC).

Padding 0 keeps only the windows that lie inside the image; padding (K - 1) / 2 with odd K is the
slides' convolution, whose output is as large as its input. (The slides' K is our (K - 1) / 2, and
their window indices run from -K to K; ours run from 0 and are shifted by the padding.) Each output
element is summed in one fixed order, whatever the batch or the threads.
"""

from __future__ import annotations

from ddp.kernels.jit import kernel, prange
from ddp.kernels.linear import linear_backward_bias
from ddp.kernels.types import Float32, Float64, Int64

__all__ = [
    "conv2d_backward_bias",
    "conv2d_backward_input",
    "conv2d_backward_weight",
    "conv2d_forward",
    "transpose_weight",
]


@kernel
def conv2d_forward(x: Float32, w: Float32, b: Float32, padding: int, y: Float32) -> None:
    """Write y = w * x + b, the cross-correlation of every image with the filters.

    Args:
        x: (B, H, W, IC) float32.
        w: (K, K, IC, OC) float32.
        b: (OC,) float32, or (0,) for no bias.
        padding: pixels of zeros around the image, >= 0.
        y: (B, OH, OW, OC) float32, overwritten.

    Source: slide "Convolution", y_{b,oc,i,j} = sum_{ic,i',j'} w_{oc,ic,i',j'} x_{b,ic,i+i',j+j'}.
    """
    B, H, W, IC = x.shape
    OH, OW, OC = y.shape[1:]
    K = w.shape[0]
    for row in prange(B * OH):
        s, i = row // OH, row % OH
        for j in range(OW):
            for oc in range(OC):
                y[s, i, j, oc] = b[oc] if b.shape[0] > 0 else 0
            for di in range(max(0, padding - i), min(K, H + padding - i)):
                for dj in range(max(0, padding - j), min(K, W + padding - j)):
                    for ic in range(IC):
                        x_pixel = x[s, i + di - padding, j + dj - padding, ic]
                        for oc in range(OC):
                            y[s, i, j, oc] += x_pixel * w[di, dj, ic, oc]


@kernel
def conv2d_backward_weight(x: Float32, dy: Float32, shards: Int64, padding: int, leaf: Float32, dw: Float64) -> None:
    """Write dw, the sum over the logical shards of each one's gradient by the weights.

    Args:
        x: (B, H, W, IC) float32.
        dy: (B, OH, OW, OC) float32.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        padding: as in the forward pass.
        leaf: (K, K, IC, OC) float32, workspace; holds the last shard's gradient afterwards.
        dw: (K, K, IC, OC) float64, overwritten; zero for an empty batch.

    Source: slide "Convolution (Back propagation)",
    dL/dw_{oc,ic,i',j'} = sum_{b,i,j} dL/dy_{b,oc,i,j} x_{b,ic,i+i',j+j'}.
    """
    H, W, IC = x.shape[1:]
    OH, OW, OC = dy.shape[1:]
    K = dw.shape[0]
    for ic in prange(IC):
        for tap in range(K * K):
            for oc in range(OC):
                dw[tap // K, tap % K, ic, oc] = 0
        for shard in range(shards.shape[0] - 1):
            for tap in range(K * K):
                for oc in range(OC):
                    leaf[tap // K, tap % K, ic, oc] = 0
            for s in range(shards[shard], shards[shard + 1]):
                for i in range(OH):
                    # All taps of one row of dy together, so that the row is fetched once and stays in L1.
                    for di in range(max(0, padding - i), min(K, H + padding - i)):
                        for dj in range(K):
                            for j in range(max(0, padding - dj), min(OW, W + padding - dj)):
                                x_pixel = x[s, i + di - padding, j + dj - padding, ic]
                                for oc in range(OC):
                                    leaf[di, dj, ic, oc] += x_pixel * dy[s, i, j, oc]
            for tap in range(K * K):
                for oc in range(OC):
                    dw[tap // K, tap % K, ic, oc] += leaf[tap // K, tap % K, ic, oc]


def conv2d_backward_bias(dy: Float32, shards: Int64, leaf: Float32, db: Float64) -> None:
    """Write db, the sum over the logical shards of each one's sum of dy over samples and pixels.

    Args:
        dy: (B, OH, OW, OC) float32, C-contiguous.
        shards: (S + 1,) int64, as for `conv2d_backward_weight`.
        leaf: (OC,) float32, workspace.
        db: (OC,) float64, overwritten; zero for an empty batch.

    Source: the slides have no bias; every pixel is a row of the linear layer's gradient by its bias.
    """
    B, OH, OW, OC = dy.shape
    linear_backward_bias(dy.reshape(B * OH * OW, OC), shards * (OH * OW), leaf, db)


@kernel
def transpose_weight(w: Float32, w_t: Float32) -> None:
    """Write w_t = w with its channel axes swapped, for `conv2d_backward_input`.

    Args:
        w: (K, K, IC, OC) float32.
        w_t: (K, K, OC, IC) float32, overwritten.
    """
    K, _, IC, OC = w.shape
    for tap in prange(K * K):
        di, dj = tap // K, tap % K
        for oc in range(OC):
            for ic in range(IC):
                w_t[di, dj, oc, ic] = w[di, dj, ic, oc]


@kernel
def conv2d_backward_input(dy: Float32, w_t: Float32, padding: int, dx: Float32) -> None:
    """Write dx, the gradient by the input.

    Args:
        dy: (B, OH, OW, OC) float32.
        w_t: (K, K, OC, IC) float32, from `transpose_weight`.
        padding: as in the forward pass.
        dx: (B, H, W, IC) float32, overwritten.

    Source: slide "Convolution (Back propagation)", its index set made explicit:
    dL/dx_{b,ic,p,q} = sum_{oc,i',j'} dL/dy_{b,oc,p-i',q-j'} w_{oc,ic,i',j'}.
    """
    B, H, W, IC = dx.shape
    OH, OW, OC = dy.shape[1:]
    K = w_t.shape[0]
    for row in prange(B * H):
        s, p = row // H, row % H
        for q in range(W):
            for ic in range(IC):
                dx[s, p, q, ic] = 0
            for di in range(max(0, p + padding - OH + 1), min(K, p + padding + 1)):
                for dj in range(max(0, q + padding - OW + 1), min(K, q + padding + 1)):
                    for oc in range(OC):
                        dy_pixel = dy[s, p + padding - di, q + padding - dj, oc]
                        for ic in range(IC):
                            dx[s, p, q, ic] += dy_pixel * w_t[di, dj, oc, ic]
