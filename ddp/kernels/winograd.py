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

Patches are taken in blocks, and for each block the output channels in panels: the panel's weights are evaluated a
block of input channels at a time, multiplied while they are in the second-level cache, and its M is taken back at
once. Evaluating weights again for every block of patches costs less than reading their T T / 9 times as many numbers
from memory; where all of them stay in the cache it is done once. The
backward pass by input is the forward pass of dy with turned weights, as in `conv2d.py`. Zeros around an image
are made by the transform, so nothing is padded. Each patch's outputs are computed from that patch alone, in
one fixed order, whatever the batch, the block or the threads.
"""

from __future__ import annotations

from ddp.kernels.jit import inline, kernel, prange
from ddp.kernels.tile import ACCUMULATE, RELU, TILE_COLUMNS, TILE_ROWS, WITH_BIAS, tile_activation
from ddp.kernels.types import Float32
from ddp.kernels.vector import UNIT
from ddp.kernels.winograd_patches import count_outputs, evaluate_patches, locate_patch, num_blocks, prefetch_patch
from ddp.kernels.winograd_transform import transform_output, transform_output_masked, transform_weight
from ddp.kernels.winograd_workspace import SKEW

__all__ = ["winograd_backward_input", "winograd_forward"]

LANES = UNIT.lanes
AHEAD = 2  # patches


@inline
def _evaluate_weight(panels: Float32, panel: int, first: int, rows: int, columns: int, u: Float32, at: int) -> None:
    """Write U = G w G^T of some rows of a panel."""
    IC, width = panels.shape[3:]
    points, step = u.shape[2:]
    m = count_outputs(points)
    for row in range(rows):
        for lane in range(0, columns, LANES):
            transform_weight(
                m, columns - lane, panels, (panel * 9 * IC + first + row) * width + lane, 3 * IC * width, IC * width,
                0, 3, 0, 3, u, at * points * step + row * width + lane, (m + 2) * step, step, m + 2, m + 2,
                panels, 0, 0, 0, 0,
            )  # fmt: skip


@inline
def _multiply_panel(
    panels: Float32,
    panel: int,
    columns: int,
    count: int,
    is_first: bool,
    work: tuple[Float32, Float32, Float32],
    worker: int,
) -> None:
    """Write M_k = V_k U_k of a panel of output channels, for all points."""
    v, u, products = work
    points, IC, width = v.shape[1], panels.shape[3], panels.shape[4]
    depth, slots = (u.shape[3] - SKEW) // width, u.shape[1]
    depths = num_blocks(IC, depth)
    blocks = num_blocks(count, TILE_ROWS)
    for block in range(depths):
        ic = block * depth
        rows, slot = min(depth, IC - ic), (panel * depths + block) % slots
        if is_first or slots < depths * panels.shape[0]:
            _evaluate_weight(panels, panel, ic, rows, columns, u, worker * slots + slot)
        for k in range(points):
            at = worker * points + k
            for part in range(blocks):
                row, end = count * part // blocks, count * (part + 1) // blocks
                tile_activation(
                    v, at * v.shape[2] + (block * count + row) * depth, depth, 0, 0, 1,
                    u, ((worker * slots + slot) * points + k) * u.shape[3], 0, 0, width, 1, 1, rows,
                    end - row, columns, products, at * products.shape[2] + row * width, width,
                    v, 0, 0, ACCUMULATE if block > 0 else 0,
                )  # fmt: skip


@inline
def _share(worker: int, workers: int, patches: int, panels: int, largest: int) -> tuple[int, int, int, int]:
    """A worker's first and end patch, and first and end panel.

    Workers share the patches, and where those do not fill a block for each, the panels: patches evaluated twice
    cost less than weights.
    """
    groups = 1
    while 2 * groups <= panels and workers % (2 * groups) == 0 and patches * groups < largest * workers:
        groups *= 2
    parts, part, group = workers // groups, worker // groups, worker % groups
    return (
        patches * part // parts, patches * (part + 1) // parts, panels * group // groups, panels * (group + 1) // groups
    )  # fmt: skip


@kernel
def winograd_forward(
    x: Float32,
    padding: int,
    panels: Float32,
    b: Float32,
    relu: bool,
    work: tuple[Float32, Float32, Float32],
    y: Float32,
) -> None:
    """Write y = w * x + b, the cross-correlation of every image with the filters, or its ReLU.

    Args:
        x: (B, H, W, IC) float32, without zeros around.
        padding: zeros around the images, in pixels.
        panels: from `pack_weight`.
        b: (OC,) float32, or (0,) for no bias.
        relu: whether y is max(., 0) of it.
        work: V, U and M from `make_blocks`, overwritten; as many workers as should run in parallel.
        y: (B, OH, OW, OC) float32, overwritten; OH = H + 2 padding - 2, likewise OW.

    Source: slide "Convolution"; Lavin and Gray, arXiv 1509.09308, equation 12.
    """
    IC = x.shape[3]
    B, OH, OW, OC = y.shape
    v, u, products = work
    workers, points, step = products.shape
    depth = (u.shape[3] - SKEW) // TILE_COLUMNS
    m, largest, width = count_outputs(points), (step - SKEW) // TILE_COLUMNS, TILE_COLUMNS
    flags = (WITH_BIAS if b.shape[0] > 0 else 0) | (RELU if relu else 0)
    patches = (num_blocks(OH, m), num_blocks(OW, m))
    for worker in prange(workers):
        total = B * patches[0] * patches[1]
        start, end, first_panel, end_panel = _share(worker, workers, total, panels.shape[0], largest)
        for first in range(start, end, largest):
            count = min(largest, end - first)
            evaluate_patches(x, padding, patches, first, count, (0, IC), depth, v, worker)
            for panel in range(first_panel, end_panel):
                columns = min(width, OC - panel * width)
                _multiply_panel(panels, panel, columns, count, first == start, work, worker)
                for number in range(count):
                    s, i, j = locate_patch(first + number, patches, m)
                    channels = panel * width, panel * width + columns
                    prefetch_patch(y, first + number + AHEAD, patches, m, 0, m, channels)
                    for lane in range(0, columns, LANES):
                        oc = panel * width + lane
                        transform_output(
                            m, columns - lane, products, worker * points * step + number * width + lane,
                            (m + 2) * step, step, 0, m + 2, 0, m + 2, y, ((s * OH + i) * OW + j) * OC + oc,
                            OW * OC, OC, OH - i, OW - j, b, oc, 0, 0, flags,
                        )  # fmt: skip


@kernel
def winograd_backward_input(
    dy: Float32,
    padding: int,
    panels: Float32,
    y: Float32,
    work: tuple[Float32, Float32, Float32],
    dx: Float32,
) -> None:
    """Write dx, the gradient by the input, and if y is given, only where y > 0.

    Args:
        dy: (B, OH, OW, OC) float32, without zeros around.
        padding: of the forward pass.
        panels: from `turn_weight`.
        y: (B, H, W, IC) float32 output of the ReLU whose derivative is to be applied, or (0, H, W, IC).
        work: V, U and M from `make_blocks`, overwritten.
        dx: (B, H, W, IC) float32, overwritten.

    Source: slide "Convolution (Back propagation)", as `conv2d_backward_input`.
    """
    OC = dy.shape[3]
    B, H, W, IC = dx.shape
    v, u, products = work
    workers, points, step = products.shape
    depth = (u.shape[3] - SKEW) // TILE_COLUMNS
    m, largest, width = count_outputs(points), (step - SKEW) // TILE_COLUMNS, TILE_COLUMNS
    masked = 1 if y.shape[0] > 0 else 0
    patches = (num_blocks(H, m), num_blocks(W, m))
    for worker in prange(workers):
        total = B * patches[0] * patches[1]
        start, end, first_panel, end_panel = _share(worker, workers, total, panels.shape[0], largest)
        for first in range(start, end, largest):
            count = min(largest, end - first)
            evaluate_patches(dy, 2 - padding, patches, first, count, (0, OC), depth, v, worker)
            for panel in range(first_panel, end_panel):
                columns = min(width, IC - panel * width)
                _multiply_panel(panels, panel, columns, count, first == start, work, worker)
                for number in range(count):
                    s, i, j = locate_patch(first + number, patches, m)
                    channels = panel * width, panel * width + columns
                    prefetch_patch(dx, first + number + AHEAD, patches, m, 0, m, channels)
                    if masked:
                        prefetch_patch(y, first + number + AHEAD, patches, m, 0, m, channels)
                    for lane in range(0, columns, LANES):
                        at = ((s * H + i) * W + j) * IC + panel * width + lane
                        transform_output_masked(
                            m, columns - lane, products, worker * points * step + number * width + lane,
                            (m + 2) * step, step, 0, m + 2, 0, m + 2, dx, at, W * IC, IC, H - i, W - j,
                            y, at, W * IC, IC, masked,
                        )  # fmt: skip
