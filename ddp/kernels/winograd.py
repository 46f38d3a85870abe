"""3x3 convolution with fewer multiplications: Winograd's algorithm F(m x m, 3x3) on the FMA tile.

Axes: B batch, H W input image, OH OW output image, IC OC channels; T = m + 2 points a side, k = one of T T
points; t = a *patch*: T x T pixels of an image, whose m x m outputs are computed together.

A 3-tap filter over T pixels is a product of two polynomials, and a product of polynomials is one
multiplication for each of T points at which both are evaluated (Lavin and Gray, arXiv 1509.09308):

    V_k[t, ic] = (B^T x B)_k       evaluate the patches        `transform_input`
    U_k[ic, oc] = (G w G^T)_k      evaluate the filters        `transform_weight`
    M_k = V_k U_k                  T T matrix products         the tile
    y = A^T M A                    interpolate                 `transform_output`, bias, ReLU

For m = 4 that takes 36 multiplications a channel where the sum over taps takes 4 * 4 * 9 = 144. The price are
the transforms, which do not depend on the other side's number of channels, and a larger rounding error.

Patches are taken in blocks: a block's V and M stay in the second-level cache between the three steps. The
backward pass by input is the forward pass of dy with turned weights, as in `conv2d.py`. Zeros around an image
are made by the transform, so nothing is padded. Each patch's outputs are computed from that patch alone, in
one fixed order, whatever the batch, the block or the threads.
"""

from __future__ import annotations

import numpy as np

from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.tile import ACCUMULATE, RELU, TILE_COLUMNS, TILE_ROWS, WITH_BIAS, tile_activation
from ddp.kernels.types import Float32, Float64, Int64
from ddp.kernels.vector import UNIT
from ddp.kernels.winograd_transform import (
    transform_input,
    transform_output,
    transform_output_gradient,
    transform_output_masked,
    transform_weight,
    transform_weight_gradient,
)

__all__ = [
    "Workspace",
    "chunk_of_weight",
    "evaluate_weight",
    "make_block",
    "make_points",
    "winograd_backward_input",
    "winograd_backward_weight",
    "winograd_forward",
]

LANES = UNIT.lanes
SKEW = 16  # floats between a block's matrices: rows of different k must not all fall into one cache set
BLOCK = 2 * TILE_ROWS  # patches whose V and M stay in the second-level cache
LARGE_BLOCK = 8 * TILE_ROWS  # where U does not: every patch more saves reading it
LARGE_POINTS = 4_000_000  # bytes of such a U
CHUNK = 64  # channels a side of a chunk of dw: its products are 0.6 MB
SMALLEST_CHUNK = 16


def make_points(m: int, in_channels: int, out_channels: int) -> Float32:
    """Room for U: (T T, panels of TILE_COLUMNS output channels, IC, TILE_COLUMNS) float32."""
    panels = -(-out_channels // TILE_COLUMNS)
    return np.empty(((m + 2) ** 2, panels, in_channels, TILE_COLUMNS), np.float32)


def make_block(m: int, channels: int, patches: int, workers: int) -> Float32:
    """Room for V or M of a block of patches, for each worker: (workers, T T, patches * channels + skew) float32."""
    return np.empty((workers, (m + 2) ** 2, patches * channels + SKEW), np.float32)


def chunk_of_weight(in_channels: int, out_channels: int, workers: int) -> tuple[int, int]:
    """Input and output channels of a chunk of dw: the largest that leave every worker one, if possible."""
    chunk = [min(in_channels, CHUNK), min(out_channels, CHUNK)]
    while -(-in_channels // chunk[0]) * -(-out_channels // chunk[1]) < workers and max(chunk) > SMALLEST_CHUNK:
        larger = chunk.index(max(chunk))
        chunk[larger] = -(-chunk[larger] // (2 * SMALLEST_CHUNK)) * SMALLEST_CHUNK
    return chunk[0], chunk[1]


class Workspace:
    """What the three passes of one layer write in between, made once."""

    def __init__(self, m: int, in_channels: int, out_channels: int, workers: int) -> None:
        """Allocate.

        Args:
            m: rows of outputs of a patch, 2 or 4.
            in_channels: IC.
            out_channels: OC.
            workers: how many threads can share a pass.
        """
        self.weight = make_points(m, in_channels, out_channels)
        self.turned_weight = make_points(m, out_channels, in_channels)
        patches = LARGE_BLOCK if self.weight.nbytes > LARGE_POINTS else BLOCK
        self.inputs = make_block(m, in_channels, patches, workers)
        self.outputs = make_block(m, out_channels, patches, workers)
        self.chunk = chunk_of_weight(in_channels, out_channels, workers)
        self.chunk_inputs = make_block(m, self.chunk[0], BLOCK, workers)
        self.chunk_outputs = make_block(m, self.chunk[1], BLOCK, workers)
        self.chunk_products = make_block(m, self.chunk[0] * self.chunk[1], 1, workers)


@inline
def _outputs(points: int) -> int:
    """m, from the number of points T T."""
    return 4 if points == 36 else 2


@inline
def _locate(patch: int, patches: tuple[int, int], m: int) -> tuple[int, int, int]:
    """Sample, and row and column of the first output, of the patch of that number."""
    s, place = patch // (patches[0] * patches[1]), patch % (patches[0] * patches[1])
    return s, place // patches[1] * m, place % patches[1] * m


@inline
def _num_blocks(n: int, largest: int) -> int:
    """How many blocks of at most `largest` items hold n."""
    return (n + largest - 1) // largest


@kernel
def evaluate_weight(w: Float32, u: Float32) -> None:
    """Write U, the filters at all points.

    Args:
        w: (3, 3, IC, OC) float32.
        u: from `make_points`, overwritten.
    """
    IC, OC = w.shape[2:]
    points, panels, _, width = u.shape
    m = _outputs(points)
    for ic in prange(IC):
        for oc in range(0, OC, LANES):
            at = (oc // width * IC + ic) * width + oc % width
            step = panels * IC * width
            transform_weight(
                m, OC - oc, w, ic * OC + oc, 3 * IC * OC, IC * OC, 0, 3, 0, 3,
                u, at, (m + 2) * step, step, m + 2, m + 2, w, 0, 0, 0, 0,
            )  # fmt: skip


@inline
def _evaluate_patches(
    m: int,
    x: Float32,
    padding: int,
    patches: tuple[int, int],
    first: int,
    count: int,
    first_channel: int,
    channels: int,
    v: Float32,
    worker: int,
) -> None:
    """Write V of `count` patches and of some channels."""
    H, W, IC = x.shape[1:]
    step = v.shape[2]
    for number in range(count):
        s, i, j = _locate(first + number, patches, m)
        i, j = i - padding, j - padding
        for ic in range(0, channels, LANES):
            place = ((s * H + i) * W + j) * IC + first_channel + ic
            at = worker * v.shape[1] * step + number * channels + ic
            transform_input(
                m, channels - ic, x, place, W * IC, IC, -i, H - i, -j, W - j,
                v, at, (m + 2) * step, step, m + 2, m + 2, x, 0, 0, 0, 0,
            )  # fmt: skip


@inline
def _multiply(v: Float32, u: Float32, count: int, OC: int, products: Float32, worker: int) -> None:
    """Write M_k = V_k U_k for all points."""
    points, panels, IC, width = u.shape
    num_blocks = _num_blocks(count, TILE_ROWS)
    for k in range(points):
        v_at, m_at = (worker * points + k) * v.shape[2], (worker * points + k) * products.shape[2]
        for panel in range(panels):
            oc = panel * width
            for block in range(num_blocks):
                row, end = count * block // num_blocks, count * (block + 1) // num_blocks
                tile_activation(
                    v, v_at + row * IC, IC, 0, 0, 1, u, (k * panels + panel) * IC * width, 0, 0, width, 1, 1, IC,
                    end - row, min(width, OC - oc), products, m_at + row * OC + oc, OC, u, 0, 0, 0,
                )  # fmt: skip


@kernel
def winograd_forward(
    x: Float32, padding: int, u: Float32, b: Float32, relu: bool, v: Float32, products: Float32, y: Float32
) -> None:
    """Write y = w * x + b, the cross-correlation of every image with the filters, or its ReLU.

    Args:
        x: (B, H, W, IC) float32, without zeros around.
        padding: zeros around the images, in pixels.
        u: from `evaluate_weight`.
        b: (OC,) float32, or (0,) for no bias.
        relu: whether y is max(., 0) of it.
        v: from `make_block` for IC, overwritten; as many workers as should run in parallel.
        products: from `make_block` for OC, overwritten.
        y: (B, OH, OW, OC) float32, overwritten; OH = H + 2 padding - 2, likewise OW.

    Source: slide "Convolution"; Lavin and Gray, arXiv 1509.09308, equation 12.
    """
    IC = x.shape[3]
    B, OH, OW, OC = y.shape
    m = _outputs(u.shape[0])
    flags = (WITH_BIAS if b.shape[0] > 0 else 0) | (RELU if relu else 0)
    patches = (_num_blocks(OH, m), _num_blocks(OW, m))
    total, workers = B * patches[0] * patches[1], v.shape[0]
    largest, step = (v.shape[2] - SKEW) // IC, products.shape[2]
    for worker in prange(workers):
        end = total * (worker + 1) // workers
        for first in range(total * worker // workers, end, largest):
            count = min(largest, end - first)
            _evaluate_patches(m, x, padding, patches, first, count, 0, IC, v, worker)
            _multiply(v, u, count, OC, products, worker)
            for number in range(count):
                s, i, j = _locate(first + number, patches, m)
                for oc in range(0, OC, LANES):
                    transform_output(
                        m, OC - oc, products, worker * u.shape[0] * step + number * OC + oc, (m + 2) * step, step,
                        0, m + 2, 0, m + 2, y, ((s * OH + i) * OW + j) * OC + oc, OW * OC, OC, OH - i, OW - j,
                        b, oc, 0, 0, flags,
                    )  # fmt: skip


@kernel
def winograd_backward_input(
    dy: Float32, padding: int, u: Float32, y: Float32, v: Float32, products: Float32, dx: Float32
) -> None:
    """Write dx, the gradient by the input, and if y is given, only where y > 0.

    Args:
        dy: (B, OH, OW, OC) float32, without zeros around.
        padding: of the forward pass.
        u: from `evaluate_weight` of the turned weights.
        y: (B, H, W, IC) float32 output of the ReLU whose derivative is to be applied, or (0, H, W, IC).
        v: from `make_block` for OC, overwritten.
        products: from `make_block` for IC, overwritten.
        dx: (B, H, W, IC) float32, overwritten.

    Source: slide "Convolution (Back propagation)", as `conv2d_backward_input`.
    """
    OC = dy.shape[3]
    B, H, W, IC = dx.shape
    m = _outputs(u.shape[0])
    masked = 1 if y.shape[0] > 0 else 0
    patches = (_num_blocks(H, m), _num_blocks(W, m))
    total, workers = B * patches[0] * patches[1], v.shape[0]
    largest, step = (v.shape[2] - SKEW) // OC, products.shape[2]
    for worker in prange(workers):
        end = total * (worker + 1) // workers
        for first in range(total * worker // workers, end, largest):
            count = min(largest, end - first)
            _evaluate_patches(m, dy, 2 - padding, patches, first, count, 0, OC, v, worker)
            _multiply(v, u, count, IC, products, worker)
            for number in range(count):
                s, i, j = _locate(first + number, patches, m)
                for ic in range(0, IC, LANES):
                    at = ((s * H + i) * W + j) * IC + ic
                    transform_output_masked(
                        m, IC - ic, products, worker * u.shape[0] * step + number * IC + ic, (m + 2) * step, step,
                        0, m + 2, 0, m + 2, dx, at, W * IC, IC, H - i, W - j, y, at, W * IC, IC, masked,
                    )  # fmt: skip


@inline
def _evaluate_gradients(
    m: int,
    dy: Float32,
    patches: tuple[int, int],
    first: int,
    count: int,
    first_channel: int,
    channels: int,
    points: Float32,
    worker: int,
) -> None:
    """Write A dy A^T of `count` patches and of some channels."""
    OH, OW, OC = dy.shape[1:]
    step = points.shape[2]
    for number in range(count):
        s, i, j = _locate(first + number, patches, m)
        for oc in range(0, channels, LANES):
            place = ((s * OH + i) * OW + j) * OC + first_channel + oc
            at = worker * points.shape[1] * step + number * channels + oc
            transform_output_gradient(
                m, channels - oc, dy, place, OW * OC, OC, 0, OH - i, 0, OW - j,
                points, at, (m + 2) * step, step, m + 2, m + 2, dy, 0, 0, 0, 0,
            )  # fmt: skip


@inline
def _add_products(
    v: Float32, points: Float32, count: int, IC: int, OC: int, products: Float32, worker: int, flags: int
) -> None:
    """Write, or add to, the products' k-th matrix the sum over patches of V_k^T (A dy A^T)_k."""
    num_blocks = _num_blocks(IC, TILE_ROWS)
    for k in range(v.shape[1]):
        at = worker * v.shape[1] + k
        for oc in range(0, OC, TILE_COLUMNS):
            for block in range(num_blocks):
                ic, end = IC * block // num_blocks, IC * (block + 1) // num_blocks
                tile_activation(
                    v, at * v.shape[2] + ic, 1, 0, 0, IC, points, at * points.shape[2] + oc, 0, 0, OC, 1, 1, count,
                    end - ic, min(TILE_COLUMNS, OC - oc), products, at * products.shape[2] + ic * OC + oc, OC,
                    v, 0, 0, flags,
                )  # fmt: skip


@kernel
def winograd_backward_weight(
    x: Float32,
    padding: int,
    dy: Float32,
    shards: Int64,
    chunk: tuple[int, int],
    v: Float32,
    points: Float32,
    products: Float32,
    dw: Float64,
) -> None:
    """Write dw, the sum over the logical shards of each one's gradient by the weights.

    Each worker takes chunks of dw, so that a chunk's products stay in the second-level cache while all patches
    of a shard pass. The derivative of y = A^T [(G w G^T) * (B^T x B)] A by w, for a dy, is
    G^T [(B^T x B) * (A dy A^T)] G.

    Args:
        x: (B, H, W, IC) float32, without zeros around.
        padding: of the forward pass.
        dy: (B, OH, OW, OC) float32.
        shards: (S + 1,) int64, rising from 0 to B: where each shard begins, and the end.
        chunk: input and output channels of a chunk of dw.
        v: from `make_block` for the chunk's input channels, overwritten.
        points: from `make_block` for its output channels, overwritten.
        products: from `make_block` for the product of both and one patch, overwritten.
        dw: (3, 3, IC, OC) float64, overwritten; zero for an empty batch.

    Source: slide "Convolution (Back propagation)"; Lavin and Gray, arXiv 1509.09308, section 4.
    """
    OH, OW = dy.shape[1:3]
    IC, OC = dw.shape[2:]
    if shards[-1] == 0:
        for tap in range(9):
            for ic in range(IC):
                for oc in range(OC):
                    dw[tap // 3, tap % 3, ic, oc] = 0
        return
    workers, num_points, step = products.shape
    m = _outputs(num_points)
    patches = (_num_blocks(OH, m), _num_blocks(OW, m))
    largest, columns = (v.shape[2] - SKEW) // chunk[0], _num_blocks(OC, chunk[1])
    patches_of_sample = patches[0] * patches[1]
    num_chunks = _num_blocks(IC, chunk[0]) * columns
    for worker in prange(workers):
        for number in range(num_chunks * worker // workers, num_chunks * (worker + 1) // workers):
            ic, oc = number // columns * chunk[0], number % columns * chunk[1]
            width, height = min(chunk[1], OC - oc), min(chunk[0], IC - ic)
            is_later = 0
            for shard in range(shards.shape[0] - 1):
                start, end = shards[shard] * patches_of_sample, shards[shard + 1] * patches_of_sample
                if end > start:
                    for first in range(start, end, largest):
                        count = min(largest, end - first)
                        _evaluate_patches(m, x, padding, patches, first, count, ic, height, v, worker)
                        _evaluate_gradients(m, dy, patches, first, count, oc, width, points, worker)
                        flags = ACCUMULATE if first > start else 0
                        _add_products(v, points, count, height, width, products, worker, flags)
                    for row in range(height):
                        for column in range(0, width, LANES):
                            transform_weight_gradient(
                                m, width - column, products, worker * num_points * step + row * width + column,
                                (m + 2) * step, step, 0, m + 2, 0, m + 2, dw, (ic + row) * OC + oc + column,
                                3 * IC * OC, IC * OC, 3, 3, x, 0, 0, 0, is_later,
                            )  # fmt: skip
                    is_later = 1
